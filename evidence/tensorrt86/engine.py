#!/usr/bin/env python3
"""Build one engine with TensorRT 8.6, or run it, and print what came out as one JSON line.

    engine.py build CASE KIND OUT       writes OUT/CASE.KIND.engine, .log (all the builder said) and .json
    engine.py run CASE KIND OUT         measures it, and prints RESULT {...}

CASE is a folder made by cases.py: model.onnx (FP32, as exported), inputs.npz, expected.npz, plan/, plan-NAME/.
KIND: fp32 (TF32 off), tf32, fp16 (--fp16 alone), half (every layer and output held to FP16), fp16-wide and half-wide
(the same, but products write FP32), fp16-fused (--fp16 on the plan's fused model; fp16-wide-fused, half-wide-fused
likewise), plan, plan-NAME (by the build.py of that folder).

Runs under Python 3.8 to 3.10 with tensorrt, polygraphy and numpy; imports nothing of the planner. A process of its own
per engine, because TensorRT keeps the first logger it is given; building and running apart, so that several engines can
be built at once and each is measured alone.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
import tensorrt as trt

REPEAT = 50
BATCHES = (1, 8, 40)
SEARCHED_TOKENS = 5120  # plans of cases.py are made from as many of the first rows as have so many tokens


class Log(trt.ILogger):
    """Writes every message to a file at once, so that it is there when the build fails."""

    def __init__(self, path=os.devnull):
        trt.ILogger.__init__(self)
        self.file = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115

    def log(self, severity, message):
        self.file.write("[%s] %s\n" % (str(severity).rsplit(".", 1)[-1], message))


PRODUCTS = (trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.FULLY_CONNECTED, trt.LayerType.CONVOLUTION)


def widen_products(network):
    """Let products read FP16 and write FP32: a kernel that writes FP32 has no reason to add up in FP16."""
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type in PRODUCTS and layer.get_output(0).dtype in (trt.float32, trt.float16):
            layer.precision = trt.float16
            layer.set_output_type(0, trt.float32)


def force_half(network):
    """Set precision and output types of every layer that computes floats to FP16."""
    left = (trt.LayerType.CONSTANT, trt.LayerType.SHAPE, trt.LayerType.CAST)  # nothing computed, or a type of its own
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type in left:
            continue
        outputs = [n for n in range(layer.num_outputs) if layer.get_output(n).dtype == trt.float32]
        if outputs:
            layer.precision = trt.float16
        for output in outputs:
            layer.set_output_type(output, trt.float16)


def build_plain(path, kind, arrays, log, adjust=None):
    """The engine of a model without a plan; `adjust(network, config)` may change both before it is built."""
    trt.init_libnvinfer_plugins(log, "")  # 8.6.0 parses InstanceNormalization as a plugin
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(path):
        raise SystemExit("cannot parse %s: %s" % (path, parser.get_error(0)))
    config = builder.create_builder_config()
    config.set_tactic_sources(0)  # the cuBLAS and cuDNN tactics need libraries that may not be there
    config.clear_flag(trt.BuilderFlag.TF32)
    if kind == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    if kind.startswith("half"):
        force_half(network)
    if "wide" in kind:
        widen_products(network)
    if kind.startswith("half") or "wide" in kind:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    if kind.startswith("half") or kind.startswith("fp16"):
        config.set_flag(trt.BuilderFlag.FP16)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        if -1 in tuple(tensor.shape):  # a profile that contradicts a static shape is an error
            shape = arrays[tensor.name].shape
            profile.set_shape(tensor.name, (1, *shape[1:]), shape, shape)
    config.add_optimization_profile(profile)
    if adjust is not None:
        adjust(network, config)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit("TensorRT built no engine; its log says why")
    return bytes(engine)


def build_plan(folder, log_path):
    """(engine, what build.py said) by the plan's own script, in a process of its own; its output goes to the log.

    An engine that build.py refuses (FP32 where FP16 was asked) is measured all the same, and the refusal is kept.
    """
    overrides = {"build": {"tactic_sources": []}}  # cuBLAS and cuDNN may not be there
    with open(os.path.join(folder, "plan.json"), encoding="utf-8") as file:
        overrides["build"] = dict(json.load(file)["build"], **overrides["build"])
    engine = os.path.join(folder, "model.engine")
    command = [sys.executable, os.path.join(folder, "build.py"), "-o", engine, "--verbose", "--allow-fp32"]
    with open(log_path, "w", encoding="utf-8") as log:
        code = subprocess.call(
            command, env=dict(os.environ, PLAN_OVERRIDES=json.dumps(overrides)), stdout=log, stderr=subprocess.STDOUT
        )
    with open(log_path, encoding="utf-8", errors="replace") as log:
        lines = log.read().splitlines()
    said = [line for line in lines if line.startswith("build.py:") and ": wrote " not in line]
    said += [line for line in lines if "Skipping tactic" in line and "exception" in line][:2]
    if code:
        raise SystemExit("build.py failed: %s" % "\n".join(lines[-5:]))
    with open(engine, "rb") as file:
        return file.read(), said


def run(engine_bytes, arrays, log):
    """(outputs at the case's own shapes, milliseconds per run by batch)."""
    from polygraphy import cuda

    engine = trt.Runtime(log).deserialize_cuda_engine(engine_bytes)
    context = engine.create_execution_context()
    stream = cuda.Stream()
    names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    full = max(a.shape[0] for a in arrays.values())
    dynamic = any(-1 in tuple(engine.get_tensor_shape(name)) for name in inputs)
    timings, outputs = {}, {}
    for batch in sorted({*(b for b in BATCHES if b <= full and dynamic), full}):
        buffers = {}
        for name in inputs:
            wanted = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            array = np.ascontiguousarray(arrays[name][:batch].astype(wanted))
            context.set_input_shape(name, array.shape)
            buffers[name] = cuda.DeviceArray(array.shape, array.dtype).copy_from(array, stream)
        for name in names:
            if name not in inputs:
                shape = tuple(context.get_tensor_shape(name))
                buffers[name] = cuda.DeviceArray(shape, np.dtype(trt.nptype(engine.get_tensor_dtype(name))))
        for name, buffer in buffers.items():
            context.set_tensor_address(name, buffer.ptr)
        for _ in range(10):
            context.execute_async_v3(stream.ptr)
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(REPEAT):
            context.execute_async_v3(stream.ptr)
        stream.synchronize()
        timings[batch] = 1000 * (time.perf_counter() - start) / REPEAT
        if batch == full:
            for name in names:
                if name not in inputs:
                    host = np.zeros(buffers[name].shape, buffers[name].dtype)
                    buffers[name].copy_to(host, stream)
                    stream.synchronize()
                    outputs[name] = host
    return outputs, timings


def compare(expected, actual, searched):
    """Metrics of one output; `searched` is how many of the first rows the plans were made from."""
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    rows = (expected.shape[0], -1)
    error = np.abs(actual - expected).reshape(rows)
    return {
        "sad": float(error.sum(axis=1).max()),
        "sad_searched": float(error[:searched].sum(axis=1).max()),
        "sad_mean": float(error.sum(axis=1).mean()),
        "max_abs": float(error.max()),
        "rel_l2": float(np.linalg.norm(actual - expected) / np.linalg.norm(expected)),
        "top1": float((actual.reshape(rows).argmax(1) == expected.reshape(rows).argmax(1)).mean()),
        "nonfinite": int((~np.isfinite(actual)).sum()),
    }


def build(case, kind, arrays, stem):
    """Build one engine beside its log, and a note of what it took."""
    start = time.perf_counter()
    said = []
    if kind.startswith("plan"):
        engine, said = build_plan(os.path.join(case, kind), stem + ".log")
    else:
        model = "plan/model.onnx" if kind.endswith("-fused") else "model.onnx"
        engine = build_plain(os.path.join(case, model), kind, arrays, Log(stem + ".log"))
    with open(stem + ".engine", "wb") as file:
        file.write(engine)
    note = {"build_s": round(time.perf_counter() - start, 1), "engine_mb": round(len(engine) / 1e6, 1), "said": said}
    with open(stem + ".json", "w", encoding="utf-8") as file:
        json.dump(note, file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["build", "run"])
    parser.add_argument("case")
    parser.add_argument("kind")
    parser.add_argument("out")
    arguments = parser.parse_args()
    case, kind = arguments.case.rstrip("/"), arguments.kind
    stem = os.path.join(arguments.out, "%s.%s" % (os.path.basename(case), kind))
    with np.load(os.path.join(case, "inputs.npz")) as file:
        arrays = dict(file)
    if arguments.action == "build":
        build(case, kind, arrays, stem)
        return
    with np.load(os.path.join(case, "expected.npz")) as file:
        expected = dict(file)
    with open(stem + ".engine", "rb") as file:
        outputs, timings = run(file.read(), arrays, Log())
    with open(stem + ".json", encoding="utf-8") as file:
        note = json.load(file)
    longest = max(a.shape[1] if a.ndim > 1 else 1 for a in arrays.values())
    searched = max(1, SEARCHED_TOKENS // longest)
    result = {
        "case": os.path.basename(case),
        "kind": kind,
        "tensorrt": trt.__version__,
        "outputs": {name: compare(expected[name], outputs[name], searched) for name in expected if name in outputs},
        "ms": timings,
    }
    print("RESULT " + json.dumps(dict(result, **note)))


if __name__ == "__main__":
    main()
