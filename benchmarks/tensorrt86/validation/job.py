#!/usr/bin/env python3
"""One step of the validation on the GPU machine, in a process of its own.

    job.py prepare CASE_FOLDER WORK         the whole model, its inputs, and FP32's answers by onnxruntime
    job.py build JOB_JSON WORK OUT          builds an engine, runs it once, writes OUT/ID.json
    job.py time WORK OUT ID...              times engines, one after the other, and adds it to their OUT/ID.json

Runs under Python 3.8 to 3.10 with tensorrt 8.6, polygraphy, numpy, onnx and onnxruntime; imports
nothing of the planner.
"""

import json
import os
import re
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path[:0] = [HERE, os.path.dirname(HERE), ROOT]

import metrics  # noqa: E402
import seeded  # noqa: E402


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


def prepare(folder, work):
    """Restore the model and compute the outputs, and the values that a diagnosis marks, in FP32 on the CPU."""
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
    for value in sorted({v for steps in about.get("norms", []) for v in steps.values()} - known):
        model.graph.output.append(onnx.ValueInfoProto(name=value))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(names, inputs)))
    np.savez(os.path.join(target, "inputs.npz"), **inputs)
    np.savez(os.path.join(target, "expected.npz"), **expected)
    found = {name: float(np.linalg.norm(expected[name])) for name in known}
    for name, (norm, _) in about["expected_norms"].items():
        if not abs(found[name] - norm) <= 1e-3 * norm:
            raise SystemExit(
                "%s of %s is not the one predicted: norm %g, not %g" % (name, about["case"], found[name], norm)
            )


def _floats(layer, trt):
    """Numbers of the outputs whose type can be set."""
    numbers = []
    for number in range(layer.num_outputs):
        tensor = layer.get_output(number)
        if tensor.dtype in (trt.float32, trt.float16) and (tensor.is_execution_tensor or not tensor.is_shape_tensor):
            numbers.append(number)
    return numbers


def _constrain(layer, numbers, dtype):
    layer.precision = dtype
    for number in numbers:
        layer.set_output_type(number, dtype)


def load_cache(config, path):
    """Take up what earlier builds of this model have timed: faster, and the same kernels where nothing changed."""
    earlier = b""
    if os.path.exists(path):
        with open(path, "rb") as file:
            earlier = file.read()
    config.set_timing_cache(config.create_timing_cache(earlier), False)


def save_cache(config, path):
    """Leave it for the next build; whole or not at all."""
    part = "%s.%d" % (path, os.getpid())
    with open(part, "wb") as file:
        file.write(bytes(config.get_timing_cache().serialize()))
    os.replace(part, path)


def adjuster(job, relaxed, mode, note):
    """What a job changes in a network before it is built; `note` is filled."""
    import tensorrt as trt

    skipped = {trt.LayerType.CONSTANT, trt.LayerType.SHAPE, trt.LayerType.CAST, trt.LayerType.FILL}

    def adjust(network, config):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if "level" in job:
            config.builder_optimization_level = job["level"]
        layers = [network.get_layer(number) for number in range(network.num_layers)]
        note["layers"] = len(layers)
        flags = {"obey": "OBEY_PRECISION_CONSTRAINTS", "prefer": "PREFER_PRECISION_CONSTRAINTS"}
        wanted = set(job.get("mark", []))
        outputs = {network.get_output(number).name for number in range(network.num_outputs)}
        if job["kind"] == "half":
            config.set_flag(getattr(trt.BuilderFlag, flags[mode]))
            forced = 0
            for layer in layers:
                numbers = _floats(layer, trt)
                if numbers and layer.type not in skipped and layer.name not in relaxed:
                    _constrain(layer, numbers, trt.float16)
                    forced += 1
            note.update(forced=forced, relaxed=sorted(relaxed), mode=mode)
        if "keep" in job:
            config.set_flag(getattr(trt.BuilderFlag, flags[mode]))
            kept = []
            for layer in layers:
                numbers = _floats(layer, trt)
                if numbers and layer.type not in skipped and re.fullmatch(job["keep"], layer.name):
                    _constrain(layer, numbers, trt.float32)
                    kept.append(layer.name)
            note.update(kept=len(kept), kept_first=kept[:6], mode=mode)
        for layer in layers:
            for number in range(layer.num_outputs):
                tensor = layer.get_output(number)
                if tensor.name in wanted and tensor.name not in outputs:
                    network.mark_output(tensor)
                    outputs.add(tensor.name)
        note["unmarked"] = len(wanted - outputs)

    return adjust


def named_in(text, names):
    """The layers that an error message names."""
    return {
        name for name in names if name and re.search(r"(?<![\w/.])" + re.escape(name) + r"(?![\w/]|\.[\w/.])", text)
    }


