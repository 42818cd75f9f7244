"""FP16 conversion beside the peers: CPU seconds and anonymous memory, each tool in its own environment.

    python -m benchmarks conversion

Environments are made once, as .venv-bench-TOOL beside .venv; a tool whose packages cannot be installed is reported
as such. The best of three runs counts. Loading and saving are part of every figure, imports are not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
RUNS = 3
PEERS = {
    "onnxconverter_common": ["onnxconverter-common==1.16.0", "onnx==1.23.2"],
    "onnxruntime_float16": ["onnxruntime==1.32.0", "onnx==1.23.2", "sympy"],
    "modelopt_autocast": ["nvidia-modelopt[onnx]==0.47.0"],
}


def interpreter(tool: str) -> tuple[Path | None, str]:
    """The Python of a tool's environment, made where it is missing; (None, why) where that fails."""
    if tool not in PEERS:
        return Path(sys.executable), ""
    folder = ROOT / f".venv-bench-{tool}"
    python, stamp = folder / "bin" / "python", folder / ".complete"
    if not stamp.is_file():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *PEERS[tool]], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return None, (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        stamp.touch()
    return python, ""


def run(tool: str, model: Path, target: Path, runs: int = RUNS) -> dict[str, float] | str:
    """The best of several runs, or why there is none."""
    python, problem = interpreter(tool)
    if python is None:
        return problem
    best: dict[str, float] | None = None
    for _ in range(runs):
        done = subprocess.run(
            [python, ROOT / "benchmarks" / "_peers.py", tool, model, target],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(Path.home())},
        )
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["failed"])[-1]
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        if best is None or figures["cpu_s"] < best["cpu_s"]:
            best = figures
    assert best is not None
    return best


def bert(path: Path) -> None:
    """The sample classifier at BERT base's size: 350 MB, 25 LayerNorms."""
    from examples.bert_classifier.build import build_bert_classifier
    from examples.bert_classifier.spec import PRESETS

    onnx.save(build_bert_classifier(replace(PRESETS["base"], vocabulary=3000)), path)


def chain(path: Path, nodes: int) -> None:
    """A graph of many small nodes, for the growth with the number of nodes."""
    made = []
    for at in range(nodes // 4):
        made += [
            helper.make_node("MatMul", [f"v{at}", "w"], [f"a{at}"], name=f"/layer.{at}/MatMul"),
            helper.make_node("Add", [f"a{at}", "b"], [f"c{at}"], name=f"/layer.{at}/Add"),
            helper.make_node("Relu", [f"c{at}"], [f"d{at}"], name=f"/layer.{at}/Relu"),
            helper.make_node("Add", [f"d{at}", f"v{at}"], [f"v{at + 1}"], name=f"/layer.{at}/Residual"),
        ]
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info(f"v{nodes // 4}", TensorProto.FLOAT, ["N", 16])],
        [
            numpy_helper.from_array(np.eye(16, dtype=np.float32), "w"),
            numpy_helper.from_array(np.zeros(16, np.float32), "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def large(path: Path, gigabytes: int = 3) -> None:
    """A model with external data, written without ever holding it: layers of 64 MB."""
    rows = 4096
    layers = gigabytes * 16
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"v{at}", f"w{at}"], [f"v{at + 1}"]) for at in range(layers)],
        "large",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["N", rows])],
        [helper.make_tensor_value_info(f"v{layers}", TensorProto.FLOAT, ["N", rows])],
    )
    data = path.with_name(path.name + ".bin")
    block = (np.random.default_rng(0).standard_normal((rows, rows)) / 64).astype(np.float32)
    with data.open("wb") as file:
        for at in range(layers):
            tensor = graph.initializer.add(name=f"w{at}", dims=[rows, rows], data_type=TensorProto.FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", file.tell()), ("length", block.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            file.write(block.data)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, target = Path(folder) / "bert.onnx", Path(folder) / "out.onnx"
        bert(model)
        size = model.stat().st_size / 1e6
        nodes = len(onnx.load(model, load_external_data=False).graph.node)
        print(f"BERT, {size:.0f} MB, {nodes} nodes, 25 LayerNorms; load, convert, save")
        print(f"{'tool':24s}{'CPU s':>8s}{'wall s':>8s}{'anonymous MB':>14s}{'of the file':>13s}")
        for tool in ("numpy_cast", "planner", "planner_verified", *PEERS):
            _report(tool, run(tool, model, target), size)
        model.unlink()
        target.unlink(missing_ok=True)
        print("\ngrowth with the number of nodes (planner)")
        for count in (4000, 8000, 16000, 32000):
            chain(model, count)
            figures = run("planner", model, target)
            print(f"{count:8d} nodes  {figures['cpu_s'] if isinstance(figures, dict) else figures} s CPU")
        model.unlink()
        started = time.perf_counter()
        big = Path(folder) / "large.onnx"
        large(big)
        print(f"\n3 GB of external data (made in {time.perf_counter() - started:.0f} s)")
        _report("planner", run("planner", big, Path(folder) / "large.fp16.onnx", runs=1), 3221.0)


def _report(tool: str, figures: dict[str, float] | str, size: float) -> None:
    if isinstance(figures, str):
        print(f"{tool:24s}  not run: {figures[:100]}")
        return
    share = figures["anonymous_mb"] / size
    print(
        f"{tool:24s}{figures['cpu_s']:8.2f}{figures['wall_s']:8.2f}{figures['anonymous_mb']:14.0f}{share:12.2f}x",
        flush=True,
    )


if __name__ == "__main__":
    main()
