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
    data = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return [layer for layer in data.get("Layers", []) if isinstance(layer, dict)]


def count(found):
    """How many outputs of the layers have each float type."""
    counts = {}
    for layer in found:
        for output in layer.get("Outputs", []):
            kind = output.get("Format/Datatype", output.get("Datatype", ""))
            name = next((name for name, words in _SPELLINGS if any(word in kind for word in words)), "")
            if name:
                counts[name] = counts.get(name, 0) + 1
    return counts


def check(build, engine_bytes):
    """Print the engine's types; False when the plan asks for a low precision and the engine has none."""
    found = layers(build, engine_bytes)
    if not found:
        print("build.py: the engine's types cannot be read on this machine; verify.py is the proof")
        return True
    counts = count(found)
    print(
        "build.py: outputs of the engine's layers: %s" % ", ".join("%d %s" % (n, t) for t, n in sorted(counts.items()))
    )
    low = "half" if build.PLAN["precision"] == "fp16" else "bfloat16"
    if counts.get(low) or not build.asks_low():
        return True
    print(
        "build.py: the plan asks for %s, but no layer of the engine writes it: the engine came out FP32 (the builder "
        "may choose so where that is faster); --allow-fp32 writes it all the same" % build.PLAN["precision"].upper()
    )
    return False
