#!/usr/bin/env python3
"""Compare the engine of this plan with the golden outputs of the FP32 model.

    python3 verify.py                     model.engine, on the GPU of this machine
    python3 verify.py FILE                another engine
    python3 verify.py --diagnose          and, if it is beyond tolerance, is that the precision or the builder?

golden/ holds one pair of files per case (the smallest, usual and longest shapes): the inputs, and what the FP32 model
answers to them in ONNX Runtime with its optimizations off. Exit 0 within the plan's tolerance, 1 beyond it. A plan
without one is held to its own prediction: the relative L2 error below which it said that 95 of 100 devices stay.
Needs numpy and Python 3.8 or newer; TensorRT, Polygraphy 0.49 or newer and a GPU, or, for a plan for onnxruntime, that.
Written by precision-planner.
"""

import argparse
import glob
import importlib.util
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

sys.path.insert(0, HERE)
import judging.judge as judging  # noqa: E402
from judging.detections import Evidence  # noqa: E402
from judging.metrics import METRICS, json_number  # noqa: E402
from judging.verdict import grade_of, sentence_of  # noqa: E402

NOISE = 1e-5
"""Relative errors up to this are FP32's own, whatever was predicted."""

SHOWN = ("sad", "max_abs", "cosine", "top1", "new_nonfinite")


def own_metrics():
    """The metrics of the plan's author, from the files that were copied here."""
    found = {}
    for name, entry in PLAN.get("metrics", {}).items():
        if not entry.get("file"):
            raise SystemExit(
                "verify.py: the tolerance uses the metric %r, whose source could not be copied here; define it in a "
                "file and plan again with --metric FILE.py:%s" % (name, name)
            )
        path = os.path.join(HERE, entry["file"])
        spec = importlib.util.spec_from_file_location("metric_" + name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[name] = getattr(module, entry["function"])
    return found


def new_judge():
    """The judge that the plan was made by, with its tolerance."""
    bounds = [
        judging.Tolerance(entry["metric"], float(entry["bound"]), entry.get("output") or None)
        for entry in PLAN["tolerance"]
    ]
    evidence = Evidence.from_dict(PLAN.get("judging") or {})
    return judging.Judge(bounds, own_metrics(), evidence, METRICS.values())


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
    """Run every case; [(case, output, metrics, what is wrong)], printed as they come."""
    found = []
    total = new_judge()
    for name, inputs, golden in cases():
        outputs = {key: np.asarray(value) for key, value in infer(inputs).items()}
        total.add(golden, outputs)
        one = new_judge()
        one.add(golden, outputs)
        judgement = one.result()
        for output in judgement.outputs.values():
            wrong = told(judgement, output)
            metrics = dict(output.values, nonfinite=output.values["new_nonfinite"])
            found.append((name, output.name, metrics, wrong))
            values = ["%s %s" % (key, METRICS[key].told(output.values[key])) for key in SHOWN]
            print("%-12s %-24s %s  %s" % (name, output.name, "  ".join(values), "; ".join(wrong) or "ok"))
    judgement = total.result()
    for output, value, most in unlikely(judgement):
        text = "rel_l2 %.3g, predicted at most %.3g" % (value, most)
        if PLAN["tolerance"]:
            print("%-12s %-24s %s: within the tolerance is what counts" % ("all", output, text))
        else:
            found.append(("all", output, {}, ["BEYOND THE PREDICTION: " + text]))
            print("%-12s %-24s %s" % ("all", output, found[-1][3][0]))
    if found and not judgement.compared and not failed(found):
        found.append(("all", "", {}, ["NOTHING WAS COMPARED"]))
    print("%s: %s" % (grade_of(judgement).upper(), sentence_of(judgement, grade_of(judgement))))
    return found


def unlikely(judgement):
    """(output, relative L2 error, what it was predicted to stay below), where an output is further off than that."""
    quantiles = (PLAN.get("distribution") or {}).get("quantiles") or {}
    margin = float(PLAN["target_facts"].get("margin", 1.0))
    found = []
    for output in judgement.outputs.values():
        most = quantiles.get(output.name, {}).get("rel_l2")
        if most is None or not output.is_compared or output.detections is not None:
            continue
        value, most = float(output.values["rel_l2"]), margin * float(most)
        if not value <= most and value > NOISE:
            found.append((output.name, value, most))
    return found


def told(judgement, output):
    """What is wrong with an output: what it lost, and the bounds that it does not keep."""
    if output.problem is not None:
        return ["NOT COMPARABLE: " + output.problem.text]
    wrong = [] if output.is_finite else ["NOT FINITE"]
    if not judgement.compared and output.is_finite and output.detections is None:
        return wrong  # empty on both sides
    broken = [f for f in judgement.failures if f.output == output.name]
    if broken:
        bounds = ["%s %.3g, bound %.3g" % (f.metric, f.value, f.bound) for f in broken]
        wrong.append("BEYOND TOLERANCE: " + "; ".join(bounds))
    return wrong


def failed(found):
    return any(wrong for _, _, _, wrong in found)


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

        try:
            session = run.load_session()
        except Exception as error:  # onnxruntime's errors share no base class but this one
            raise SystemExit(
                "verify.py: onnxruntime cannot run this plan on this machine (%s); its CPU provider has no bfloat16 "
                "kernels, and no GPU's" % " ".join(str(error).split())
            ) from None
        names = [output.name for output in session.get_outputs()]
        found = check(lambda inputs: dict(zip(names, session.run(names, inputs))))
    else:
        found = check_engine(arguments.engine)
    if not found:
        raise SystemExit("verify.py: golden/ holds no cases, so nothing was compared")
    if arguments.json:
        data = [
            {"case": case, "output": output, "broken": b, **{key: json_number(value) for key, value in m.items()}}
            for case, output, m, b in found
        ]
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
    if not failed(found):
        return 0
    if arguments.diagnose and has_builder:
        import diagnose

        print(diagnose.diagnose(arguments.fp32_model, arguments.builds))
    else:
        print(
            "verify.py: the engine is beyond the plan's tolerance or prediction; verify.py --diagnose says whether the "
            "precision or the builder is to blame (it builds more engines)"
        )
    return 1


if __name__ == "__main__":
    sys.exit(main())
