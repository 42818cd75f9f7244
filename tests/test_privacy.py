"""Nothing leaves the machine: no sockets, no telemetry of onnxruntime, no host code of an engine unless asked."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

TEMPLATES = Path(__file__).resolve().parent.parent / "precision_planner" / "emitting" / "templates"
SECRET = "SECRETNAME"

WATCH = textwrap.dedent("""
    import os, socket, sys
    def heard(event, arguments):
        if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
            # dask and multiprocessing may talk to themselves; nothing here asks for either
            with open(os.environ["SOCKET_LOG"], "a") as file:
                file.write(f"{event} {arguments[1:]}\\n")
    sys.addaudithook(heard)
""")


def secret_model(path: Path) -> Path:
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32), f"{SECRET}_w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [f"{SECRET}_x", f"{SECRET}_w"], [f"{SECRET}_m"], f"{SECRET}_product"),
            helper.make_node("Softmax", [f"{SECRET}_m"], [f"{SECRET}_y"], f"{SECRET}_softmax"),
        ],
        f"{SECRET}_graph",
        [helper.make_tensor_value_info(f"{SECRET}_x", TensorProto.FLOAT, ["B", 64])],
        [helper.make_tensor_value_info(f"{SECRET}_y", TensorProto.FLOAT, ["B", 64])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.slow
def test_no_socket_is_opened_and_no_file_names_the_model(tmp_path: Path) -> None:
    """Each command and the scripts of a plan's folder, with a home of their own whose files are searched afterwards."""
    home, work = tmp_path / "home", tmp_path / "work"
    for folder in (home, work, tmp_path / "site"):
        folder.mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH)
    model = secret_model(work / f"{SECRET}.onnx")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    environment |= {"SOCKET_LOG": str(tmp_path / "sockets"), "PYTHONPATH": f"{tmp_path / 'site'}:{Path.cwd()}"}
    planner = [sys.executable, "-m", "precision_planner"]
    tolerance = ["--tolerance", "rel_l2=1e-9", "--budget", "2", "--jobs", "2"]
    for words in (
        [*planner, "analyze", model.name],
        [*planner, "rewrite", model.name, "-o", "r.onnx"],
        [*planner, "plan", model.name, "-o", "p", "--target", "onnxruntime", *tolerance],
        [*planner, "diff", model.name, "p", "--json", "d.json"],
        [sys.executable, "p/verify.py"],
    ):
        done = subprocess.run(
            list(map(str, words)), cwd=work, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode in (0, 1), (words, done.stderr[-800:])
        assert "Traceback" not in done.stderr, done.stderr[-800:]
    assert not (tmp_path / "sockets").exists(), (tmp_path / "sockets").read_text()
    assert not list(home.rglob("onnxruntime.db"))
    for path in home.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    # the watch hears what there is to hear
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(('127.0.0.1', 0))",
        ],
        env=environment,
        check=True,
    )
    assert "socket.bind" in (tmp_path / "sockets").read_text()


@pytest.mark.slow
def test_onnxruntime_would_keep_what_it_sends_otherwise(tmp_path: Path) -> None:
    """The test above can fail: with the setting of a user who wants telemetry, its store is there."""
    model = secret_model(tmp_path / f"{SECRET}.onnx")
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}
    words = [sys.executable, "-m", "precision_planner", "rewrite", str(model), "-o", str(tmp_path / "r.onnx")]
    subprocess.run(words, env=environment, capture_output=True, timeout=120, check=True)
    if not list(tmp_path.rglob("onnxruntime.db")):
        pytest.skip("this onnxruntime keeps nothing")


SCRIPTS = sorted(
    path.name
    for path in TEMPLATES.glob("*.py")
    if "onnxruntime" in path.read_text() or "polygraphy" in path.read_text()
)
"""What of a plan's folder imports onnxruntime, itself or by Polygraphy."""


def test_every_script_that_imports_it_is_known() -> None:
    assert set(SCRIPTS) >= {"build.py", "run.py", "verify.py"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_emitted_scripts_switch_it_off_before_anything_is_imported(name: str) -> None:
    text = (TEMPLATES / name).read_text()
    switch = text.index('os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")')
    for module in ("onnxruntime", "numpy", "polygraphy", "tensorrt"):
        at = text.find(f"import {module}")
        assert at < 0 or at > switch, module


def test_a_users_own_setting_wins() -> None:
    script = "import os, precision_planner; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, wanted in (({"ORT_DISABLE_TELEMETRY": "0"}, "0"), ({}, "1")):
        environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        done = subprocess.run(
            [sys.executable, "-c", script], env={**environment, **given}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == wanted


@pytest.mark.parametrize(("flags", "allowed"), [([], False), (["--allow-host-code"], True)])
def test_an_engines_own_code_runs_only_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], allowed: bool
) -> None:
    """By a stand-in for TensorRT, which remembers what it was allowed when it was given the engine."""
    from precision_planner.cli.main import main
    from precision_planner.engines import engine_file

    seen: list[bool] = []

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: object) -> None:
            pass

        def deserialize_cuda_engine(self, data: bytes) -> None:
            seen.append(self.engine_host_code_allowed)

    logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})
    package = SimpleNamespace(Runtime=Runtime, Logger=logger, __version__="10.6")
    monkeypatch.setattr(engine_file, "engine_origin", lambda data: ("tensorrt", "10.6"))
    monkeypatch.setattr(engine_file, "_load", lambda *given: package)
    monkeypatch.setattr(engine_file, "has_gpu", lambda: True)
    (tmp_path / "x.engine").write_bytes(b"engine")
    assert main(["inspect", str(tmp_path / "x.engine"), *flags]) == 2  # the stand-in cannot load it
    assert seen == [allowed]
