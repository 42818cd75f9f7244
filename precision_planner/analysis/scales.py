"""Attention scales that TensorRT folds into weights: 1/sqrt(head size) on the scores, on the query or on the key.

TensorRT 8.6 multiplies the scale into the weights of the query or key projection before it converts them, so that
weights which are in range by themselves underflow. Walked backwards from each Softmax: through mask and scale to the
product of query and key, and from each of them through reshapes, transposes, scale and bias to its projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from precision_planner.model import GraphIndex, Model, Scope, display_name
from precision_planner.model.flow import Flow
from precision_planner.operators import RESHAPES, carries, combines, domain_of, row_of

__all__ = ["FoldedScale", "folded_scales"]

STEPS = 24
"""Nodes walked back from a Softmax to its scores, or from a query to its projection."""


@dataclass(frozen=True, slots=True)
class FoldedScale:
    """A scalar factor of attention, and the projections that it can be folded into.

    Attributes:
      scale: the factor, above zero; Div by 8 is 0.125.
      node: display name of the node that applies it.
      side: "scores", "query" or "key": where it stands in the graph.
      tensors: (scope path, name) of the weights and biases that it can be folded into: the query's projection first,
        then the key's; of one side alone where it stands on that side.
    """

    scale: float
    node: str
    side: str
    tensors: tuple[tuple[tuple[str, ...], str], ...]


def folded_scales(model: Model, index: GraphIndex) -> list[FoldedScale]:
    """Every attention scale of a model that stands on scores, query or key and has a projection to be folded into.

    Args:
      model: any model.
      index: of the model.
    """
    walker = _Walker(model, index)
    return [
        found
        for scope, _, node in index.nodes()
        if node.op_type == "Softmax" and row_of(node).scores
        for found in walker.attention(scope, node)
    ]


class _Walker:
    def __init__(self, model: Model, index: GraphIndex) -> None:
        self._model, self._index, self._flow = model, index, Flow(index)

    def attention(self, scope: Scope, softmax: NodeProto) -> Iterator[FoldedScale]:
        """The scales of one attention."""
        product, on_scores = self._scores(scope, softmax.input[0])
        if product is None:
            return
        sides = {
            "query": self._projection(scope, product.input[0]),
            "key": self._projection(scope, product.input[1]),
        }
        tensors = {side: found for side, (found, _) in sides.items()}
        for factor, node in on_scores:
            if tensors["query"] or tensors["key"]:
                yield FoldedScale(factor, display_name(node), "scores", (*tensors["query"], *tensors["key"]))
        for side, (found, scales) in sides.items():
            for factor, node in scales:
                if found:
                    yield FoldedScale(factor, display_name(node), side, found)

    def _scores(self, scope: Scope, value: str) -> tuple[NodeProto | None, list[tuple[float, NodeProto]]]:
        """The product of query and key behind a Softmax's input, and the scales on the way."""
        scales: list[tuple[float, NodeProto]] = []
        waiting, seen = [value], 0
        while waiting and seen < STEPS:
            node = scope.producer_node(waiting.pop(0))
            seen += 1
            if node is None:
                continue
            scaled = self._scale(scope, node)
            if node.op_type == "MatMul" and not domain_of(node):
                if self._is_activation(scope, node.input[0]) and self._is_activation(scope, node.input[1]):
                    return node, scales
            elif scaled is not None:
                scales.append((scaled[0], node))
                waiting.insert(0, scaled[1])
            elif carries(node, 0, RESHAPES):
                waiting.append(node.input[0])
            elif combines(node):
                waiting.extend(name for name in node.input if name)
        return None, []

    def _projection(
        self, scope: Scope, value: str
    ) -> tuple[tuple[tuple[tuple[str, ...], str], ...], list[tuple[float, NodeProto]]]:
        """The weight and the bias behind a query or key, and the scales on the way; no weight behind a split."""
        scales: list[tuple[float, NodeProto]] = []
        biases: list[tuple[tuple[str, ...], str]] = []
        for _ in range(STEPS):
            node = scope.producer_node(value)
            if node is None:
                break
            scaled = self._scale(scope, node)
            constants = [name for name in node.input if name and not self._is_activation(scope, name)]
            if row_of(node).product == "matmul" and constants:
                weights = [self._key(scope, name) for name in constants]
                return (*weights, *biases), scales
            if scaled is not None:
                scales.append((scaled[0], node))
                value = scaled[1]
            elif carries(node, 0, RESHAPES):
                value = node.input[0]
            elif node.op_type == "Add" and not domain_of(node) and len(constants) == 1:
                biases.append(self._key(scope, constants[0]))
                value = next(name for name in node.input if name != constants[0])
            else:
                break
        return (), []

    def _scale(self, scope: Scope, node: NodeProto) -> tuple[float, str] | None:
        """(factor, the scaled value) of a multiplication or division by a positive scalar that is not 1."""
        if domain_of(node) or node.op_type not in ("Mul", "Div") or len(node.input) != 2:
            return None
        for slot in (1, 0) if node.op_type == "Mul" else (1,):
            number = self._number(scope, node.input[slot])
            if number is not None and np.isfinite(number) and number > 0:
                factor = number if node.op_type == "Mul" else 1 / number
                return (factor, node.input[1 - slot]) if factor != 1 else None
        return None

    def _number(self, scope: Scope, value: str, depth: int = 6) -> float | None:
        """The value of a scalar constant, through the little arithmetic that exporters leave on it."""
        constant = self._index.constant(scope, value, self._model, 1)
        if constant is not None:
            return float(constant.reshape(-1)[0]) if constant.size == 1 else None
        node = scope.producer_node(value)
        if node is None or not depth or domain_of(node):
            return None
        numbers = [self._number(scope, name, depth - 1) for name in node.input if name]
        if not numbers or any(number is None for number in numbers):
            return None
        known = [number for number in numbers if number is not None]
        with np.errstate(all="ignore"):
            match node.op_type, known:
                case "Sqrt", [x] if x >= 0:
                    return float(np.sqrt(x))
                case "Reciprocal", [x] if x:
                    return 1 / x
                case (("Cast" | "Identity"), [x]):
                    return x
                case "Div", [x, y] if y:
                    return x / y
                case "Mul", [x, y]:
                    return x * y
                case "Pow", [x, y] if x > 0:
                    return float(np.power(x, y))
                case _:
                    return None

    def _is_activation(self, scope: Scope, value: str) -> bool:
        """Whether a value is computed from an input, as far as its maker shows: no initializer, no Constant."""
        made = self._flow.maker(scope, value, _keeps)
        if made is None or self._index.resolve(scope, value) is None:
            return True
        if made.node is None:
            return made.value not in made.scope.initializers and made.value not in made.scope.sparse_initializers
        return made.node.op_type != "Constant" or bool(domain_of(made.node))

    def _key(self, scope: Scope, value: str) -> tuple[tuple[str, ...], str]:
        """Where a constant is held: behind what only moves it, in a scope around if need be."""
        made = self._flow.maker(scope, value, _keeps)
        return (scope.path, value) if made is None else (made.scope.path, made.value)


def _keeps(node: NodeProto, slot: int) -> bool:
    """Whether a node hands on a constant as a whole: a part of it (a split) is no weight of one projection."""
    return carries(node, slot, RESHAPES)
