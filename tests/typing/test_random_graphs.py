"""Properties of random graphs of typed operators: what must hold for every graph and every set of decisions."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from onnx import helper

from precision_planner.model import GraphIndex, Model
from precision_planner.rewriting import convert
from precision_planner.typing import ELEMENT_TYPES, TypingOptions, assign_types
from tests.gates import check_onnx, check_onnxruntime, check_shapes
from tests.random_graphs import Drawn, decisions_of, graphs


def _convert(drawn: Drawn, low: str = "fp16") -> tuple[Model, Model, object]:
    model = Model.load(drawn.model)
    index = GraphIndex(model.proto)
    assignment = assign_types(model, decisions_of(drawn, index), TypingOptions(low, drawn.io_types))  # type: ignore[arg-type]
    return model, convert(model, assignment).model, assignment


@pytest.mark.slow
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


@pytest.mark.slow
@given(graphs())
@settings(max_examples=60)
def test_without_bfloat16_onnxruntime_loads_it(drawn: Drawn) -> None:
    drawn.precisions = ["" if precision == "bf16" else precision for precision in drawn.precisions]
    check_onnxruntime(_convert(drawn)[1].to_proto())


@pytest.mark.slow
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


@pytest.mark.slow
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
