"""The weight census of a large model with external data: speed beside a memory copy, and memory.

    python -m benchmarks census

Writes a model of CENSUS_GB (default 3) gigabytes of float32 weights into a temporary folder, N(0, 0.03) as trained
weights are, and measures in one run, best of three each: a plain one-core copy of the same bytes in memory; the class
counts; the whole census of the mapped file as `planner analyze` takes it. Speeds are given as shares of the copy's. The
memory is what the census process and its helper hold that is not a mapped file (RssAnon), at the highest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

TARGETS = {"class counts": 0.6, "whole census": 0.15}
MEMORY_TARGET = 300e6
ROWS = 4096


def write_model(folder: Path, gigabytes: float) -> Path:
    """A chain of MatMuls whose weights, one external file, have the given size."""
    count = max(1, round(gigabytes * 1e9 / (ROWS * ROWS * 4)))
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((ROWS, ROWS), np.float32) * np.float32(0.03) for _ in range(4)]
    tensors, nodes, offset = [], [], 0
    with (folder / "model.onnx.data").open("wb") as file:
        for number in range(count):
            tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[ROWS, ROWS])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "model.onnx.data"), ("offset", offset), ("length", ROWS * ROWS * 4)):
                tensor.external_data.add(key=key, value=str(value))
            offset += file.write(memoryview(weights[number % len(weights)]).cast("B"))
            tensors.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"x{number}", f"w{number}"], [f"x{number + 1}"], f"n{number}"))
    value = [helper.make_tensor_value_info(f"x{at}", TensorProto.FLOAT, ["N", ROWS]) for at in (0, count)]
    graph = helper.make_graph(nodes, "chain", value[:1], value[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def best(work: Callable[[], object], repeat: int = 3) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


class AnonymousMemory:
    """The most anonymous memory that this process and its children hold while the block runs, in bytes."""

    def __enter__(self) -> AnonymousMemory:
        self.start = self._now()
        self.highest = self.start
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.highest = max(self.highest, self._now())

    def _now(self) -> int:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        return sum(_rss_anon(pid) for pid in [str(os.getpid()), *children])


def _rss_anon(pid: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # the child has ended in the meantime
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def measure(path: Path) -> dict[str, float]:
    """Seconds for a copy, the class counts and the whole census, the bytes, and the memory."""
    from precision_planner.analysis import scan
    from precision_planner.analysis.tensors import float_tensors
    from precision_planner.model import GraphIndex, Model
    from precision_planner.numerics import count_classes

    model = Model.load(path)
    tensors = float_tensors(GraphIndex(model.proto))
    arrays = [part for tensor in tensors for part in tensor.parts(model)]
    out = {"bytes": float(sum(array.nbytes for array in arrays))}
    out["class counts"] = best(lambda: count_classes(arrays))
    with AnonymousMemory() as memory:
        out["whole census"] = best(lambda: scan.take_census(model, tensors))
    out["memory"] = float(memory.highest)
    scan.HELP_FROM = sys.maxsize
    out["one process"] = best(lambda: scan.take_census(model, tensors), 2)
    whole = np.empty(int(out["bytes"]) // 4, np.float32)
    source = np.concatenate(arrays)
    out["copy"] = best(lambda: np.copyto(whole, source))
    return out


def main() -> None:
    gigabytes = float(os.environ.get("CENSUS_GB", "3"))
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder), gigabytes)
        script = (
            "import sys, json, pathlib, benchmarks.census as b; print(json.dumps(b.measure(pathlib.Path(sys.argv[1]))))"
        )
        done = subprocess.run([sys.executable, "-c", script, str(path)], check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    copy = result["bytes"] / result["copy"]
    print(f"{result['bytes'] / 1e9:.2f} GB of float32 weights in an external file, {os.cpu_count()} cores")
    print(f"{'one-core memory copy':24} {copy / 1e9:6.2f} GB/s")
    for name, target in TARGETS.items():
        speed = result["bytes"] / result[name]
        share = speed / copy
        verdict = "ok" if share >= target else "BELOW"
        print(f"{name:24} {speed / 1e9:6.2f} GB/s  {share:5.2f} of the copy (target {target}: {verdict})")
    alone = result["bytes"] / result["one process"]
    print(f"{'  in one process':24} {alone / 1e9:6.2f} GB/s  {alone / copy:5.2f} of the copy")
    verdict = "ok" if result["memory"] <= MEMORY_TARGET else "ABOVE"
    print(f"{'anonymous memory':24} {result['memory'] / 1e6:6.0f} MB  (target {MEMORY_TARGET / 1e6:.0f} MB: {verdict})")


if __name__ == "__main__":
    main()
