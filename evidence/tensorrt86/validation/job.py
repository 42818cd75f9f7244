#!/usr/bin/env python3
"""The processes of the validation on the GPU machine; orchestrate.py starts them.

    job.py prepare CASE_FOLDER WORK         the whole model, its inputs, and FP32's answers by onnxruntime
    job.py serve WORK OUT                   builds an engine for each job, a JSON line of stdin; writes OUT/ID.json
    job.py time WORK OUT ID...              times engines, one after the other, and adds it to their OUT/ID.json

Runs under Python 3.8 to 3.10 with tensorrt 8.6, polygraphy, numpy, onnx and onnxruntime; imports
nothing of the planner.
"""

import json
import os
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path[:0] = [HERE, os.path.dirname(HERE), ROOT]

import building  # noqa: E402
import metrics  # noqa: E402
import search  # noqa: E402
import seeded  # noqa: E402

SHOWN = 60
"""Layers of an engine that a result may list."""


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_json(path, value):
    """Whole or not at all: a reader never sees half a file."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(path + ".part", path)


def read_arrays(path):
    with np.load(path) as file:
        return dict(file)


def prepare(folder, work, is_searched):
    """Restore the model and compute its outputs in FP32 on the CPU; of a model that is searched every value."""
    import onnx
    import onnxruntime

    about = read_json(os.path.join(folder, "case.json"))
    target = os.path.join(work, about["case"])
    os.makedirs(target, exist_ok=True)
    if about.get("preset"):
        from examples.bert_classifier import PRESETS, build_bert_classifier

        model = build_bert_classifier(PRESETS[about["preset"]])
    else:
        model = seeded.load(folder)
    inputs = read_arrays(os.path.join(folder, "inputs.npz"))
    onnx.save(model, os.path.join(target, "model.onnx"))
    known = {output.name for output in model.graph.output}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    if is_searched:
        made = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output]
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 4
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(names, inputs)))
    np.savez(os.path.join(target, "inputs.npz"), **inputs)
    np.savez(os.path.join(target, "expected.npz"), **expected)
    if is_searched:
        shapes = {name: array.shape for name, array in expected.items() if array.dtype == np.float32}
        write_json(os.path.join(target, "values.json"), {"cuts": search.values(model, shapes), "shapes": shapes})
    found = {name: float(np.linalg.norm(expected[name])) for name in known}
    for name, (norm, _) in about["expected_norms"].items():
        if not abs(found[name] - norm) <= 1e-3 * norm:
            raise SystemExit(
                "%s of %s is not the one predicted: norm %g, not %g" % (name, about["case"], found[name], norm)
            )


def subject(job, folder, stem, expected):
    """(path of the model that a job builds, its inputs); `expected` is the case's file of values."""
    path = os.path.join(folder, "model.onnx")
    inputs = read_arrays(os.path.join(folder, "inputs.npz"))
    if "cut" not in job:
        return path, inputs
    import onnx

    shapes = read_json(os.path.join(folder, "values.json"))["shapes"]
    outputs = [job["cut"], *job.get("also", ())]
    model, names = search.cut(onnx.load(path), outputs, shapes, job.get("depth"), job.get("begin", ()))
    onnx.save(model, stem + ".onnx")
    return stem + ".onnx", {name: inputs[name] if name in inputs else expected[name] for name in names}


def build(job, work, log):
    """One engine: built, run once and compared."""
    import engine
    import tensorrt as trt

    folder = os.path.join(work, job["case"])
    stem = os.path.join(work, job["id"])
    result = {"id": job["id"], "case": job["case"], "kind": job["kind"], "job": job, "level": job.get("level", 3)}
    start = time.perf_counter()
    log.begin(stem + ".log")
    expected = np.load(os.path.join(folder, "expected.npz"))
    try:
        path, inputs = subject(job, folder, stem, expected)
        cache = os.path.join(folder, "timing-%d.cache" % result["level"])
        plan = building.build_engine(job, path, inputs, cache, log, result)
        result["build_s"] = round(time.perf_counter() - start, 1)
        result["engine_mb"] = round(len(plan) / 1e6, 2)
        with open(stem + ".engine", "wb") as file:
            file.write(plan)
        result["tensorrt"] = trt.__version__
        engine.REPEAT = 1
        outputs, _ = engine.run(plan, inputs, log)
        result["outputs"] = {name: metrics.compare(expected[name], array) for name, array in outputs.items()}
        result["verdict"] = metrics.verdict(result["outputs"])
        if result["verdict"] != "fine":  # what it is instead may say what went wrong
            np.savez_compressed(stem + ".wrong.npz", **{name: array[:1] for name, array in outputs.items()})
        result["counts"], layers = building.describe(plan, log)
        write_json(stem + ".layers", layers)
        if "cut" in job and len(layers) <= SHOWN:
            result["engine_layers"] = layers
    except (Exception, SystemExit) as error:  # whatever TensorRT raises is the result
        result["error"] = "%s: %s" % (type(error).__name__, str(error)[-500:])
    expected.close()
    with open(log.path, encoding="utf-8", errors="replace") as file:
        said = [line.strip()[:400] for line in file if line.startswith(("[WARNING]", "[ERROR]", "[INTERNAL_ERROR]"))]
    result["said"] = said[: 4 if "cut" in job else 25]
    return result


def serve(work, out):
    """Build what comes, one after the other: the first engine of a process takes half a minute, the next ones seconds.

    A line DONE goes out for every job. The process ends after an error that leaves the GPU's context unusable.
    """
    import engine
    import tensorrt as trt
    from polygraphy import cuda

    class Log(engine.Log):
        """TensorRT keeps the first logger of a process: this one changes its file."""

        def __init__(self):
            super().__init__()
            self.path = os.devnull

        def begin(self, path):
            self.file.close()
            self.path, self.file = path, open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115

    log = Log()
    trt.Builder(log)  # loads TensorRT's libraries while the cases are still being prepared
    for line in sys.stdin:
        job = json.loads(line)
        result = build(job, work, log)
        write_json(os.path.join(out, job["id"] + ".json"), result)
        print("DONE", flush=True)
        if "error" in result:
            cuda.DeviceArray((1,), np.float32).copy_from(np.ones(1, np.float32)).free()  # raises: the context is lost


def time_engines(work, out, names):
    """Milliseconds a run, of one engine after the other."""
    import engine

    log = engine.Log()
    for name in names:
        path = os.path.join(out, name + ".json")
        result = read_json(path)
        with open(os.path.join(work, name + ".engine"), "rb") as file:
            plan = file.read()
        _, result["ms"] = engine.run(plan, read_arrays(os.path.join(work, result["case"], "inputs.npz")), log)
        write_json(path, result)


def main():
    action, rest = sys.argv[1], sys.argv[2:]
    if action == "prepare":
        prepare(rest[0], rest[1], "searched" in rest)
    elif action == "serve":
        serve(*rest)
    else:
        time_engines(rest[0], rest[1], rest[2:])


if __name__ == "__main__":
    main()
