"""Producers, consumers, captures, constants, order and types."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import GraphIndex, Model, NodeId, infer_types, sorted_copy
from tests.model.graphs import body_of, model_of


def branchy() -> onnx.ModelProto:
    then = body_of([helper.make_node("Mul", ["h", "w"], ["t"], name="inner")], ["t"])
    deep = body_of([helper.make_node("Neg", ["w"], ["d"])], ["d"])
    other = body_of([helper.make_node("If", ["c"], ["e"], then_branch=deep, else_branch=deep)], ["e"])
    nodes = [
        helper.make_node("Abs", ["x"], ["h"], name="first"),
        helper.make_node("If", ["c"], ["", "y"], name="if", then_branch=then, else_branch=other),
    ]
    del nodes[1].output[0]
    proto = model_of(nodes, {"x": [2, 3]}, ["y"], {"w": np.ones((2, 3), np.float32)})
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return proto


def test_scopes_and_captures() -> None:
    index = GraphIndex(branchy())
    assert [scope.path for scope in index.scopes] == [
        (),
        ("y.else_branch",),
        ("y.else_branch", "e.else_branch"),
        ("y.else_branch", "e.then_branch"),
        ("y.then_branch",),
    ]
    main = index.main
    assert set(main.captures) == {"h", "w", "c"}
    assert len(main.captures["w"]) == 3
    assert main.is_read_elsewhere("h", {0, 1})
    then = index.by_path["y.then_branch",]
    assert index.resolve(then, "h") is main
    assert index.resolve(then, "nowhere") is None
    assert index.display(NodeId(("y.then_branch",), "t")) == "inner"
    assert index.display(NodeId((), "y")) == "if"
    assert index.find(NodeId((), "nowhere")) is None


def test_a_body_that_returns_an_outer_value_reads_it() -> None:
    body = body_of([], ["h"])
    proto = model_of(
        [
            helper.make_node("Abs", ["x"], ["h"]),
            helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body),
        ],
        {"x": [2]},
        ["y"],
    )
    main = GraphIndex(proto).main
    assert len(main.body_outputs["h"]) == 2
    assert main.is_read_elsewhere("h", {0, 1})


def test_a_function_sees_only_its_own_values() -> None:
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [helper.make_node("Mul", ["a", "w"], ["b"])], [helper.make_opsetid("", 17)]
    )
    proto = model_of(
        [helper.make_node("F", ["x"], ["y"], domain="local")], {"x": [2]}, ["y"], {"w": np.ones(2, np.float32)}
    )
    proto.functions.append(function)
    index = GraphIndex(proto)
    scope = index.by_path["fn:local:F:",]
    assert scope.kind == "function"
    assert index.resolve(scope, "w") is None
    assert index.main.captures == {}


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value": numpy_helper.from_array(np.array([1.5], np.float64))}, np.array([1.5])),
        ({"value_float": 2.5}, np.float32(2.5)),
        ({"value_floats": [1.0, 2.0]}, np.array([1.0, 2.0], np.float32)),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [7, 8]}, np.array([7, 8])),
    ],
)
def test_constants_of_every_kind_through_identity_and_captures(attribute, expected) -> None:
    body = body_of([helper.make_node("Neg", ["k2"], ["z"])], ["z"])
    nodes = [
        helper.make_node("Constant", [], ["k"], **attribute),
        helper.make_node("Identity", ["k"], ["k2"]),
        helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body),
    ]
    nodes.insert(0, helper.make_node("Cast", ["x"], ["c"], to=TensorProto.BOOL))
    model = Model.load(model_of(nodes, {"x": [1]}, ["y"]))
    index = GraphIndex(model.proto)
    found = index.constant(index.by_path["y.then_branch",], "k2", model)
    assert found is not None
    assert found.dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(found, expected)


def test_what_a_caller_can_replace_is_no_constant() -> None:
    proto = model_of([helper.make_node("Mul", ["x", "w"], ["y"])], {"x": [2]}, ["y"], {"w": np.ones(2, np.float32)})
    model = Model.load(proto)
    index = GraphIndex(model.proto)
    assert index.constant(index.main, "w", model) is not None
    assert index.constant(index.main, "w", model, max_elements=1) is None
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    overridable = Model.load(proto)
    index = GraphIndex(overridable.proto)
    assert index.constant(index.main, "w", overridable) is None
    assert index.constant(index.main, "x", overridable) is None


def test_nodes_without_name_or_output_have_an_identity() -> None:
    nodes = [helper.make_node("Abs", ["x"], ["y"]), helper.make_node("Sink", ["y"], [], domain="custom")]
    index = GraphIndex(model_of(nodes, {"x": [1]}, ["y"]))
    assert index.display(index.node_id(index.main, 0)) == "Abs(y)"
    sink = index.node_id(index.main, 1)
    assert index.find(sink) == (index.main, 1)


def test_sorting_is_stable_and_sees_captures() -> None:
    body = body_of([helper.make_node("Neg", ["h"], ["z"])], ["z"])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body),
        helper.make_node("Abs", ["g"], ["h"]),
        helper.make_node("Abs", ["x"], ["g"]),
        helper.make_node("Abs", ["x"], ["free"]),
    ]
    proto = model_of(nodes, {"x": [1]}, ["y"])
    assert [node.output[0] for node in sorted_copy(proto).graph.node] == ["g", "h", "y", "free"]
    assert [node.output[0] for node in proto.graph.node] == ["y", "h", "g", "free"]


def test_types_reach_bodies_and_unsorted_graphs() -> None:
    proto = branchy()
    first = onnx.NodeProto()
    first.CopyFrom(proto.graph.node[0])
    del proto.graph.node[0]
    proto.graph.node.append(first)
    model = Model.load(proto)
    types = infer_types(model)
    index = GraphIndex(model.proto)
    assert types.of(index.main, "h").shape == (2, 3)
    assert types.of(index.by_path["y.then_branch",], "t").elem_type == TensorProto.FLOAT
    assert types.of(index.by_path["y.then_branch",], "w").shape == (2, 3)
    assert types.of(index.main, "nowhere").elem_type == TensorProto.UNDEFINED


def test_inference_does_not_need_the_weights() -> None:
    weight = np.ones((512, 7), np.float32)
    model = Model.load(
        model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 512]}, ["y"], {"w": weight})
    )
    assert model.proto.ByteSize() < 500
    assert infer_types(model).of(GraphIndex(model.proto).main, "y").shape == ("n", 7)
