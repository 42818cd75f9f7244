#!/usr/bin/env python3
"""Compare the engine of this plan with the golden outputs of the FP32 model.

    python3 verify.py                     model.engine, on the GPU of this machine
    python3 verify.py FILE                another engine
    python3 verify.py --diagnose          and, if it is beyond tolerance, is that the precision or the builder?

golden/ holds one pair of files per case (the smallest, usual and longest shapes): the inputs, and what the FP32 model
answers to them in ONNX Runtime with its optimizations off. Exit 0 within the plan's tolerance, 1 beyond it.
Needs numpy and Python 3.8 or newer; TensorRT, Polygraphy 0.49 or newer and a GPU, or, for a plan for onnxruntime, that.
Written by precision-planner.
"""

import argparse
import glob
import json
import os
import sys

# onnxruntime 1.29 and newer report what they load unless this is set; your own setting wins
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "plan.json"), encoding="utf-8") as _file:
    PLAN = json.load(_file)
if PLAN["target_facts"]["runtime"] == "tensorrt_rtx":
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
    with np.errstate(invalid="ignore", over="ignore"):
        # an infinity that the reference has too is no difference
        error = np.where(actual == expected, 0.0, np.abs(actual - expected))
        norm = np.linalg.norm(expected)
        product = np.linalg.norm(actual) * norm
        distance = np.linalg.norm(error)
        cosine = float((actual * expected).sum() / product) if product else float(distance == 0)
    return {
        "sad": float(error.sum(axis=1).max()) if error.size else 0.0,
        "max_abs": float(error.max()) if error.size else 0.0,
        "mean_abs": float(error.mean()) if error.size else 0.0,
        "rel_l2": float(distance / norm) if norm else float(distance),
        "cosine": cosine,
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
    """(name, inputs, golden outputs) of every case: smallest, usual, longest, then others by name."""
    order = ("smallest", "usual", "longest")
    paths = glob.glob(os.path.join(HERE, "golden", "*.inputs.npz"))
    found = {os.path.basename(path)[: -len(".inputs.npz")]: path for path in paths}
    for name in sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name)):
        path = found[name]
        with np.load(path) as inputs, np.load(path[: -len(".inputs.npz")] + ".outputs.npz") as outputs:
            yield name, typed(dict(inputs)), dict(outputs)


# where ONNX and numpy call a type differently: numpy's "float" is float64
ONNX_TYPES = {"float": "float32", "double": "float64"}


def typed(inputs):
    """The inputs in the types of the planned model: it may take FP16 where the FP32 model takes floats."""
    wanted = PLAN["interface"]["inputs"]
    bfloat16 = [name for name in inputs if wanted.get(name, {}).get("dtype") == "bfloat16"]
    if bfloat16:
        raise SystemExit("verify.py: numpy has no bfloat16, which input %s needs; plan with --io-types keep" % bfloat16)
    types = {name: ONNX_TYPES.get(entry["dtype"], entry["dtype"]) for name, entry in wanted.items()}
    return {name: np.asarray(array, types.get(name, array.dtype)) for name, array in inputs.items()}


def check(infer):
    """Run every case; [(case, output, metrics, broken tolerances)], printed as they come."""
    found = []
    for name, inputs, golden in cases():
        outputs = infer(inputs)
        for output, expected in golden.items():
            if output not in outputs:
                raise SystemExit("verify.py: the engine has no output %r; it is not this plan's" % output)
            metrics = measure(expected, np.asarray(outputs[output]))
            broken = beyond(metrics, output)
            found.append((name, output, metrics, broken))
            verdict = "BEYOND TOLERANCE: " + "; ".join(broken) if broken else "ok"
            if metrics["nonfinite"] and not broken:
                verdict = "NOT FINITE"
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
                    verdict,
                )
            )
    return found


def failed(found):
    return any(broken or metrics["nonfinite"] for _, _, metrics, broken in found)


def check_engine(path):
    """The cases on an engine file."""
    import build
    from polygraphy.backend.common import BytesFromPath
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    build.check_version()
    build.load_plugins()
    if not os.path.exists(path):
        raise SystemExit("verify.py: there is no %s; run build.py first" % path)
    with TrtRunner(EngineFromBytes(BytesFromPath(path))) as runner:
        wanted = runner.get_input_metadata()
        return check(lambda inputs: runner.infer(as_engine(inputs, wanted), copy_outputs_to_host=True))


def as_engine(inputs, wanted):
    """The inputs as the engine takes them: before TensorRT 10 an INT64 input of the model is INT32 in the engine."""
    found = {}
    for name, array in inputs.items():
        kind = getattr(wanted[name].dtype, "name", None) or str(wanted[name].dtype) if name in wanted else ""
        found[name] = array.astype(np.int32) if array.dtype == np.int64 and kind.lower() == "int32" else array
    return found


def main():
    parser = argparse.ArgumentParser(description="compare the engine of this plan with golden/")
    parser.add_argument("engine", nargs="?", default=os.path.join(HERE, "model.engine"))
    parser.add_argument("--diagnose", action="store_true", help="beyond tolerance: precision, or the builder?")
    parser.add_argument("--fp32-model", help="the original model, for --diagnose")
    parser.add_argument("--builds", type=int, default=16, help="the most engines --diagnose may build (%(default)s)")
    parser.add_argument("--json", help="write the metrics to this file")
    arguments = parser.parse_args()
    has_builder = PLAN["target_facts"]["has_builder"]
    if not has_builder:
        import run

        session = run.load_session()
        names = [output.name for output in session.get_outputs()]
        found = check(lambda inputs: dict(zip(names, session.run(names, inputs))))
    else:
        found = check_engine(arguments.engine)
    if not found:
        raise SystemExit("verify.py: golden/ holds no cases, so nothing was compared")
    if arguments.json:
        data = [{"case": case, "output": output, "broken": b, **m} for case, output, m, b in found]
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
    if not failed(found):
        return 0
    if arguments.diagnose and has_builder:
        import diagnose

        print(diagnose.diagnose(arguments.fp32_model, arguments.builds))
    else:
        print(
            "verify.py: the engine is beyond the plan's tolerance; verify.py --diagnose says whether the precision or "
            "the builder is to blame (it builds more engines)"
        )
    return 1


if __name__ == "__main__":
    sys.exit(main())
