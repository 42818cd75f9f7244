"""What onnxruntime's default optimizations take for a LayerNormalization: named where they do, and only there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.analysis.on_target import find_defects
from precision_planner.model import Model
from precision_planner.targets import get_target

_N = helper.make_node


def normalization(*, exponent: float = 2, swapped: bool = False, axis: int = -1, opset: int = 17) -> onnx.ModelProto:
    """A LayerNorm of the exporters, or something like it."""
    nodes = [
        _N("ReduceMean", ["x"], ["mean"], axes=[axis]), _N("Sub", ["mean", "x"] if swapped else ["x", "mean"], ["d"]),
        _N("Pow", ["d", "e"], ["p"]), _N("ReduceMean", ["p"], ["v"], axes=[axis]), _N("Add", ["v", "eps"], ["ve"]),
        _N("Sqrt", ["ve"], ["s"]), _N("Div", ["d", "s"], ["z"]), _N("Mul", ["z", "g"], ["zg"]),
        _N("Add", ["zg", "b"], ["y"]),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    constants = {"e": exponent, "eps": 1e-5, "g": rng.uniform(0.5, 1.5, 8), "b": rng.normal(size=8)}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 8, 8])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def answer(model: onnx.ModelProto, level: ort.GraphOptimizationLevel, disabled: list[str] | None = None) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )
    x = np.random.default_rng(1).normal(size=(2, 8, 8)).astype(np.float32) * 2
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize(
    "options", [{}, {"exponent": 3}, {"exponent": 4}, {"swapped": True}, {"axis": 1}], ids=lambda options: str(options)
)
def test_named_where_the_answer_changes(options: dict[str, float], opset: int) -> None:
    model = normalization(**options, opset=opset)  # type: ignore[arg-type]
    level = ort.GraphOptimizationLevel
    right, default = answer(model, level.ORT_DISABLE_ALL), answer(model, level.ORT_ENABLE_ALL)
    changes = not np.allclose(right, default, rtol=1e-3, atol=1e-3, equal_nan=True)
    found = find_defects(Model.load(model), get_target("onnxruntime"))
    assert bool(found) == changes
    if changes:
        assert len(found[0].nodes) >= 4
        assert "LayerNormFusionL1" in found[0].breaker
        disabled = ["LayerNormFusionL1", "LayerNormFusionL2"]
        np.testing.assert_allclose(answer(model, level.ORT_ENABLE_ALL, disabled), right, rtol=1e-4, atol=1e-4)


def test_no_other_target_is_told_of_it() -> None:
    assert not find_defects(Model.load(normalization(swapped=True)), get_target("tensorrt-11"))


@pytest.mark.slow
def test_a_plan_names_it() -> None:
    planned = pp.plan(normalization(swapped=True), target="onnxruntime", policy="rules")
    assert [entry["key"] for entry in planned.plan.known_defects] == ["layernorm-look-alike"]
