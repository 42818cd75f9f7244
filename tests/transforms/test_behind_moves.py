"""A flushed weight behind what only moves it: census, rule and repair say the same as of one that is read directly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.model import GraphIndex, Model
from precision_planner.transforms.repairs import RepairRequest, apply_repairs

F = np.float32
W = np.random.default_rng(0).normal(0, 1e-8, (64, 64)).astype(F)
"""Under 2^-25, all of it: FP16 holds none."""
X = np.random.default_rng(1).normal(0, 1000, (4, 64)).astype(F)

A = np.array
CARRIERS: dict[str, tuple[np.ndarray, dict[str, np.ndarray], dict[str, object]]] = {
    "Identity": (W, {}, {}),
    "Transpose": (W.T.copy(), {}, {"perm": [1, 0]}),
    "Reshape": (W.reshape(-1), {"s": A([64, 64])}, {}),
    "Squeeze": (W[None], {"a": A([0])}, {}),
    "Unsqueeze": (W, {"a": A([0])}, {}),
    "Flatten": (W.reshape(64, 8, 8), {}, {"axis": 1}),
    "Split": (np.concatenate([W, W], 1), {"s": A([64, 64])}, {"axis": 1}),
    "Slice": (np.concatenate([W, W], 1), {"b": A([0]), "e": A([64]), "a": A([1])}, {}),
    "Tile": (W[:, :32].copy(), {"r": A([1, 2])}, {}),
    "Cast": (W.astype(np.float64), {}, {"to": TensorProto.FLOAT}),
}


def model_of(carrier: str) -> Model:
    weight, others, attributes = CARRIERS[carrier]
    outputs = ["v", "unused"] if carrier == "Split" else ["v"]
    nodes = [
        helper.make_node(carrier, ["w", *others], outputs, **attributes),
        helper.make_node("MatMul", ["x", "v"], ["y"], name="mm"),
    ]
    rank = [1, 4, 64] if carrier == "Unsqueeze" else [4, 64]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, rank)],
        [numpy_helper.from_array(weight, "w"), *(numpy_helper.from_array(a, k) for k, a in others.items())],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return Model.load(proto)


def exact(carrier: str) -> np.ndarray:
    weight = np.tile(W[:, :32], (1, 2)) if carrier == "Tile" else W
    return X.astype(np.float64) @ weight.astype(np.float64)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_census_and_rule_see_the_weight(carrier: str) -> None:
    analysis = pp.analyze(model_of(carrier))
    weight = next(tensor for tensor in analysis.weights if tensor.name == "w")
    assert weight.role == "matmul_weight"
    assert weight.assessment.verdict == "lost"
    finding = next(finding for finding in analysis.findings if finding.rule == "WT002")
    assert finding.action["kind"] == "rescale"


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_weight_is_rescaled(carrier: str) -> None:
    model = model_of(carrier)
    index = GraphIndex(model.proto)
    mm = next(index.node_id(scope, at) for scope, at, node in index.nodes() if node.name == "mm")
    repaired = apply_repairs(model, [RepairRequest("rescale_weight", nodes=(mm,), value="w")])
    assert repaired.applied
    low = pp.rewrite(repaired.model, verify=False).model
    want = exact(carrier)
    got = pp.simulate(low, {"x": X})["y"].reshape(4, 64)
    assert np.linalg.norm(got - want) < 1e-3 * np.linalg.norm(want)


def test_a_cast_to_integers_hands_no_power_on() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["w"], ["i"], to=TensorProto.INT32),
            helper.make_node("Cast", ["i"], ["v"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["x", "v"], ["y"], name="mm"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 64])],
        [numpy_helper.from_array(W, "w")],
    )
    model = Model.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    index = GraphIndex(model.proto)
    mm = next(index.node_id(scope, at) for scope, at, node in index.nodes() if node.name == "mm")
    assert not apply_repairs(model, [RepairRequest("rescale_weight", nodes=(mm,), value="w")]).applied
