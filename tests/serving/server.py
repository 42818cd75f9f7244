"""A real tritonserver on free loopback ports, from the environment that `make triton-server` makes.

Its TensorRT and onnxruntime backends are stood in for by `backends/tensorrt/model.py` (see there): the server, its
protocols, its batcher and its checks are NVIDIA's own.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = Path(os.environ.get("TRITON_VENV", ROOT / ".venv-triton"))
READY_S = 60.0
STOP_S = 15.0


@dataclass(frozen=True)
class Installation:
    """The server's environment, found."""

    program: Path
    backends: Path
    stub: Path
    libraries: tuple[Path, ...]
    programs: Path

    @property
    def environ(self) -> dict[str, str]:
        """What the server (and perf_analyzer) must be started with."""
        return {
            **os.environ,
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, self.libraries)),
        }


def find_installation() -> Installation | str:
    """The environment, or why there is none."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        return f"no Triton server: {ENVIRONMENT} is not there (make triton-server)"
    asked = "import sys, sysconfig; print(sys.base_prefix, sysconfig.get_path('purelib'), *sys.version_info[:2])"
    ran = subprocess.run([python, "-c", asked], capture_output=True, text=True, timeout=30, check=False)
    if ran.returncode:
        return f"no Triton server: {python} does not run"
    base, packages, major, minor = ran.stdout.split()
    server = Path(packages) / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / f"{major}.{minor}" / "triton_python_backend_stub"
    program = server / "bin" / "tritonserver"
    for path in (program, stub):
        if not path.is_file():
            return f"no Triton server: {path} is missing (make triton-server)"
    libraries = (Path(base) / "lib", Path(packages) / "nvidia_pytriton.libs")
    return Installation(program, server / "backends", stub, libraries, ENVIRONMENT / "bin")


@dataclass(frozen=True)
class RunningServer:
    """Where a started server listens, and what it wrote."""

    http: str
    grpc: str
    metrics: str
    log: Path

    @property
    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listened on a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [int(opened.getsockname()[1]) for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()


@contextmanager
def running(
    installation: Installation, repository: Path, scratch: Path, options: Sequence[str] = (), *, all_ready: bool = True
) -> Iterator[RunningServer]:
    """Start a server on a repository as it is, and stop it whatever happens.

    Args:
      installation: see `find_installation`.
      repository: loaded unmodified.
      scratch: an empty folder for backends and log.
      options: further ones of tritonserver.
      all_ready: wait until every model is ready; else until the server answers.
    """
    backends = scratch / "backends"
    shutil.copytree(installation.backends, backends)
    shutil.copy2(installation.stub, backends / "python")
    for name in ("tensorrt", "onnxruntime"):
        shutil.copytree(Path(__file__).parent / "backends" / "tensorrt", backends / name)
    http, grpc, metrics = free_ports(3)
    log = scratch / "server.log"
    command: list[str | Path] = [
        *(installation.program, "--model-repository", repository, "--backend-directory", backends),
        *("--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1", "--metrics-address", "127.0.0.1"),
        *("--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)),
        *("--disable-auto-complete-config", "--exit-timeout-secs", "5"),
        *("--backend-config", f"python,shm-region-prefix-name=planner{http}"),
        *(() if all_ready else ("--exit-on-error=false",)),
        *options,
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=installation.environ, start_new_session=True
        )
        try:
            server = RunningServer(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}", log)
            _wait(process, server, "ready" if all_ready else "live")
            yield server
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], server: RunningServer, state: str) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"tritonserver ended with {process.returncode}:\n{server.said[-4000:]}")
        try:
            with urllib.request.urlopen(f"http://{server.http}/v2/health/{state}", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"tritonserver was not {state} within {READY_S:g} s:\n{server.said[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and after a while the whole process group: the backend's stubs must not outlive the test."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
            return
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(STOP_S)


def metrics_of(server: RunningServer) -> Mapping[str, float]:
    """Prometheus' lines, by name and labels."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}
