"""FP32 islands that a builder leaves standing.

    half -> Cast(FP32) -> [Reshape, Transpose] -> product with FP32 weights -> [Reshape, Transpose] -> Cast(half)

Some builders take this for one half kernel, and the engine holds half weights: 1e-8 becomes 0, 1e5 inf, silently.
Whatever else is in FP32 inside keeps the island: an added bias, a Relu, a second product, a reader. Where nothing
else is there, this pass puts what was seen to hold on TensorRT 10.6 and TensorRT-RTX alike, and is cheap, before the
product: an Add of zero, which changes no value (-0 becomes 0). Behind the product an Add of zero does not hold for
convolutions on TensorRT-RTX, and Identity or Mul by one not even for MatMul (evidence/tensorrt106, islands).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import GraphIndex, Model, Scope, TypeTable, infer_types
from precision_planner.model.edit import PassResult, rewrite_nodes
from precision_planner.model.names import FreshNames
from precision_planner.operators import RESHAPES, moves_values
from precision_planner.targets.target import Islands
from precision_planner.typing import Key

__all__ = ["IslandsResult", "keep_islands"]

LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True, slots=True)
class IslandsResult(PassResult):
    """A model whose islands stay.

    Attributes:
      model: the model; the one given where nothing was to be done.
      products: first outputs of the products that were given an Add of zero.
    """

    products: tuple[str, ...] = ()


def keep_islands(model: Model, islands: Islands) -> IslandsResult:
    """Give every FP32 product that stands alone between Casts something that keeps it.

    Args:
      model: typed.
      islands: what the target's builder takes away.
    """
    index = GraphIndex(model.proto)
    if not islands.taken or not any(node.op_type in islands.taken for _, _, node in index.nodes()):
        return IslandsResult(model)
    types = infer_types(model, index)
    found = [
        (scope, position, slot)
        for scope, position, node in index.nodes()
        if scope.kind != "function"  # which sees no initializers of the graph
        if (slot := _alone(index, types, scope, node, islands)) is not None
    ]
    if not found:
        return IslandsResult(model)
    return _insert(model, {(scope.path, position): slot for scope, position, slot in found})


def _alone(index: GraphIndex, types: TypeTable, scope: Scope, node: onnx.NodeProto, islands: Islands) -> int | None:
    """The input slot of the activation of a product that stands alone; None for any other node."""
    if node.op_type not in islands.taken or node.domain not in ("", "ai.onnx"):
        return None
    if len(node.input) > 2 and node.input[2] and node.op_type not in islands.despite_bias:
        return None
    constant = [_is_wide_constant(index, types, scope, name) for name in node.input[:2]]
    if sum(constant) != 1:
        return None
    slot = constant.index(False)
    read = _cast_from(index, types, scope, node.input[slot])
    written = _casts_to(scope, node.output[0])
    return slot if read in LOW and written == {read} else None


def _is_wide_constant(index: GraphIndex, types: TypeTable, scope: Scope, name: str) -> bool:
    """Whether a value is a constant that a half cannot be trusted to hold: stored in FP32, or cast from BF16."""
    holder = index.resolve(scope, name)
    if holder is None:
        return False
    node = holder.producer_node(name)
    if node is not None and node.op_type == "Cast":
        source = index.resolve(holder, node.input[0])
        constant = source is not None and node.input[0] in source.initializers
        return constant and source is not None and source.initializers[node.input[0]].data_type != TensorProto.FLOAT16
    if node is not None:
        return node.op_type == "Constant" and types.of(holder, name).elem_type == TensorProto.FLOAT
    return name in holder.initializers and holder.initializers[name].data_type == TensorProto.FLOAT


def _cast_from(index: GraphIndex, types: TypeTable, scope: Scope, name: str) -> int:
    """The type of what was cast to FP32 and then at most reshaped or transposed; 0 for anything else."""
    holder = index.resolve(scope, name)
    while holder is not None:
        node = holder.producer_node(name)
        if node is None:
            return 0
        name = node.input[0] if node.input else ""
        if node.op_type == "Cast":
            source = index.resolve(holder, name)
            return 0 if source is None else types.of(source, name).elem_type
        if not moves_values(node, RESHAPES):
            return 0
        holder = index.resolve(holder, name)
    return 0


def _casts_to(scope: Scope, name: str) -> set[int]:
    """What all readers behind reshapes cast a value to; 0 is among it where one reads it otherwise."""
    if scope.is_output(name) or name in scope.captures or name in scope.body_outputs:
        return {0}
    found: set[int] = set()
    for use in scope.consumers(name):
        reader = scope.nodes[use.position]
        if reader.op_type == "Cast":
            found.add(next((int(a.i) for a in reader.attribute if a.name == "to"), 0))
        elif moves_values(reader, RESHAPES) and use.slot == 0:
            found |= _casts_to(scope, reader.output[0])
        else:
            found.add(0)
    return found


def _insert(model: Model, slots: dict[tuple[tuple[str, ...], int], int]) -> IslandsResult:
    proto = model.edit()
    index, names = GraphIndex(proto), FreshNames.of(proto)
    zero = names.fresh("island__zero")
    products: list[str] = []
    held: dict[Key, str] = {}

    def hold(scope: Scope, position: int, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        slot = slots.get((scope.path, position))
        if slot is None:
            return [node]
        products.append(node.output[0])
        value = node.input[slot]
        known = held.get((scope.path, value))
        node.input[slot] = held[scope.path, value] = known or names.fresh(f"{value}__held")
        if known:
            return [node]
        add = names.fresh(f"{node.name or node.output[0]}__hold")
        return [helper.make_node("Add", [value, zero], [node.input[slot]], add), node]

    rewrite_nodes(index, hold)
    tensor = numpy_helper.from_array(np.zeros((), np.float32), zero)
    proto.graph.initializer.append(tensor)
    return IslandsResult(model.with_proto(proto), products=tuple(products))
