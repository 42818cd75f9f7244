#!/usr/bin/env python3
"""Run the typed model of this plan in ONNX Runtime, with the session options that keep its types.

    python3 run.py                        runs the golden inputs once and prints the outputs' shapes and types
    from run import load_session          in your own program

ONNX Runtime decides some precisions by itself, and these options take that away from it:

- Optimizations stop at "basic". The extended ones fuse across the plan's Casts: LayerNormFusion and
  SimplifiedLayerNormFusion take a decomposed normalization out of its FP32 island, SkipLayerNormFusion takes an FP32
  residual sum with it, and some such graphs then fail to load. Those that run at "basic" too are switched off.
- On CUDA, TF32 as the plan says, and SkipLayerNormalization's sums in FP32 ("strict mode").
- On TensorRT's provider, no fp16 switch: the types in the model are the precision.

On a CPU ONNX Runtime computes most FP16 operators in FP32 whatever the model says: outputs there prove nothing about
FP16. Needs onnxruntime (or onnxruntime-gpu) and numpy; Python 3.8 or newer. Written by precision-planner.
"""

import glob
import json
import os
import sys

# onnxruntime 1.29 and newer report what they load unless this is set; your own setting wins
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "plan.json"), encoding="utf-8") as _file:
    PLAN = json.load(_file)

# Fusions that look through Casts, at whatever level this version runs them.
DISABLED = [
    "LayerNormFusion",
    "LayerNormFusionL1",
    "LayerNormFusionL2",
    "SimplifiedLayerNormFusion",
    "SimplifiedLayerNormFusionL1",
    "SimplifiedLayerNormFusionL2",
    "SkipLayerNormFusion",
    "PropagateCastOps",
]


def session_options():
    """The options that keep the plan's types."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options


def provider_options(providers):
    """[(provider, its options)] for onnxruntime.InferenceSession."""
    tf32 = "1" if PLAN["build"].get("tf32") else "0"
    known = {
        "CUDAExecutionProvider": {"use_tf32": tf32, "enable_skip_layer_norm_strict_mode": "1"},
        "TensorrtExecutionProvider": {"trt_fp16_enable": "0", "trt_bf16_enable": "0", "trt_int8_enable": "0"},
    }
    return [(name, known.get(name, {})) for name in providers]


def load_session(providers=None):
    """A session on the best provider that is here (or on those given), TensorRT's left out unless asked for."""
    import onnxruntime

    libraries = PLAN["build"].get("plugins") or []
    options = session_options()
    for library in libraries:
        path = os.path.join(HERE, library)
        options.register_custom_ops_library(path if os.path.exists(path) else library)
    if providers is None:
        here = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in here]
    return onnxruntime.InferenceSession(
        os.path.join(HERE, "model.onnx"), options, providers=provider_options(providers), disabled_optimizers=DISABLED
    )


def main():
    import numpy as np
    import verify

    session = load_session()
    print("run.py: %s" % ", ".join(session.get_providers()))
    if session.get_providers() == ["CPUExecutionProvider"]:
        print("run.py: on a CPU ONNX Runtime computes FP16 operators in FP32: this shows that the model runs, no more")
    if not glob.glob(os.path.join(HERE, "golden", "*.inputs.npz")):
        raise SystemExit("run.py: golden/ holds no inputs; load_session() gives a session for yours")
    names = [output.name for output in session.get_outputs()]
    for case, inputs, _ in verify.cases():
        for name, value in zip(names, session.run(names, inputs)):
            print("%-12s %-24s %s %s" % (case, name, np.asarray(value).dtype, list(np.asarray(value).shape)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
