"""The hard variants break in FP16 as they are meant to, and only as they are meant to.

Two simulators, neither of them the planner's: the float64 reference with a rounding hook, and the FP32 graph
in onnxruntime with an explicit Cast pair behind every float node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from examples.bert_classifier import PRESETS, BertSpec, build_bert_classifier, make_weights, sample_inputs
from examples.bert_classifier.reference import Norm, Round, forward
from examples.bert_classifier.weights import massive_channels, overflowing_layers
from tests.examples.rounding import sad, saturate, to_fp16

SMALL = BertSpec(3, 128, 4, 256, 2048, 128, sequence=48, seed=3)
SLOW = pytest.mark.slow


def sizes(variant: str) -> list[object]:
    """The variant at two sizes, the larger one slow."""
    tiny = replace(PRESETS["tiny"], variant=variant, sequence=32)
    return [
        pytest.param(tiny, id="tiny"),
        pytest.param(replace(SMALL, variant=variant), id="small", marks=SLOW),
    ]


def fp16_steps(fp32: Collection[str] = ()) -> Round:
    """Round every step but those named; constants saturate as weights do."""

    def rounding(step: str, value: np.ndarray) -> np.ndarray:
        if step in fp32:
            return value
        return saturate(value) if step.endswith("/Constant") else to_fp16(value)

    return rounding


def ffn_path(spec: BertSpec) -> set[str]:
    """Name the steps from the overflowing product to the LayerNorm."""
    outputs = [f"/encoder/layer.{index}/output" for index in overflowing_layers(spec)]
    return {f"{output}/{step}" for output in outputs for step in ("dense/MatMul", "dense/Add", "Add")}


def measured(
    spec: BertSpec, rows: int, norm: Norm, fp32: Collection[str] = (), *, weights: dict | None = None
) -> np.ndarray:
    """SAD of each row's probabilities, FP16 by the rounding hook against float64."""
    weights = weights or make_weights(spec)
    ids = sample_inputs(spec, rows=rows)["input"]
    exact = forward(spec, weights, ids)["probability"]
    rounded = {name: saturate(value) for name, value in weights.items()}
    low = forward(spec, rounded, ids, round=fp16_steps(fp32), norm=norm)["probability"]
    return sad(low, exact)


def with_cast_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the FP32 graph with Cast to FP16 and back behind every float node, weights saturated."""
    typed = onnx.shape_inference.infer_shapes(model)
    floats = {
        info.name
        for info in (*typed.graph.value_info, *typed.graph.output)
        if info.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for tensor in out.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(saturate(numpy_helper.to_array(tensor)), tensor.name))
    nodes = []
    for node in out.graph.node:
        nodes.append(node)
        name = node.output[0]
        if node.op_type == "Constant" and node.attribute[0].t.data_type == TensorProto.FLOAT:
            value = saturate(numpy_helper.to_array(node.attribute[0].t))
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(value))
        elif name in floats and node.op_type != "Constant":
            node.output[0] = f"{name}/exact"
            nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


def run_probability(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Run with optimizations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["probability"], inputs)[0]


def check_massive(measure: Callable[[Norm], np.ndarray], good: float) -> None:
    """Decomposed is garbage (over 0.1 a row on average), native stays under ``good`` in the worst row."""
    assert measure("decomposed").mean() > 0.1
    assert measure("native").max() < good


@pytest.mark.parametrize("spec", sizes("plain"))
def test_plain_model_is_good_in_fp16(spec: BertSpec) -> None:
    """An ordinary scale breaks in neither form: about 1e-3 a row; 5e-3 leaves room for the narrow model."""
    weights = make_weights(spec)
    assert measured(spec, 12, "decomposed", weights=weights).max() < 5e-3
    assert measured(spec, 12, "native", weights=weights).max() < 5e-3


@pytest.mark.parametrize("spec", sizes("massive"))
def test_massive_breaks_the_decomposed_norm_alone(spec: BertSpec) -> None:
    """Garbage when decomposed, as good as the plain model when native."""
    weights = make_weights(spec)
    check_massive(lambda norm: measured(spec, 12, norm, weights=weights), good=5e-3)


@pytest.mark.parametrize("spec", sizes("massive"))
def test_massive_overflows_in_the_squares_alone(spec: BertSpec) -> None:
    """In float64, of all steps only the encoder LayerNorms' Pow passes 65504; the channels hold 900 to 2,500."""
    weights = make_weights(spec)
    amax: dict[str, float] = {}

    def note(step: str, value: np.ndarray) -> np.ndarray:
        if not step.endswith("/Constant") and step != "/Mul_1":
            finite = value[value > -1e30] if step.endswith("/self/Add") else value
            amax[step] = max(amax.get(step, 0.0), float(np.abs(finite).max()))
        return value

    forward(spec, weights, sample_inputs(spec, rows=8)["input"], round=note, norm="decomposed")
    over = {step for step, value in amax.items() if value > 65504}
    expected = {
        f"/encoder/layer.{i}/{part}/LayerNorm/Pow"
        for i in range(spec.layers)
        for part in ("attention/output", "output")
    }
    assert over == expected
    residual = [amax[step.replace("LayerNorm/Pow", "Add")] for step in expected]
    assert all(900 <= value <= 2501 for value in residual)
    assert max(np.abs(massive_channels(spec)[1])) <= 2500
    assert all(np.abs(value).max() < 65504 for value in weights.values())


