"""Rows that are masked as a whole come out as in FP32: zero behind an IsNaN, the mean where the mask is lifted."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp

F = np.float32
S = 6
rng = np.random.default_rng(0)
FEEDS = {
    "m": np.tril(np.ones((S, S), bool)),
    "q": rng.standard_normal((S, 8)).astype(F),
    "k": rng.standard_normal((8, S)).astype(F),
    "v": rng.standard_normal((S, 8)).astype(F),
}
FEEDS["m"][2] = False


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, float]) -> onnx.ModelProto:
    def value(name: str, shape: list[int], element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, shape)

    inputs = [value("m", [S, S], TensorProto.BOOL), value("q", [S, 8]), value("k", [8, S]), value("v", [S, 8])]
    graph = helper.make_graph(
        nodes, "g", inputs, [value("y", [S, 8])], [numpy_helper.from_array(F(a), k) for k, a in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def guarded() -> onnx.ModelProto:
    """torch from 2.9 on: -inf, and zero where the softmax is NaN."""
    return model_of(
        [
            node("Where", ["m", "zero", "neg"], "bias"),
            node("MatMul", ["q", "k"], "s"),
            node("Add", ["s", "bias"], "sb"),
            node("Softmax", ["sb"], "p", axis=-1),
            node("IsNaN", ["p"], "nan"),
            node("Where", ["nan", "zero", "p"], "pg"),
            node("MatMul", ["pg", "v"], "y"),
        ],
        {"zero": 0.0, "neg": -np.inf},
    )


def unmasked() -> onnx.ModelProto:
    """transformers: the mask of rows that are masked as a whole is taken away, where Equal says so."""
    return model_of(
        [
            node("Where", ["m", "zero", "neg"], "bias"),
            node("Equal", ["bias", "neg"], "eq"),
            node("Cast", ["eq"], "eqf", to=TensorProto.FLOAT),
            node("ReduceMin", ["eqf"], "all", axes=[-1], keepdims=1),
            node("Sub", ["one", "all"], "keep"),
            node("Mul", ["bias", "keep"], "bias2"),
            node("MatMul", ["q", "k"], "s"),
            node("Add", ["s", "bias2"], "sb"),
            node("Softmax", ["sb"], "p", axis=-1),
            node("MatMul", ["p", "v"], "y"),
        ],
        {"zero": 0.0, "neg": float(np.finfo(F).min), "one": 1.0},
    )


def exact(empty_row_is_zero: bool) -> np.ndarray:
    """float64; a row that is masked as a whole is zero, or attends to everything."""
    q, k, v = (FEEDS[name].astype(np.float64) for name in "qkv")
    allowed = FEEDS["m"] | ~FEEDS["m"].any(1, keepdims=True)
    scores = np.where(allowed, q @ k, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    y = weights / weights.sum(1, keepdims=True) @ v
    if empty_row_is_zero:
        y[~FEEDS["m"].any(1)] = 0
    return y


@pytest.mark.parametrize(("build", "is_zero"), [(guarded, True), (unmasked, False)])
def test_rewritten(build, is_zero: bool) -> None:  # type: ignore[no-untyped-def]
    result = pp.rewrite(build(), verify=False)
    np.testing.assert_allclose(pp.simulate(result.model, FEEDS)["y"], exact(is_zero), atol=5e-3)


@pytest.mark.parametrize(("build", "is_zero"), [(guarded, True), (unmasked, False)])
def test_planned(build, is_zero: bool) -> None:  # type: ignore[no-untyped-def]
    plan = pp.plan(build(), inputs=FEEDS, tolerance={"max_abs": 1e-2})
    assert plan.passed
    np.testing.assert_allclose(pp.simulate(plan.model, FEEDS)["y"], exact(is_zero), atol=1e-2)


def test_an_equal_with_another_number_is_no_question_about_the_mask() -> None:
    """Then the mask's number itself counts, so it stays."""
    model = unmasked()
    model.graph.node[1].input[1] = "other"
    model.graph.initializer.append(numpy_helper.from_array(F(np.finfo(F).min / 2), "other"))
    result = pp.rewrite(model, verify=False)
    kept = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert kept["neg"].dtype == np.float16 or kept["neg"] == np.finfo(F).min
