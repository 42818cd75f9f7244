"""Make the cases: a model, 8 rows of 64 tokens, the FP32 answers, and the planner's folder for TensorRT 8.6.

    python -m benchmarks.rivals.cases OUT [PRESET...]

Needs no GPU; `gpu.sh` then measures them where TensorRT 8.6 is. The layout is that of `evidence.tensorrt86.cases`.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import precision_planner as pp
from evidence.tensorrt86.cases import TOLERANCE, reference
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs

ROWS, SEQUENCE = 8, 64
DEFAULT_PRESETS = ("tiny-massive", "tiny-ffn", "massive", "ffn")
GEMMS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def make_model(folder: Path, preset: str) -> None:
    """Model, inputs and FP32 answers."""
    spec = PRESETS[preset]
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(build_bert_classifier(spec), folder / "model.onnx")
    inputs = dict(sample_inputs(spec, rows=ROWS, sequence=SEQUENCE))
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "expected.npz", **reference(folder / "model.onnx", inputs))


def timed_plan(folder: Path, target: str) -> tuple[Any, dict[str, Any]]:
    """The planner's result on a case, and what it took: seconds, evaluations where it searched, nodes in FP32."""
    start = time.perf_counter()
    planned = pp.plan(folder / "model.onnx", target=target, inputs=folder / "inputs.npz", tolerance=TOLERANCE)
    seconds = time.perf_counter() - start
    plan = planned.plan.to_dict()
    kept = [node for node in plan["nodes"] if node["precision"] == "fp32"]
    return planned, {
        "seconds": round(seconds, 1),
        "evaluations": (plan.get("search") or {}).get("evaluations"),
        "constraints": len(plan["constraints"]),
        "fp32_gemms": sum(node["op_type"] in GEMMS for node in kept),
        "predicted_sad": plan["predicted"].get("probability", {}).get("sad"),
    }


def make_case(folder: Path, preset: str) -> str:
    """One case with its plan; a line about it."""
    make_model(folder, preset)
    planned, facts = timed_plan(folder, "tensorrt-8.6")
    planned.save(folder / "plan")
    (folder / "planner.json").write_text(json.dumps({"case": preset, **facts}) + "\n")
    return f"{preset}: {planned.summary}"


def main(arguments: list[str]) -> None:
    """Make the cases named, two at a time."""
    out = Path(arguments[0])
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(make_case, out / name, name) for name in arguments[1:] or DEFAULT_PRESETS]:
            print(future.result(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
