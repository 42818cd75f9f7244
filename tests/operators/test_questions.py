"""The questions about operators, asked slot by slot of nodes whose answer ONNX's text gives."""

from __future__ import annotations

import pytest
from onnx import helper

from precision_planner.operators import ANYHOW, carries, computes_with


@pytest.mark.parametrize(
    ("op_type", "count", "handed_on"),
    [
        ("Reshape", 2, {0}),
        ("Identity", 1, {0}),
        ("Transpose", 1, {0}),
        ("Slice", 5, {0}),
        ("Add", 2, set()),
        ("Relu", 1, set()),
    ],
)
def test_the_values_of_one_input_are_handed_on_and_not_those_of_indices_or_shapes(
    op_type: str, count: int, handed_on: set[int]
) -> None:
    node = helper.make_node(op_type, [f"i{slot}" for slot in range(count)], ["y"])
    assert {slot for slot in range(count) if carries(node, slot)} == handed_on


def test_where_others_stand_beside_the_values_it_has_to_be_asked_for() -> None:
    where = helper.make_node("Where", ["c", "a", "b"], ["y"])
    assert [carries(where, slot) for slot in range(3)] == [False, False, False]
    assert [carries(where, slot, ANYHOW) for slot in range(3)] == [False, True, True]
    gather = helper.make_node("Gather", ["a", "i"], ["y"])
    assert [carries(gather, slot, ANYHOW) for slot in range(2)] == [True, False]
    cast = helper.make_node("Cast", ["a"], ["y"], to=1)
    assert carries(cast, 0)
    assert not carries(cast, 0, casts=False)


@pytest.mark.parametrize(
    ("op_type", "count", "operands"),
    [("Add", 2, {0, 1}), ("Gather", 2, {0}), ("Slice", 5, {0}), ("Expand", 2, {0}), ("MatMul", 2, set())],
)
def test_an_index_is_nothing_to_compute_with(op_type: str, count: int, operands: set[int]) -> None:
    node = helper.make_node(op_type, [f"i{slot}" for slot in range(count)], ["y"])
    assert {slot for slot in range(count) if computes_with(node, slot)} == operands