def build_engine(job, folder, log_path, log, note):
    """Engine bytes; a forced layer that has no FP16 kernel is set free, and at last obey becomes prefer."""
    import engine
    import tensorrt as trt

    arrays = read_arrays(os.path.join(folder, "inputs.npz"))
    kind = "fp32" if job["kind"] == "fp32" else "fp16"
    relaxed, mode, names, configs = set(), "obey", [], []
    cache = os.path.join(folder, "timing.cache")
    for attempt in range(5):
        start = os.path.getsize(log_path)
        adjust = adjuster(job, relaxed, mode, note)

        def watched(network, config, adjust=adjust):
            names[:] = [network.get_layer(number).name for number in range(network.num_layers)]
            load_cache(config, cache)
            configs.append(config)
            adjust(network, config)

        try:
            plan = engine.build_plain(os.path.join(folder, "model.onnx"), kind, arrays, log, watched)
            save_cache(configs[-1], cache)
            return plan, trt
        except SystemExit as error:
            with open(log_path, encoding="utf-8", errors="replace") as file:
                file.seek(start)
                said = [line.strip() for line in file if line.startswith(("[ERROR]", "[INTERNAL_ERROR]"))]
            note.setdefault("refusals", []).append((said or [str(error)])[:3])
            if (job["kind"] != "half" and "keep" not in job) or mode == "prefer" or "cannot parse" in str(error):
                raise
            found = named_in(" ".join(said), names) - relaxed if job["kind"] == "half" else set()
            relaxed |= found
            if not found or attempt == 3:
                mode = "prefer"
    raise SystemExit("not built")


def describe(plan, log, trt):
    """(counts of the engine's layers by the type they compute or store, the inspector's layers in short)."""
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(text).get("Layers", [])
    counts = {"half": 0, "float": 0, "mixed": 0, "other": 0, "myelin": 0}
    short = []
    for layer in layers:
        if not isinstance(layer, dict):
            short.append({"name": str(layer)})
            continue
        types = {
            side: sorted({t.get("Format/Datatype", "?") for t in layer.get(side, [])}) for side in ("Inputs", "Outputs")
        }
        text = " ".join(types["Inputs"] + types["Outputs"]).lower()
        half, full = "half" in text or "fp16" in text, "float" in text or "fp32" in text
        counts["mixed" if half and full else "half" if half else "float" if full else "other"] += 1
        counts["myelin"] += "ForeignNode" in layer.get("Name", "") or "myelin" in layer.get("LayerType", "").lower()
        short.append(
            {
                "name": layer.get("Name", "")[:300],
                "type": layer.get("LayerType"),
                "tactic": layer.get("TacticName", layer.get("TacticValue")),
                "in": types["Inputs"],
                "out": types["Outputs"],
                "dims": [t.get("Dimensions") for t in layer.get("Outputs", [])],
            }
        )
    return counts, short


def build(text, work, out):
    """One engine: built, run once and compared."""
    import engine

    job = json.loads(text)
    folder = os.path.join(work, job["case"])
    stem = os.path.join(work, job["id"])
    result = {"id": job["id"], "case": job["case"], "kind": job["kind"], "job": job}
    log_path, start = stem + ".log", time.perf_counter()
    log = engine.Log(log_path)
    try:
        plan, trt = build_engine(job, folder, log_path, log, result)
        result["build_s"] = round(time.perf_counter() - start, 1)
        result["engine_mb"] = round(len(plan) / 1e6, 2)
        with open(stem + ".engine", "wb") as file:
            file.write(plan)
        result["tensorrt"] = trt.__version__
        engine.REPEAT = 1
        arrays = read_arrays(os.path.join(folder, "inputs.npz"))
        outputs, _ = engine.run(plan, arrays, log)
        expected = read_arrays(os.path.join(folder, "expected.npz"))
        found = {name: metrics.compare(expected[name], array) for name, array in outputs.items() if name in expected}
        marked = set(job.get("mark", []))
        result["outputs"] = {name: value for name, value in found.items() if name not in marked}
        result["marked"] = [[name, found[name]] for name in job.get("mark", []) if name in found]
        result["verdict"] = metrics.verdict(result["outputs"])
        result["counts"], layers = describe(plan, log, trt)
        write_json(stem + ".layers", layers)
    except (Exception, SystemExit) as error:  # whatever TensorRT raises is the result
        result["error"] = "%s: %s" % (type(error).__name__, str(error)[-500:])
    with open(log_path, encoding="utf-8", errors="replace") as file:
        said = [line.strip()[:400] for line in file if line.startswith(("[WARNING]", "[ERROR]", "[INTERNAL_ERROR]"))]
    result["said"] = said[:25]
    write_json(os.path.join(out, job["id"] + ".json"), result)


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
        prepare(*rest)
    elif action == "build":
        build(*rest)
    else:
        time_engines(rest[0], rest[1], rest[2:])


if __name__ == "__main__":
    main()
