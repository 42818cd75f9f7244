"""Make the cases that the GPU measures: a model, its inputs, its FP32 answers, and the planner's folder for 8.6.

    python -m benchmarks.tensorrt86.cases OUT [PRESET...]

Runs where the planner is installed (it needs no GPU); `engine.py` then runs where TensorRT 8.6 is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from examples.census_model import build_census_model, census_inputs

ROWS = 40
DEFAULT_PRESETS = ("census", "massive", "ffn", "minilm")


def reference(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The FP32 outputs by onnxruntime with its optimizations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def make_case(folder: Path, preset: str) -> None:
    """One case folder; the plan is made from the same inputs that the engines are compared on."""
    spec = PRESETS[preset]
    folder.mkdir(parents=True)
    model = folder / "model.onnx"
    onnx.save(build_bert_classifier(spec), model)
    inputs = dict(sample_inputs(spec, rows=ROWS, sequence=spec.sequence))
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "expected.npz", **reference(model, inputs))
    plan = pp.plan(model, target="tensorrt-8.6", inputs=folder / "inputs.npz", tolerance={"sad": 1e-3})
    plan.save(folder / "plan")
    print(f"{preset}: {plan.summary}", flush=True)


def make_census(folder: Path) -> None:
    """The model whose weights hold one kind of trouble each; it has no plan."""
    folder.mkdir(parents=True)
    onnx.save(build_census_model(), folder / "model.onnx")
    np.savez(folder / "inputs.npz", **census_inputs())
    np.savez(folder / "expected.npz", **reference(folder / "model.onnx", census_inputs()))


def main(arguments: list[str]) -> None:
    out = Path(arguments[0])
    for preset in arguments[1:] or DEFAULT_PRESETS:
        if preset == "census":
            make_census(out / preset)
        else:
            make_case(out / preset, preset)


if __name__ == "__main__":
    main(sys.argv[1:])
