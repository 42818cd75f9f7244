"""What the system refuses is one line and exit code 2, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from precision_planner.cli.main import main
from tests.writing.test_writing import small_model


def _run(script: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["rewrite", "plan", "analyze"])
def test_a_full_disk(tmp_path: Path, command: str) -> None:
    """By a limit on the size of files, which fails in the same call."""
    model, out, scratch = small_model(tmp_path / "m.onnx"), tmp_path / "out", tmp_path / "tmp"
    scratch.mkdir()
    limited = (
        "import resource, sys; from precision_planner.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)); sys.exit(main(sys.argv[1:]))"
    )
    where = ["--json", out.with_suffix(".json")] if command == "analyze" else ["-o", out, "--no-verify"]
    done = _run(limited, command, model, *where, TMPDIR=str(scratch))
    assert done.returncode == 2, done.stderr
    assert [line for line in done.stderr.splitlines() if "error" in line] == [done.stderr.splitlines()[-1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "tmp"]
    assert not list(scratch.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(small_model(tmp_path / "m.onnx"))
    for words in (["analyze", model, "--json", "/proc/r.json"], ["rewrite", model, "-o", "/proc/r.onnx"]):
        assert main(words) == 2
        assert "cannot write" in capsys.readouterr().err.splitlines()[-1]


def test_no_temporary_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    words = ["rewrite", str(small_model(tmp_path / "m.onnx")), "-o", str(tmp_path / "r.onnx")]
    assert main(words) == 2
    assert "set TMPDIR" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]


@pytest.mark.slow
def test_a_limit_on_memory(tmp_path: Path) -> None:
    """2 GB of address space, the interpreter and its libraries included, for a batch of 4 GB (a file with a hole)."""
    model, data = small_model(tmp_path / "m.onnx"), tmp_path / "in.npy"
    with data.open("wb") as file:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (1 << 24, 64)}
        np.lib.format.write_array_header_1_0(file, shape)
        file.truncate(file.tell() + (1 << 32))
    limited = (
        "import resource, sys; from precision_planner.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)); sys.exit(main(sys.argv[1:]))"
    )
    done = _run(limited, "plan", model, "--inputs", data, "-o", tmp_path / "p")
    assert done.returncode == 2, done.stderr[-2000:]
    assert "out of memory" in done.stderr.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "m.onnx"]


def test_out_of_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from precision_planner.model import Model

    def none_left(source: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Model, "load", staticmethod(none_left))
    assert main(["analyze", str(tmp_path / "m.onnx")]) == 2
    assert capsys.readouterr().err.startswith("planner: error: out of memory")


@pytest.mark.slow
def test_sigterm_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    script = (
        "import sys, time\nfrom precision_planner.cli import main as m\nfrom precision_planner.writing import Scratch\n"
        "def slow(arguments):\n    held = Scratch()\n    (held.path / 'weights').write_bytes(b'x')\n"
        "    print('ready', flush=True)\n    time.sleep(60)\nm._invoke = slow\nm.run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert list(scratch.iterdir())
    started = time.monotonic()
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert error == "planner: terminated\n"
    assert time.monotonic() - started < 10
    assert not list(scratch.iterdir())
