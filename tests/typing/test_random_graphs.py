"""Properties of random graphs of typed operators: what must hold for every graph and every set of decisions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import GraphIndex, Model
from precision_planner.rewriting import convert
from precision_planner.typing import ELEMENT_TYPES, Decision, TypingOptions, assign_types
from tests.gates import check_onnx, check_onnxruntime, check_shapes

UNARY = ("Exp", "Relu", "Identity", "Softmax", "Transpose", "Cast", "Sigmoid", "Celu", "MeanVarianceNormalization")
BINARY = ("Add", "Mul", "MatMul", "Concat", "Where", "Max")


@dataclass
class Drawn:
    model: onnx.ModelProto
    precisions: list[str]
    io_types: str


@st.composite
def graphs(draw: st.DrawFn) -> Drawn:
    """Square 4x4 values, every reader choosing any earlier value, captures of an If included."""
    values, nodes, precisions = ["x", "z"], [], []
    weights = {f"w{at}": np.full((4, 4), 0.25, np.float32) for at in range(draw(st.integers(1, 2)))}
    constants = list(weights)
    for at in range(draw(st.integers(1, 9))):
        name, pool = f"v{at}", values + constants
        kind = draw(st.sampled_from(("unary", "binary", "if", "constant")))
        if kind == "unary":
            op = draw(st.sampled_from(UNARY))
            source = draw(st.sampled_from(values))
            attributes = {"Cast": {"to": TensorProto.FLOAT}, "MeanVarianceNormalization": {"axes": [0]}}.get(op, {})
            nodes.append(helper.make_node(op, [source], [name], name=f"n{at}", **attributes))
        elif kind == "binary":
            op = draw(st.sampled_from(BINARY))
            left, right = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
            if op == "Where":
                nodes.append(helper.make_node("Greater", [left, right], [f"{name}_c"], name=f"n{at}_c"))
                nodes.append(helper.make_node("Where", [f"{name}_c", left, right], [name], name=f"n{at}"))
            elif op == "Concat":
                nodes.append(helper.make_node("Concat", [left, right], [f"{name}_c"], name=f"n{at}_c", axis=0))
                nodes.append(helper.make_node("Slice", [f"{name}_c", "from", "to"], [name], name=f"n{at}"))
            else:
                nodes.append(helper.make_node(op, [left, right], [name], name=f"n{at}"))
        elif kind == "constant":
            value = numpy_helper.from_array(np.full((4, 4), 0.5, np.float32), "")
            nodes.append(helper.make_node("Constant", [], [name], name=f"n{at}", value=value))
        else:
            left, right = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
            ops = [draw(st.sampled_from(("Exp", "Identity", "Celu"))) for _ in range(2)]
            bodies = [
                helper.make_graph(
                    [helper.make_node(op, [source], [f"{name}_b{side}"], name=f"n{at}_b{side}")],
                    f"b{side}",
                    [],
                    [helper.make_tensor_value_info(f"{name}_b{side}", TensorProto.FLOAT, [4, 4])],
                )
                for side, (op, source) in enumerate(zip(ops, (left, right), strict=True))
            ]
            nodes.append(
                helper.make_node("If", ["c"], [name], name=f"n{at}", then_branch=bodies[0], else_branch=bodies[1])
            )
        values.append(name)
    precisions = [draw(st.sampled_from(("", "", "", "fp32", "bf16", "fp16"))) for _ in range(40)]
    made = [node.output[0] for node in nodes if node.output[0] in values]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    floats = [(name, TensorProto.FLOAT) for name in ("x", "z")]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            *(helper.make_tensor_value_info(n, t, [4, 4]) for n, t in floats),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in outputs],
        [
            *(numpy_helper.from_array(array, name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([0], np.int64), "from"),
            numpy_helper.from_array(np.array([4], np.int64), "to"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Drawn(model, precisions, draw(st.sampled_from(("keep", "low", f"low={outputs[0]},x"))))


def _convert(drawn: Drawn, low: str = "fp16") -> tuple[Model, Model, object]:
    model = Model.load(drawn.model)
    index = GraphIndex(model.proto)
    decisions = {}
    for number, (scope, position, _) in enumerate(index.nodes()):
        precision = drawn.precisions[number % len(drawn.precisions)]
        if precision:
            decisions[index.node_id(scope, position)] = Decision(precision, "drawn")  # type: ignore[arg-type]
    assignment = assign_types(model, decisions, TypingOptions(low, drawn.io_types))  # type: ignore[arg-type]
    return model, convert(model, assignment).model, assignment


@given(graphs())
@settings(max_examples=150)
def test_every_typed_graph_is_valid(drawn: Drawn) -> None:
    """onnx.checker in full and strict inference accept it; the interface has the types asked for and its names."""
    model, typed, _ = _convert(drawn)
    proto = typed.to_proto()
    check_onnx(proto)
    check_shapes(proto)
    for before, after in zip(
        (*model.proto.graph.input, *model.proto.graph.output), (*proto.graph.input, *proto.graph.output), strict=True
    ):
        assert before.name == after.name
        if drawn.io_types == "keep":
            assert before.type == after.type


@given(graphs())
@settings(max_examples=60)
def test_without_bfloat16_onnxruntime_loads_it(drawn: Drawn) -> None:
    drawn.precisions = ["" if precision == "bf16" else precision for precision in drawn.precisions]
    check_onnxruntime(_convert(drawn)[1].to_proto())


@given(graphs())
@settings(max_examples=100)
def test_the_assignment_says_what_the_graph_is(drawn: Drawn) -> None:
    """The simulation reads the assignment, the builder the graph: shape inference must find the assigned types."""
    _, typed, assignment = _convert(drawn)
    proto = onnx.shape_inference.infer_shapes(typed.to_proto())
    found = {
        info.name: info.type.tensor_type.elem_type
        for info in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    }
    interface = {info.name for info in proto.graph.output}
    for (path, value), element in assignment.storage.items():  # type: ignore[attr-defined]
        if not path and value in found and value not in interface:
            assert found[value] == element, value
    for name, element in assignment.outputs.items():  # type: ignore[attr-defined]
        assert found[name] == element


@given(graphs())
@settings(max_examples=100)
def test_decided_arithmetic_has_its_type_and_casts_are_not_redundant(drawn: Drawn) -> None:
    _, typed, assignment = _convert(drawn)
    for node in assignment.nodes.values():  # type: ignore[attr-defined]
        if node.decided and not node.forced and node.reason == "drawn" and not node.moves:
            assert node.io == ELEMENT_TYPES[node.compute]
    proto = onnx.shape_inference.infer_shapes(typed.to_proto())
    types = {
        i.name: i.type.tensor_type.elem_type for i in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    }
    seen: set[tuple[str, int]] = set()
    for node in proto.graph.node:
        if "__cast_" in node.name:
            key = (node.input[0], helper.get_node_attr_value(node, "to"))
            assert key not in seen
            assert types.get(key[0], 0) != key[1]
            seen.add(key)


@given(graphs())
@settings(max_examples=60)
def test_all_in_fp32_is_the_very_model(drawn: Drawn) -> None:
    drawn.precisions, drawn.io_types = ["fp32"], "keep"
    model, typed, _ = _convert(drawn)
    assert typed is model
