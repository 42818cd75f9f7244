#!/usr/bin/env python3
"""Build one engine with TensorRT 8.6, run it, and print what came out as one JSON line.

    engine.py CASE KIND [--log FILE]

CASE is a folder made by cases.py: model.onnx (FP32, as exported), inputs.npz, expected.npz, plan/.
KIND: fp32 (TF32 off), tf32, fp16 (--fp16 alone), fp16-fused (--fp16 on the plan's fused model), plan (plan/build.py).

Runs under Python 3.8 to 3.10 with tensorrt, polygraphy and numpy; imports nothing of the planner. A process of its own
per engine, because TensorRT keeps the first logger it is given.
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


class Log(trt.ILogger):
    """Keeps every message of the builder."""

    def __init__(self):
        trt.ILogger.__init__(self)
        self.lines = []

    def log(self, severity, message):
        self.lines.append("[%s] %s" % (str(severity).rsplit(".", 1)[-1], message))


def profile_shapes(arrays):
    """(smallest, usual, longest) of each input: the case's own shape, with batch 1 as the smallest."""
    return {name: ((1, *a.shape[1:]), a.shape, a.shape) for name, a in arrays.items()}


def build_plain(path, kind, arrays, log):
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
    if kind.startswith("fp16"):
        config.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    for name, shapes in profile_shapes(arrays).items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


def build_plan(folder, log_path):
    """The engine by the plan's own script, in a process of its own; what it said goes to the log."""
    overrides = {"build": {"tactic_sources": []}}  # cuBLAS and cuDNN may not be there
    engine = os.path.join(folder, "model.engine")
    command = [sys.executable, os.path.join(folder, "build.py"), "-o", engine, "--verbose"]
    made = subprocess.run(
        command,
        env=dict(os.environ, PLAN_OVERRIDES=json.dumps(overrides)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if log_path:
        with open(log_path, "w", encoding="utf-8") as file:
            file.write(made.stdout)
    if made.returncode:
        raise SystemExit("build.py failed: %s" % made.stdout[-2000:])
    for line in made.stdout.splitlines():
        if line.startswith("build.py:"):
            print(line)
    with open(engine, "rb") as file:
        return file.read()


def run(engine_bytes, arrays, log):
    """(outputs at the case's own shapes, milliseconds per run by batch)."""
    from polygraphy import cuda

    engine = trt.Runtime(log).deserialize_cuda_engine(engine_bytes)
    context = engine.create_execution_context()
    stream = cuda.Stream()
    names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    full = max(a.shape[0] for a in arrays.values())
    timings, outputs = {}, {}
    for batch in sorted({*(b for b in BATCHES if b <= full), full}):
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


def compare(expected, actual):
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    rows = (expected.shape[0], -1)
    error = np.abs(actual - expected).reshape(rows)
    return {
        "sad": float(error.sum(axis=1).max()),
        "sad_mean": float(error.sum(axis=1).mean()),
        "max_abs": float(error.max()),
        "rel_l2": float(np.linalg.norm(actual - expected) / np.linalg.norm(expected)),
        "top1": float((actual.reshape(rows).argmax(1) == expected.reshape(rows).argmax(1)).mean()),
        "nonfinite": int((~np.isfinite(actual)).sum()),
    }


def layer_summary(engine_bytes, log):
    """Layers of the engine by the types of their outputs, where the inspector tells."""
    engine = trt.Runtime(log).deserialize_cuda_engine(engine_bytes)
    inspector = engine.create_engine_inspector()
    data = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    found = {}
    for layer in data.get("Layers", []):
        if isinstance(layer, dict):
            for output in layer.get("Outputs", []):
                kind = output.get("Format/Datatype", "?")
                found[kind] = found.get(kind, 0) + 1
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("case")
    parser.add_argument("kind", choices=["fp32", "tf32", "fp16", "fp16-fused", "plan"])
    parser.add_argument("--log")
    arguments = parser.parse_args()
    with np.load(os.path.join(arguments.case, "inputs.npz")) as file:
        arrays = dict(file)
    with np.load(os.path.join(arguments.case, "expected.npz")) as file:
        expected = dict(file)
    log = Log()
    start = time.perf_counter()
    if arguments.kind == "plan":
        engine = build_plan(os.path.join(arguments.case, "plan"), arguments.log)
    else:
        model = "plan/model.onnx" if arguments.kind == "fp16-fused" else "model.onnx"
        engine = build_plain(os.path.join(arguments.case, model), arguments.kind, arrays, log)
    seconds = time.perf_counter() - start
    outputs, timings = run(engine, arrays, log)
    if arguments.log and arguments.kind != "plan":
        with open(arguments.log, "w", encoding="utf-8") as file:
            file.write("\n".join(log.lines) + "\n")
    result = {
        "case": os.path.basename(arguments.case.rstrip("/")),
        "kind": arguments.kind,
        "tensorrt": trt.__version__,
        "outputs": {name: compare(expected[name], outputs[name]) for name in expected if name in outputs},
        "ms": timings,
        "build_s": round(seconds, 1),
        "engine_mb": round(len(engine) / 1e6, 1),
        "layers": layer_summary(engine, log),
    }
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
