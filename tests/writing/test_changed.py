"""An input that is cut short or changed while it is read: one line, exit code 2, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

BEGIN = """
import os, sys, threading
import numpy as np
from precision_planner.cli import main as m
weights = sys.argv.pop(1)
def cut(): os.truncate(weights, 4096)
"""
STAGES = {
    # as soon as it is mapped: the reader of the structure, in Python, meets what is gone
    "mapped": """
from precision_planner.model import payloads
begin = payloads.MappedFile.__init__
def mapped(self, path): begin(self, path); cut()
payloads.MappedFile.__init__ = mapped
""",
    # while numpy reads, which has given the interpreter's lock away
    "census": """
from precision_planner.analysis import scan
real = scan.take_totals
def taken(*arguments): cut(); return real(*arguments)
scan.take_totals = taken
""",
    # within onnxruntime, on its own threads
    "run": """
from precision_planner.model import shared
real = shared.SharedSession.run_arrays
def run(self, feeds): cut(); return real(self, feeds)
shared.SharedSession.run_arrays = run
""",
    # the kernel reads for write(), and says EFAULT rather than send a signal
    "write": """
from precision_planner.model import files
real = files._write_pieces
def write(*arguments): cut(); return real(*arguments)
files._write_pieces = write
""",
}


def wide_model(path: Path, external: bool) -> Path:
    """Two products of 1024 x 1024; returns the file that its weights lie in."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(0, 0.03, (1024, 1024)).astype(np.float32), name) for name in "ab"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["m"]), helper.make_node("MatMul", ["m", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 1024])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=external, location="w.bin" if external else None)
    return path.with_name("w.bin") if external else path


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows cuts no mapped file short")
@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("stage", list(STAGES))
def test_weights_that_are_cut_short(tmp_path: Path, stage: str, external: bool) -> None:
    work, scratch = tmp_path / "work", tmp_path / "tmp"
    for folder in (work, scratch):
        folder.mkdir()
    weights = wide_model(work / "m.onnx", external)
    words = {
        "mapped": ["analyze", "m.onnx"],
        "census": ["analyze", "m.onnx", "--json", "a.json"],
        "run": ["plan", "m.onnx", "-o", "p"],
        "write": ["rewrite", "m.onnx", "-o", "r.onnx", "--no-verify", "--keep-fp32", "*"],
    }[stage]
    before = sorted(path.name for path in work.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + STAGES[stage] + "m.run()", str(weights), *words],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    assert done.returncode == 2, (done.returncode, done.stderr)
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(errors) == 1, done.stderr
    assert f"{weights.name} was changed while it was being read" in errors[0]
    assert sorted(path.name for path in work.iterdir()) == before
    assert not list(scratch.iterdir())
