"""A single fault in a normalization, on fixed and on dynamic axes: never fused into another function."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.errors import ModelError
from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.patterns import find_patterns
from precision_planner.transforms import float64_judgement
from precision_planner.transforms.fuse import fuse

FLOAT = TensorProto.FLOAT
X = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32) * 2 + 0.5
node = helper.make_node

FAULTS: dict[str, dict[str, tuple[str, list[str], dict]]] = {
    "none": {},
    "absolute value": {"numerator": ("Sqrt", ["sq"], {})},
    "absolute value by a power": {"numerator": ("Pow", ["sq", "half"], {})},
    "root of x": {"numerator": ("Sqrt", ["d"], {})},
    "another axis": {"var": ("ReduceMean", ["sq"], {"axes": [0], "keepdims": 1})},
    "sum for mean": {"var": ("ReduceSum", ["sq", "axis"], {"keepdims": 1})},
    "not centered": {"numerator": ("Identity", ["x"], {})},
    "centered twice": {"numerator": ("Sub", ["d", "mu"], {})},
    "epsilon outside": {"ve": ("Identity", ["var"], {}), "s": ("Add", ["sv", "eps"], {})},
    "cube": {"sq": ("Pow", ["d", "three"], {})},
    "fourth root": {"s": ("Sqrt", ["sv"], {})},
    "the largest": {"mu": ("ReduceMax", ["x"], {"axes": [-1], "keepdims": 1})},
}
"""Fault -> the nodes that differ, by their outputs."""


def normalization(batch: int | str, fault: str) -> onnx.ModelProto:
    """(x - mean) / sqrt(var + eps) over the last axis, node by node, with one fault."""
    changed = FAULTS[fault]
    nodes = {
        "mu": ("ReduceMean", ["x"], {"axes": [-1], "keepdims": 1}),
        "d": ("Sub", ["x", "mu"], {}),
        "sq": ("Mul", ["d", "d"], {}),
        "var": ("ReduceMean", ["sq"], {"axes": [-1], "keepdims": 1}),
        "ve": ("Add", ["var", "eps"], {}),
        "sv": ("Sqrt", ["ve"], {}),
        "s": ("Identity", ["sv"], {}),
        "numerator": ("Identity", ["d"], {}),
        "y": ("Div", ["numerator", "s"], {}),
        **changed,
    }
    constants = {"eps": 1e-5, "half": 0.5, "three": 3.0}
    graph = helper.make_graph(
        [node(op, inputs, [output], output, **attributes) for output, (op, inputs, attributes) in nodes.items()],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [batch, 8])],
        [helper.make_tensor_value_info("y", FLOAT, [batch, 8])],
        [
            *(numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()),
            numpy_helper.from_array(np.array([-1]), "axis"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answer(model: onnx.ModelProto) -> np.ndarray:
    with Session(Model.load(model)) as session:
        return session.run({"x": X})["y"]


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("batch", [4, "batch"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_normalization_stays_what_it_is(fault: str, batch: int | str, given: bool) -> None:
    model = normalization(batch, fault)
    inputs = {"x": X} if given else None
    result = pp.rewrite(model, precision="fp32", fuse=["layernorm"], inputs=inputs)
    before, after = answer(model), answer(result.model)
    assert (len(result.report["fused"]) == 1) == (fault == "none")
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [4, "batch"])
def test_the_check_by_numbers_is_no_circle(batch: int | str) -> None:
    """The absolute value, with a recognizer that takes it for a normalization: the run in float64 still says no."""
    good, bad = normalization(batch, "none"), normalization(batch, "absolute value")
    fused = fuse(Model.load(good), find_patterns(Model.load(good)), kinds=["layer_normalization"])
    assert len(fused.fused) == 1
    match = fused.fused[0]
    judged = float64_judgement.judge(Model.load(bad), fused.model, [match], {"x": X})
    assert judged.passed is False
    assert "the error against float64 grew" in judged.reason
    right = float64_judgement.judge(Model.load(good), fused.model, [match], {"x": X})
    assert right.passed is True


def test_a_check_that_could_not_run_is_none_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.load(normalization("batch", "none"))
    fused = fuse(model, find_patterns(model), kinds=["layer_normalization"])

    monkeypatch.setattr(float64_judgement, "_by_reference", lambda *_: [])
    real = float64_judgement.Session

    class Refusing(real):  # type: ignore[misc, valid-type]
        def __init__(self, model: Model, *rest: object, **options: object) -> None:
            if any(v.type.tensor_type.elem_type == TensorProto.DOUBLE for v in model.proto.graph.input):
                raise ModelError("no kernel in float64")
            super().__init__(model, *rest, **options)

    monkeypatch.setattr(float64_judgement, "Session", Refusing)
    judged = float64_judgement.judge(model, fused.model, fused.fused, {"x": X})
    assert judged.passed is None
    assert "1 of 1 fusions could not be checked, such as the one of y: no kernel in float64" in judged.reason


def test_an_epsilon_that_adds_an_axis_is_refused() -> None:
    """What it makes has three axes where x has two, with and without a check by numbers."""
    model = normalization(4, "none")
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name="y"))
    [eps] = [tensor for tensor in model.graph.initializer if tensor.name == "eps"]
    eps.CopyFrom(numpy_helper.from_array(np.full((1, 1, 1), 1e-5, np.float32), "eps"))
    for verify in (False, True):
        result = pp.rewrite(model, precision="fp32", fuse=["layernorm"], verify=verify)
        assert result.report["fused"] == []
        assert answer(result.model).shape == answer(model).shape == (1, 4, 8)


def test_a_softplus_is_repaired_once() -> None:
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array((rng.standard_normal((16, 16)) / 4).astype(np.float32), "w")]
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Softplus", ["h"], ["s"]), node("MatMul", ["s", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(name, FLOAT, ["b", 16]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    planned = pp.plan(model, inputs={"x": (rng.standard_normal((8, 16)) * 20).astype(np.float32)})
    assert [repair["repair"] for repair in planned.plan.repairs].count("stable_softplus") <= 1
    assert sum(entry.op_type == "Relu" for entry in planned.plan.nodes) <= 1