def test_massive_answer_depends_on_the_input() -> None:
    """Rows differ, several classes win, none is certain."""
    spec = PRESETS["tiny-massive"]
    probability = forward(spec, make_weights(spec), sample_inputs(spec, rows=40)["input"])["probability"]
    assert len(set(probability.argmax(axis=1))) >= 6
    assert 0.1 < np.median(probability.max(axis=1)) < 0.9
    assert sad(probability, probability.mean(axis=0)).mean() > 0.2


@pytest.mark.parametrize("spec", sizes("ffn"))
def test_ffn_needs_its_output_path_in_fp32(spec: BertSpec) -> None:
    """NaN in both forms; product, bias, residual Add and LayerNorm in FP32 heal it."""
    weights = make_weights(spec)
    assert all(np.abs(value).max() < 65504 for value in weights.values())
    assert np.isnan(measured(spec, 6, "decomposed", weights=weights)).all()
    assert np.isnan(measured(spec, 6, "native", weights=weights)).all()
    assert measured(spec, 6, "native", ffn_path(spec), weights=weights).max() < 5e-3


def test_cast_pairs_in_onnxruntime_agree() -> None:
    """The second simulator reaches the same verdicts from the graph, native LayerNorm taken from opset 17."""
    for variant in ("plain", "massive", "ffn"):
        spec = replace(PRESETS["tiny"], variant=variant, sequence=32)
        inputs = sample_inputs(spec, rows=8)
        exact = forward(spec, make_weights(spec), inputs["input"])["probability"]
        results = {
            opset: sad(
                run_probability(with_cast_pairs(build_bert_classifier(replace(spec, opset=opset))), inputs),
                exact,
            )
            for opset in (13, 17)
        }
        if variant == "ffn":
            assert np.isnan(results[13]).all()
            assert np.isnan(results[17]).all()
        else:
            assert results[17].max() < 5e-3
            assert (results[13].mean() > 0.1) == (variant == "massive")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["massive", "minilm-massive"])
def test_large_massive_presets(name: str, minilm_files: None) -> None:
    """3 x 768 and MiniLM: over 0.1 decomposed, under 2e-3 in the worst row native."""
    spec = replace(PRESETS[name], sequence=40)
    weights = make_weights(spec)
    check_massive(lambda norm: measured(spec, 6, norm, weights=weights), good=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ffn", "minilm-ffn"])
def test_large_ffn_presets(name: str, minilm_files: None) -> None:
    """3 x 768 and MiniLM: NaN with native LayerNorm, under 2e-3 with the FFN path in FP32 too."""
    spec = replace(PRESETS[name], sequence=40)
    weights = make_weights(spec)
    assert np.isnan(measured(spec, 6, "native", weights=weights)).all()
    assert measured(spec, 6, "native", ffn_path(spec), weights=weights).max() < 2e-3
