"""The one editor of graphs: lists written anew, in graphs, bodies and functions, and names that nobody has."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from precision_planner.model import GraphIndex, Model, Scope
from precision_planner.model.edit import Edit, apply_edits, rewrite_nodes, set_items, set_nodes

NESTED = """
<ir_version: 10, opset_import: ["" : 20, "own" : 1]>
case (float[4] x, bool c) => (float[4] y) <float[4] w = {1, 2, 3, 4}> {
  [first] a = Mul(x, w)
  [branch] b = If(c) <then_branch = yes () => (float[4] t) { [inner] t = Exp(a) },
                      else_branch = no () => (float[4] e) { [other] e = Neg(a) }>
  [call] y = own.twice(b)
}
<domain: "own", opset_import: ["" : 20]> twice (u) => (v) { [body] v = Add(u, u) }
"""


def nested() -> onnx.ModelProto:
    return onnx.parser.parse_model(NESTED)


def answer(proto: onnx.ModelProto) -> np.ndarray:
    feeds = {"x": np.array([0.5, -1, 2, 0], np.float32), "c": np.array(True)}
    onnx.checker.check_model(proto)
    return np.asarray(ReferenceEvaluator(proto).run(None, feeds)[0])


RIGHT = 2 * np.exp(np.array([0.5, -2, 6, 0]))


def test_a_list_may_be_written_from_its_own_nodes():
    graph = nested().graph
    first, branch, call = graph.node
    extra = helper.make_node("Identity", ["x"], ["z"])
    set_nodes(graph, [call, extra, first])
    assert [list(node.output) for node in graph.node] == [["y"], ["z"], ["a"]]
    assert branch.op_type == "If", "what is gone can still be read"
    set_items(graph.initializer, [])
    assert not graph.initializer


def test_every_node_is_given_what_stands_in_its_place_in_bodies_and_functions_too():
    proto = nested()
    seen = []

    def write(scope: Scope, position: int, node: NodeProto) -> list[NodeProto]:
        seen.append((scope.path, position))
        if node.op_type not in ("Mul", "Exp", "Add"):
            return [node]
        result, node.output[0] = node.output[0], f"{node.output[0]}_"
        return [node, helper.make_node("Identity", [node.output[0]], [result])]

    index = GraphIndex(proto)
    assert rewrite_nodes(index, write)
    # the If is copied with its body as the body is now, not as it was
    counts = {scope.path: len(scope.nodes) for scope in GraphIndex(proto).scopes}
    assert sorted(counts.values()) == [1, 2, 2, 4]
    assert len(seen) == 6
    np.testing.assert_allclose(answer(proto), RIGHT, rtol=1e-6)


def test_what_stays_is_not_written():
    proto = nested()
    first = proto.graph.node[0]
    assert not rewrite_nodes(GraphIndex(proto), lambda _, __, node: [node])
    first.name = "still there"
    assert proto.graph.node[0].name == "still there"


def test_edits_of_a_body_and_of_the_graph_around_it_are_applied_together():
    """A constant of a function is a node, of a graph an initializer."""
    model = Model.load(nested())
    index = GraphIndex(model.proto)
    edits = []
    for scope in index.scopes:
        for position, node in enumerate(scope.nodes):
            if node.op_type in ("Exp", "Mul", "Add"):
                edit = Edit(scope.path, rewire={(position, 0): f"{node.name}_in"})
                edit.constants.append(numpy_helper.from_array(np.array([2], np.float32), f"{node.name}_by"))
                made = helper.make_node("Mul", [node.input[0], f"{node.name}_by"], [f"{node.name}_in"], node.name)
                edit.insert.append((position, made))
                edits.append(edit)
    edits.append(Edit((), replace={"w": np.ones(4, np.float32)}))
    proto = apply_edits(model, edits).to_proto()
    assert [node.op_type for node in proto.functions[0].node] == ["Constant", "Mul", "Add"]
    x = np.array([0.5, -1, 2, 0])
    np.testing.assert_allclose(answer(proto), 3 * np.exp(2 * 2 * x), rtol=1e-6)
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names), "one place twice has two names"
    np.testing.assert_allclose(answer(model.to_proto()), RIGHT, rtol=1e-6)


@pytest.mark.parametrize("what", ["remove", "insert", "rewire", "attributes", "reads"])
def test_an_edit_touches_what_it_changes_and_what_it_rests_on(what: str) -> None:
    node = helper.make_node("Neg", ["x"], ["y"])
    given = {
        "remove": {3},
        "insert": [(3, node)],
        "rewire": {(3, 1): "z"},
        "attributes": {(3, "axis"): 1},
        "reads": {3},
    }
    assert Edit(("a",), **{what: given[what]}).touched == {(("a",), 3)}
