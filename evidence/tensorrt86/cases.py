"""Make the cases that the GPU measures: a model, its inputs, its FP32 answers, and the planner's folders for 8.6.

    python -m evidence.tensorrt86.cases OUT [--candidates] [PRESET...]

Runs where the planner is installed (it needs no GPU); `engine.py` then runs where TensorRT 8.6 is. plan/ is what the
planner makes of a tolerance of 1e-3 by itself, plan-5e-3/ of one of 5e-3, plan-rules/ what the rules make without a
search. With --candidates there are also plans that keep more in FP32 by hand (plan-NAME/), to see what each part of the
model costs in accuracy and time.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from examples.census_model import build_census_model, census_inputs

ROWS = 40
SEARCHED_TOKENS = 5120
"""Plans are made from as many rows as have so many tokens; engines are compared on all."""

TOLERANCE = {"probability:sad": 1e-3}
PLANS: dict[str, dict[str, Any]] = {
    "plan": {"tolerance": TOLERANCE},
    "plan-5e-3": {"tolerance": {"probability:sad": 5e-3}},
    "plan-rules": {"policy": "rules"},
}
CENSUS = {"census": {}, "census-max": {"masks": "Max"}, "census-query": {"masks": "Max", "scaled": "query"}}
DEFAULT_PRESETS = (*CENSUS, "massive", "ffn", "minilm")

HEAD = "/pooler/*,/classifier/*,/Softmax"
RESIDUAL = "/encoder/layer.*/attention/output/Add,/encoder/layer.*/output/Add"
FFN = "/encoder/layer.*/intermediate/*,/encoder/layer.*/output/dense/*"
TF32 = {"build": {"tf32": True}}
QKV = ",".join(f"/encoder/layer.{{}}/attention/self/{part}/*" for part in ("query", "key", "value"))
ATTENDED, UP, DOWN = (f"/encoder/layer.*/{part}/dense/*" for part in ("attention/output", "intermediate", "output"))
ATTENTION = (
    "/encoder/layer.*/attention/self/MatMul*,/encoder/layer.*/attention/self/Div,/encoder/layer.*/attention/self/Add,"
    "/encoder/layer.*/attention/self/Softmax,/Cast,/Sub,/Mul"
)


def candidates(preset: str) -> dict[str, dict[str, Any]]:
    """Name -> options of the plans beside the planner's own; their kept products run in TF32 where it says so."""
    last = f"/encoder/layer.{PRESETS[preset].layers - 1}/*"
    norms = {"keep_as": "island"}
    if preset == "ffn":
        return {
            "tf32": TF32,
            "head": {"keep_fp32": [HEAD], **TF32},
            "stream": {"keep_fp32": [HEAD, RESIDUAL, "layernorm", "/embeddings/*"], **norms, **TF32},
            "decomposed": {"fuse": (), "keep_fp32": [HEAD, "layernorm"], **norms, **TF32},
            "ffn": {"keep_fp32": [HEAD, FFN, RESIDUAL, "layernorm"], **norms, **TF32},
        }
    quick = {"calibrate": False, "verify": False}
    found = {
        "head": {"keep_fp32": [HEAD]},
        "norms": {"keep_fp32": [HEAD, "layernorm"], **norms},
        "stream": {"keep_fp32": [HEAD, RESIDUAL, "layernorm", "/embeddings/*"], **norms},
        "softmax": {"keep_fp32": [HEAD, "/encoder/*/Softmax"]},
        "ffn": {"keep_fp32": [HEAD, FFN], **TF32},
        "attention": {"keep_fp32": [HEAD, "/encoder/layer.*/attention/*"], **TF32},
        "last": {"keep_fp32": [HEAD, last], **norms, **TF32},
        "gemms": {"keep_fp32": [HEAD, "/encoder/*/MatMul"], **TF32},
    }
    found |= {name: {"keep_fp32": kept, "fuse": (), **norms, **TF32} for name, kept in by_product(preset).items()}
    found["E1h"] = {**found["E1"], "hold_low": True}
    return {name: {**options, **quick} for name, options in found.items()}


def by_product(preset: str) -> dict[str, list[str]]:
    """Name -> what is kept in FP32 beside LayerNorms, embeddings, residual sums and head: products by their place."""
    stream = [HEAD, RESIDUAL, "layernorm", "/embeddings/*"]
    every = QKV.replace("{}", "*")
    but_last = ",".join(QKV.replace("{}", str(layer)) for layer in range(PRESETS[preset].layers - 1))
    return {
        "D1": [*stream, every, ATTENDED, UP, DOWN],  # all products with weights; attention and GELU in FP16
        "D3": [*stream, every],
        "D4": stream,
        "E1": [*stream, every, ATTENDED, DOWN, ATTENTION],  # FP16: the first FFN product and GELU
        "E2": [*stream, but_last, ATTENDED, DOWN, ATTENTION],  # and the last layer's Q, K, V
    }


def reference(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The FP32 outputs by onnxruntime with its optimizations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def make_plan(folder: Path, name: str, options: dict[str, Any]) -> str:
    """One plan folder, made from the first rows; what it says in a line."""
    start = time.perf_counter()
    with np.load(folder / "inputs.npz") as file:
        inputs = dict(file)
    shapes = {key: array.shape for key, array in inputs.items()}
    length = max(array.shape[1] for array in inputs.values())
    rows = {key: array[: SEARCHED_TOKENS // length] for key, array in inputs.items()}
    planned = pp.plan(
        folder / "model.onnx", target="tensorrt-8.6", inputs=rows, opt_shapes=shapes, max_shapes=shapes, **options
    )
    planned.save(folder / name)
    plan, took = planned.plan, time.perf_counter() - start
    found = {key: value for key, value in plan.search.items() if key != "regions"}
    return f"{folder.name} {name}: {took:.0f} s; {planned.summary}; {len(plan.constraints)} constraints; {found}"


def make_case(folder: Path, preset: str, by_hand: bool) -> None:
    """One case folder with its plans, three at a time."""
    spec = PRESETS[preset]
    folder.mkdir(parents=True)
    model = folder / "model.onnx"
    onnx.save(build_bert_classifier(spec), model)
    inputs = dict(sample_inputs(spec, rows=ROWS, sequence=spec.sequence))
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "expected.npz", **reference(model, inputs))
    wanted = dict(PLANS)
    if by_hand:
        wanted |= {f"plan-{name}": options for name, options in candidates(preset).items()}
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        made = {name: pool.submit(make_plan, folder, name, options) for name, options in wanted.items()}
        for name, future in made.items():
            error = future.exception()  # one candidate that cannot be planned must not cost the others
            print(f"{preset} {name} failed: {error}" if error else future.result(), flush=True)


def make_census(folder: Path, options: dict[str, str]) -> None:
    """The model whose weights hold one kind of trouble each; it has no plan."""
    folder.mkdir(parents=True)
    onnx.save(build_census_model(**options), folder / "model.onnx")
    np.savez(folder / "inputs.npz", **census_inputs())
    np.savez(folder / "expected.npz", **reference(folder / "model.onnx", census_inputs()))


def main(arguments: list[str]) -> None:
    """Make the cases named."""
    by_hand = "--candidates" in arguments
    out, *presets = (argument for argument in arguments if argument != "--candidates")
    for preset in presets or DEFAULT_PRESETS:
        if preset in CENSUS:
            make_census(Path(out) / preset, CENSUS[preset])
        else:
            make_case(Path(out) / preset, preset, by_hand)


if __name__ == "__main__":
    main(sys.argv[1:])
