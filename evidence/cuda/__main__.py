"""Evaluate the typed sample classifiers by torch on a GPU and compare with the simulation; one JSON file.

    python -m evidence.cuda OUT.json [--presets massive,ffn] [--device cuda] [--rows 40] [--seconds 200]

Needs torch, onnx, numpy, onnxruntime (CPU) and what the package itself needs, and nothing else: the models are made
here. A case that fails or hangs costs itself alone; what was measured is in the file after every case.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import time
from pathlib import Path
from typing import Any

from evidence.cuda.cases import environment, measure
from evidence.cuda.table import tables

PRESETS = ("tiny-massive", "tiny-ffn", "massive", "ffn")
KINDS = ("plain", "fused", "ieee", "bf16", "fp32", "plan")
CASE_SECONDS = 100
"""A case without an answer after this is given up: a worker that crashed answers never."""


class Worker:
    """One process that takes one call at a time and can be given up."""

    def __init__(self) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(1)

    def call(self, function: Any, arguments: tuple[Any, ...], seconds: float) -> tuple[Any, str]:
        """(result, "") or (None, why there is none)."""
        answers: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
        self._pool.apply_async(
            function,
            arguments,
            callback=lambda result: answers.put((result, "")),
            error_callback=lambda error: answers.put((None, f"{type(error).__name__}: {error}")),
        )
        try:
            return answers.get(timeout=max(seconds, 0.1))
        except queue.Empty:
            self._pool.terminate()
            self._pool = multiprocessing.get_context("spawn").Pool(1)
            return None, f"no answer in {seconds:.0f} s"

    def close(self) -> None:
        """End the process."""
        self._pool.terminate()


def main() -> int:
    """Measure everything that fits into the time; 1 if anything is missing."""
    parser = argparse.ArgumentParser(prog="python -m evidence.cuda", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=200.0)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    report: dict[str, Any] = {"environment": {}, "results": [], "failed": []}
    worker = Worker()
    found, error = worker.call(environment, (options.device,), CASE_SECONDS)
    report["environment"] = found or {"error": error}
    print(json.dumps(report["environment"]), flush=True)
    for preset in options.presets.split(","):
        for kind in options.kinds.split(","):
            left = end - time.monotonic()
            if left < 1:
                result, error = None, "no time left"
            else:
                arguments = (preset, kind, options.device, options.rows)
                result, error = worker.call(measure, arguments, min(left, CASE_SECONDS))
            if result is None:
                report["failed"].append({"case": preset, "kind": kind, "error": error})
            else:
                report["results"].append(result)
            print(f"{preset} {kind}: {error or str(result['seconds']) + ' s'}", flush=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    worker.close()
    print("\n".join(tables(report)))
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
