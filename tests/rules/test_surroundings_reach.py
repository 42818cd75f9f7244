"""Angles and indices are followed back to their source: through Resize, CumSum, branches and local functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.model.flow import Flow
from precision_planner.rules.facts.surroundings import find_surroundings

F = np.float32


def info(name: str, shape: list[int], element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def resized() -> list[onnx.NodeProto]:
    return [node("Resize", ["f", "", "twice"], "p", mode="linear")]


def cumulated() -> list[onnx.NodeProto]:
    return [node("CumSum", ["f", "axis"], "p")]


def branched() -> list[onnx.NodeProto]:
    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph([node(op, ["f", "half"], op)], op, [], [info(op, [1, 1, 8])])

    return [node("If", ["flag"], "p", then_branch=branch("Add"), else_branch=branch("Sub"))]


def called() -> list[onnx.NodeProto]:
    return [node("shift", ["f"], "p", domain="my")]


FUNCTION = helper.make_function(
    "my", "shift", ["a"], ["r"], [node("Neg", ["a"], "r")], [helper.make_opsetid("", 17)]
)  # fmt: skip


def surroundings(between: list[onnx.NodeProto], after: list[onnx.NodeProto]) -> dict[str, frozenset[str]]:
    constants = {"twice": np.array([1, 1, 2], F), "axis": np.array(2), "half": F(0.5), "table": np.zeros((64, 2), F)}
    graph = helper.make_graph(
        [node("Cast", ["i"], "f", to=TensorProto.FLOAT), *between, *after],
        "g",
        [info("i", [1, 1, 8], TensorProto.INT64), info("flag", [], TensorProto.BOOL)],
        [info("y", [])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    model = Model.load(helper.make_model(graph, opset_imports=imports, functions=[FUNCTION], ir_version=9))
    index = GraphIndex(model.proto)
    found = find_surroundings(index, Flow(index), infer_types(model, index), lambda scope, name: None)
    return {
        scope.nodes[position].op_type: found.get((scope.path, position), frozenset())
        for scope, position, _ in index.nodes()
    }


WAYS = [(resized, ["Resize"]), (cumulated, ["CumSum"]), (branched, ["Add", "Sub"]), (called, ["Neg"])]


@pytest.mark.parametrize(("between", "on_the_way"), WAYS)
def test_angles(between, on_the_way: list[str]) -> None:  # type: ignore[no-untyped-def]
    found = surroundings(between(), [node("Sin", ["p"], "y")])
    assert all("angles" in found[op] for op in (*on_the_way, "Cast"))


@pytest.mark.parametrize(("between", "on_the_way"), WAYS)
def test_indices(between, on_the_way: list[str]) -> None:  # type: ignore[no-untyped-def]
    after = [helper.make_node("Cast", ["p"], ["pi"], to=TensorProto.INT64), node("Gather", ["table", "pi"], "y")]
    found = surroundings(between(), after)
    assert all("index_arithmetic" in found[op] for op in on_the_way)


@pytest.mark.parametrize(("between", "on_the_way"), WAYS)
def test_a_product_ends_the_way(between, on_the_way: list[str]) -> None:  # type: ignore[no-untyped-def]
    after = [
        node("Relu", ["p"], "r"),
        node("GlobalAveragePool", ["r"], "g"),
        helper.make_node("Cast", ["g"], ["gi"], to=TensorProto.INT64),
        node("Gather", ["table", "gi"], "y"),
    ]
    found = surroundings(between(), after)
    assert not any("index_arithmetic" in found[op] for op in on_the_way)
