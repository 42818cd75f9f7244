"""How many values one output element of a node sums up."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from onnx import NodeProto

if TYPE_CHECKING:
    from precision_planner.model import Scope
    from precision_planner.rules.facts.model_facts import ModelFacts

__all__ = ["reduction"]


def reduction(facts: ModelFacts, scope: Scope, node: NodeProto) -> int | None:
    """The number of summands; None where it depends on a symbolic dimension or the op sums nothing.

    Args:
      facts: gives types and constants.
      scope: the node's graph.
      node: the node.
    """
    attributes = {attribute.name: attribute for attribute in node.attribute}

    def shape(slot: int) -> tuple[int | str | None, ...] | None:
        return facts.source.types.of(scope, node.input[slot]).shape if slot < len(node.input) else None

    first, second = shape(0), shape(1)
    match node.op_type:
        case "MatMul" | "MatMulInteger":
            # behind a Reshape to run-time sizes only the weights' shape is known
            length = _size(first, [-1])
            return length if length is not None or second is None else _size(second, [-2 if len(second) > 1 else -1])
        case "Gemm":
            transposed = "transA" in attributes and attributes["transA"].i
            length = _size(first, [0 if transposed else -1])
            transposed = "transB" in attributes and attributes["transB"].i
            return length if length is not None else _size(second, [-1 if transposed else 0])
        case "Conv":
            return None if second is None else _size(second, range(1, len(second)))
        case "ConvTranspose":
            return None if second is None else _size(second, [0])
        case "GlobalAveragePool":
            return None if first is None else _size(first, range(2, len(first)))
        case "AveragePool" | "LpPool":
            return prod(attributes["kernel_shape"].ints) if "kernel_shape" in attributes else None
        case "CumSum":
            axis = facts.number(scope, node.input[1])
            # a number that is no axis of any tensor, NaN included, is none
            return None if axis is None or axis not in range(-64, 64) else _size(first, [int(axis)])
        case "Softmax" | "LogSoftmax":
            return _size(first, [attributes["axis"].i if "axis" in attributes else -1])
    if not node.op_type.startswith("Reduce"):
        return None
    if "axes" in attributes:
        axes = list(attributes["axes"].ints)
    elif len(node.input) > 1 and node.input[1]:
        constant = facts.small_constant(scope, node.input[1])
        if constant is None:
            return None
        axes = [int(axis) for axis in constant.reshape(-1)]
    else:
        axes = [] if first is None else list(range(len(first)))
    return _size(first, axes)


def _size(shape: tuple[int | str | None, ...] | None, axes: list[int] | range) -> int | None:
    if shape is None:
        return None
    total = 1
    for axis in axes:
        if not -len(shape) <= axis < len(shape):
            return None
        dim = shape[axis]
        if not isinstance(dim, int):
            return None
        total *= dim
    return total
