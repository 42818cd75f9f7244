"""Time and memory of `planner diff --layers` on a 12-layer BERT base, beside one plain inference.

    python -m benchmarks.diff_layers [--rows 4]

Memory is anonymous memory (mapped files are the kernel's to drop), sampled every 20 ms.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import onnx

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.model import Model
from precision_planner.model.session import Session


def anonymous_gb() -> float:
    """Anonymous memory of this process, GB (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1e6


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4)
    rows = parser.parse_args().rows
    spec = PRESETS["base"]
    peak = [0.0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base.onnx"
        onnx.save(build_bert_classifier(spec), path)
        model, inputs = Model.load(path), sample_inputs(spec, rows=rows)
        with Session(model) as session:
            session.run(inputs)
            start = time.perf_counter()
            session.run(inputs)
            plain = time.perf_counter() - start
        print(f"plain FP32 inference, batch {rows} x {spec.sequence}: {plain:.2f} s")
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                peak[0] = max(peak[0], anonymous_gb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        for batches in (1, 3):
            start, peak[0] = time.perf_counter(), 0.0
            found = pp.diff(
                model, model, [inputs] * batches, simulate="fp16", semantics="fused", layers=True, self_check=False
            )
            took = time.perf_counter() - start
            print(f"diff --layers, {batches} batches, {len(found.layers)} values: {took:.1f} s, {peak[0]:.2f} GB")
        done.set()
        watcher.join()


if __name__ == "__main__":
    main()
