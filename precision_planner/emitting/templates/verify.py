#!/usr/bin/env python3
"""Compare the engine of this plan with the golden outputs of the FP32 model.

    python3 verify.py                     model.engine, on the GPU of this machine
    python3 verify.py FILE                another engine

golden/ holds one pair of files per case (the smallest, usual and longest shapes): the inputs, and what the FP32 model
answers to them in ONNX Runtime with its optimizations off. Exit 0 within the plan's tolerance, 1 beyond it.
Needs TensorRT, Polygraphy 0.49 or newer, numpy and a GPU; Python 3.8 or newer. Written by precision-planner.
"""

import glob
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "plan.json"), encoding="utf-8") as _file:
    PLAN = json.load(_file)
if PLAN["target"] == "tensorrt-rtx":
    os.environ.setdefault("POLYGRAPHY_USE_TENSORRT_RTX", "1")

import numpy as np  # noqa: E402


def rows(array):
    """The array as [rows, values], float64: one row per index of the first axis."""
    array = np.asarray(array, np.float64)
    return array.reshape(array.shape[0], -1) if array.ndim and array.shape[0] else array.reshape(1, -1)


def measure(expected, actual):
    """The plan's metrics of one output, in float64. A NaN or infinity where the reference has none makes them NaN."""
    expected, actual = rows(expected), rows(actual)
    if expected.shape != actual.shape:
        raise SystemExit(
            "verify.py: the engine's output has %d x %d values, the golden one %d x %d"
            % (actual.shape + expected.shape)
        )
    error = np.abs(actual - expected)
    norm = np.linalg.norm(expected)
    product = np.linalg.norm(actual) * norm
    distance = np.linalg.norm(actual - expected)
    return {
        "sad": float(error.sum(axis=1).max()) if error.size else 0.0,
        "max_abs": float(error.max()) if error.size else 0.0,
        "mean_abs": float(error.mean()) if error.size else 0.0,
        "rel_l2": float(distance / norm) if norm else float(distance),
        "cosine": float((actual * expected).sum() / product) if product else float(distance == 0),
        "top1": float((actual.argmax(axis=1) == expected.argmax(axis=1)).mean()) if error.size else 1.0,
        "nonfinite": int((~np.isfinite(actual) & np.isfinite(expected)).sum()),
    }


LOWER_BOUNDS = ("cosine", "top1")


def beyond(metrics, output):
    """The tolerances of the plan that an output's metrics break; a NaN breaks every one."""
    broken = []
    for entry in PLAN["tolerance"]:
        if entry.get("output") not in (None, "", output):
            continue
        value, bound = metrics[entry["metric"]], entry["bound"]
        within = value >= bound if entry["metric"] in LOWER_BOUNDS else value <= bound
        if not within:
            broken.append("%s %.3g, bound %.3g" % (entry["metric"], value, bound))
    return broken


def cases():
    """(name, inputs, golden outputs) of every case."""
    for path in sorted(glob.glob(os.path.join(HERE, "golden", "*.inputs.npz"))):
        name = os.path.basename(path)[: -len(".inputs.npz")]
        with np.load(path) as inputs, np.load(path[: -len(".inputs.npz")] + ".outputs.npz") as outputs:
            yield name, dict(inputs), dict(outputs)


def main():
    import build
    from polygraphy.backend.common import BytesFromPath
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    build.load_plugins()
    engine = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "model.engine")
    if not os.path.exists(engine):
        raise SystemExit("verify.py: there is no %s; run build.py first" % engine)
    failed = False
    with TrtRunner(EngineFromBytes(BytesFromPath(engine))) as runner:
        for name, inputs, golden in cases():
            outputs = runner.infer(inputs, copy_outputs_to_host=True)
            for output, expected in golden.items():
                metrics = measure(expected, np.asarray(outputs[output]))
                broken = beyond(metrics, output)
                failed = failed or bool(broken) or metrics["nonfinite"] > 0
                print(
                    "%-12s %-24s SAD %.3g  max %.3g  cosine %.6f  top-1 %.1f %%  non-finite %d  %s"
                    % (
                        name,
                        output,
                        metrics["sad"],
                        metrics["max_abs"],
                        metrics["cosine"],
                        100 * metrics["top1"],
                        metrics["nonfinite"],
                        "BEYOND TOLERANCE: " + "; ".join(broken) if broken else "ok",
                    )
                )
    if failed:
        print(
            "verify.py: the engine is beyond the plan's tolerance. If the plan predicted a pass (plan.json: passed), "
            "build an FP32 engine without TF32 from the original model and compare that: if it is wrong too, the "
            "fault is the builder's and not the precision."
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
