"""What types an engine has, by TensorRT's own inspector. Used by build.py; written by precision-planner."""

import json
import os

# what the inspector calls a type: "Half", "Row major linear FP16 format", "BFloat16", ...
_SPELLINGS = (("bfloat16", ("BF16", "BFloat16")), ("half", ("Half", "FP16")), ("float", ("FP32", "Float")))


def has_gpu():
    """Whether NVIDIA's driver is here: without it TensorRT cannot load an engine, and says so at length."""
    import ctypes

    try:
        return ctypes.CDLL("libcuda.so.1" if os.name != "nt" else "nvcuda.dll").cuInit(0) == 0
    except OSError:
        return False


def layers(build, engine_bytes):
    """The engine's layers as the inspector tells them; None where the engine cannot be loaded (no GPU)."""
    if not has_gpu():
        return None
    trt = build.tensorrt()
    runtime = trt.Runtime(build.get_logger())
    if build.PLAN["build"].get("version_compatible") and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(engine_bytes)
    if engine is None:
        return None  # built for another GPU
    inspector = engine.create_engine_inspector()
    context = _context(build, engine)
    if context is not None:
        inspector.execution_context = context
    data = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return [layer for layer in data.get("Layers", []) if isinstance(layer, dict)]


def _context(build, engine):
    """A context at the plan's usual shapes: with dynamic shapes 8.x says "N/A due to dynamic shapes" without one."""
    profiles = build.PLAN["profiles"]
    if not profiles or not hasattr(engine, "num_io_tensors"):
        return None  # static shapes, or a version before 8.5
    context = engine.create_execution_context()
    if context is None:
        return None
    for name, shapes in profiles.items():
        if -1 in tuple(engine.get_tensor_shape(name)):
            context.set_input_shape(name, tuple(shapes["opt"]))
    return context


def count(found):
    """How many outputs of the layers have each float type."""
    counts = {}
    for layer in found:
        for output in layer.get("Outputs", []):
            name = _type(output)
            if name:
                counts[name] = counts.get(name, 0) + 1
    return counts


def _type(output):
    kind = output.get("Format/Datatype", output.get("Datatype", ""))
    return next((name for name, words in _SPELLINGS if any(word in kind for word in words)), "")


def is_opaque(layer):
    """Whether a layer computes what its outputs' types do not tell: Myelin's fused regions, or no type at all."""
    if "ForeignNode" in layer.get("Name", "") or layer.get("LayerType") == "Myelin":
        return True
    kinds = [output.get("Format/Datatype", output.get("Datatype", "")) for output in layer.get("Outputs", [])]
    return any(not kind or "N/A" in kind for kind in kinds)


# An engine's size tells its weights' type only where the weights are most of it.
TELLING_BYTES = 64 * 2**20
_WEIGHTY = ("MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN")


def holds_fp32_weights(plan, size):
    """Whether an engine is as large as the model's FP32 weights although most of the layers with weights go low."""
    weights = plan["model"].get("weight_bytes") or 0
    weighty = [node["precision"] for node in plan["nodes"] if node["op_type"] in _WEIGHTY]
    low = sum(precision == plan["precision"] for precision in weighty)
    return weights >= TELLING_BYTES and size >= weights and 2 * low >= len(weighty) > 0


def verdict(plan, found, size):
    """True: the engine has the plan's low type. False: it has none. None: that cannot be told."""
    if count(found).get("half" if plan["precision"] == "fp16" else "bfloat16"):
        return True
    if found and not any(is_opaque(layer) for layer in found):
        return False
    # Myelin takes a whole transformer into one layer, whose outputs may be FP32 with everything inside in half; where
    # its FP16 form fails to compile, it falls back to FP32 and keeps the weights so
    return False if holds_fp32_weights(plan, size) else None


def check(build, engine_bytes):
    """Print the engine's types; False when the plan asks for a low precision and the engine has none."""
    found = layers(build, engine_bytes)
    if not found:
        print("build.py: the engine's layers cannot be read on this machine")
    counts = count(found or [])
    if counts:
        told = ", ".join("%d %s" % (n, t) for t, n in sorted(counts.items()))
        print("build.py: outputs of the engine's layers: %s" % told)
    if not build.asks_low():
        return True
    low = build.PLAN["precision"].upper()
    seen = verdict(build.PLAN, found or [], len(engine_bytes))
    if seen is None:
        print("build.py: whether the engine computes in %s cannot be told from it; verify.py and its speed can" % low)
    if seen is False:
        size = " (%d MB for %d MB of FP32 weights)" % (len(engine_bytes) // 10**6, _megabytes(build.PLAN))
        print(
            "build.py: the plan asks for %s, but no layer of the engine writes it%s: the engine came out FP32 (the "
            "builder may choose so where that is faster, or where its %s form fails to compile: see the log, "
            "--verbose); --allow-fp32 writes it all the same" % (low, size if _megabytes(build.PLAN) else "", low)
        )
    return seen is not False


def _megabytes(plan):
    return (plan["model"].get("weight_bytes") or 0) // 10**6
