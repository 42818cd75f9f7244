"""Explicit rounding in an FP32 graph: a Cast to the 16-bit type and back wherever a value is stored low.

onnxruntime's CPU provider computes a 16-bit graph in FP32 and drops the Casts it thinks it needs none of. Pairs of
Casts that stand in an FP32 graph it keeps, so that is where the rounding is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from precision_planner.model import (
    GraphIndex,
    Model,
    Scope,
    WeightStoreBuilder,
    marker_key,
    numpy_dtype,
    stored_tensor,
)
from precision_planner.model.bodies import bodies_of
from precision_planner.model.edit import set_items, set_nodes
from precision_planner.model.retype import map_payload
from precision_planner.numerics.formats import FORMATS
from precision_planner.numerics.rounding import Overflow
from precision_planner.simulation.accumulation import Product
from precision_planner.simulation.chunks import write_chunks
from precision_planner.simulation.draws import dithered
from precision_planner.simulation.lowering import Steps
from precision_planner.simulation.schemas import TF32, TF32_TRUNCATED
from precision_planner.simulation.tf32 import (
    round_to_tf32,
    rounding_to_tf32_nodes,
    truncate_to_tf32,
    truncation_to_tf32_nodes,
)

FORMAT_NAMES: dict[int, str] = {
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TF32: "tf32",
    TF32_TRUNCATED: "tf32_truncated",
}

ValueKey = tuple[tuple[str, ...], str]
EdgeKey = tuple[tuple[str, ...], int, int]
NodeKey = tuple[tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class RoundingPlan:
    """Where an FP32 graph is rounded.

    Attributes:
      values: (scope, value) -> FLOAT16 or BFLOAT16: rounded where it is produced.
      edges: (scope, node position, input) -> type: rounded where it is read, for that reader alone. A constant read
        so is rounded beforehand, by the policy for weights. The type may be `TF32` or
        `TF32_TRUNCATED`, the operand of a product.
      stored: (scope, value) -> type, of every value that is stored low: those of `values`, and those that only move
        such values and need no rounding of their own.
      weights: "inf" (IEEE, what ONNX Cast does) or "saturate" (TensorRT's weak conversion of weights).
      accumulated: (scope, node position) -> how it computes inside, of nodes that round there, too: how the summation
        of a product that adds up in FP16 is cut, or as which steps a target's parser writes an operator out.
      draw: number of a draw, in which what is computed is rounded up or down by chance (`simulation.draws`; the model
        then takes `draw_feeds`); 0: to nearest.
    """

    values: Mapping[ValueKey, int] = field(default_factory=dict)
    edges: Mapping[EdgeKey, int] = field(default_factory=dict)
    weights: Overflow = "inf"
    stored: Mapping[ValueKey, int] = field(default_factory=dict)
    accumulated: Mapping[NodeKey, Product | Steps] = field(default_factory=dict)
    draw: int = 0


def apply_rounding(model: Model, plan: RoundingPlan) -> Model:
    """Write a rounding plan into an FP32 model. Every value keeps its name; it is the rounded one.

    Args:
      model: FP32, without local functions.
      plan: where to round; positions are those of the model's own node lists.
    """
    proto = model.edit()
    index = GraphIndex(proto)
    writer = _Writer(model, index, plan)
    for scope in reversed(index.scopes):  # bodies before the graphs that hold them: copying a node copies its bodies
        writer.rewrite(scope)
    del proto.graph.value_info[:]
    _drop_unread(proto.graph)
    written = model.with_proto(proto, writer.store.build())
    return dithered(written) if plan.draw else written


class _Writer:
    def __init__(self, model: Model, index: GraphIndex, plan: RoundingPlan) -> None:
        self.model, self.index, self.plan = model, index, plan
        self.store: WeightStoreBuilder = model.weights.builder()

    def rewrite(self, scope: Scope) -> None:
        graph = scope.container
        assert isinstance(graph, GraphProto)
        rounded: dict[tuple[str, int], str] = {}
        nodes: list[NodeProto] = []
        for position, node in enumerate(scope.nodes):
            # looked up before anything is renamed: a node may read one value in two types
            for slot, value in enumerate(list(node.input)):
                elem_type = self.plan.edges.get((scope.path, position, slot))
                if elem_type is None or not value:
                    continue
                if (value, elem_type) not in rounded:
                    rounded[value, elem_type] = self._read_low(scope, graph, value, elem_type, nodes)
                node.input[slot] = rounded[value, elem_type]
            inside = self.plan.accumulated.get((scope.path, position))
            casts: list[NodeProto] = []
            for slot, value in enumerate(list(node.output)):
                elem_type = self.plan.values.get((scope.path, value)) if value else None
                if elem_type is not None:
                    wide = f"{value}__planner_wide"
                    node.output[slot] = wide
                    casts.extend(cast_pair(wide, value, elem_type))
            if inside is None:
                nodes.append(node)
            else:
                if isinstance(inside, Steps):
                    parts, constants = inside.write(node, self.model.opset)
                else:
                    # a product that adds up in FP16 has no other 16-bit type for its result
                    parts, constants = write_chunks(node, inside, self.model.opset, rounded=bool(casts))
                nodes.extend(parts)
                graph.initializer.extend(constants)
            nodes.extend(casts)
        set_nodes(graph, nodes)
        del graph.value_info[:]

    def _read_low(self, scope: Scope, graph: GraphProto, value: str, elem_type: int, nodes: list[NodeProto]) -> str:
        """The name of `value` rounded, made just now if it was not there."""
        # two bodies that read one value of the graph around them must not make one name
        place = f"_{self.index.scopes.index(scope)}" if scope.path else ""
        name = f"{value}__planner_{FORMAT_NAMES[elem_type]}{place}"
        tensor = self._constant_tensor(scope, value)
        if tensor is None:
            nodes.extend(rounding_nodes(value, name, elem_type))
        else:
            graph.initializer.append(self._round_tensor(tensor, name, elem_type))
        return name

    def _constant_tensor(self, scope: Scope, value: str) -> TensorProto | None:
        holder = self.index.resolve(scope, value)
        if holder is None:
            return None
        tensor = holder.initializers.get(value)
        if tensor is not None:
            return None if holder.is_overridable(value) and holder.kind == "main" else tensor
        node = holder.producer_node(value)
        if node is None or node.op_type != "Constant":
            return None
        for attribute in node.attribute:
            if attribute.name == "value":
                return attribute.t
            if attribute.name == "value_float":
                return helper.make_tensor(value, TensorProto.FLOAT, (), [attribute.f])
            if attribute.name == "value_floats":
                return helper.make_tensor(value, TensorProto.FLOAT, (len(attribute.floats),), attribute.floats)
        return None

    def _round_tensor(self, tensor: TensorProto, name: str, elem_type: int) -> TensorProto:
        policy = self.plan.weights
        key = marker_key(tensor)
        if key is None:
            array = self.model.array(tensor)
            return _inline(name, array.shape, round_weights(np.asarray(array, np.float32), elem_type, policy))
        payload = map_payload(
            self.model.weights[key],
            np.dtype(np.float32),
            lambda x: round_weights(x, elem_type, policy),
            identity=("rounded", key, elem_type, policy),
        )
        return stored_tensor(name, tuple(tensor.dims), TensorProto.FLOAT, self.store.add(payload))


ROUNDED_AT_ONCE = 1 << 15
"""Elements of a weight rounded at a time, so that the temporaries stay in the cache."""


def round_weights(x: np.ndarray, elem_type: int, policy: Overflow) -> np.ndarray:
    """`precision_planner.numerics.round_to_format` of float32 weights, ten times faster.

    What the format holds as a normal number is rounded on its bits (half an ulp, less one if the last kept bit is
    even, is added, and the rest cut off); the few other elements by numpy's own conversion.
    """
    if elem_type == TF32:
        return round_to_tf32(x)
    if elem_type == TF32_TRUNCATED:
        return truncate_to_tf32(x)
    fmt = FORMATS[FORMAT_NAMES[elem_type]]
    drop = 23 - fmt.fraction_bits
    smallest = int(np.float32(fmt.smallest_normal).view(np.uint32))
    normal = int(np.float32(fmt.overflow_from).view(np.uint32)) - smallest
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty_like(flat)
    work = np.empty(min(ROUNDED_AT_ONCE, flat.size), np.uint32)
    for start in range(0, flat.size, ROUNDED_AT_ONCE):
        part = flat[start : start + ROUNDED_AT_ONCE]
        bits, into, temp = part.view(np.uint32), out[start : start + ROUNDED_AT_ONCE], work[: part.size]
        np.right_shift(bits, drop, out=temp)
        np.bitwise_and(temp, 1, out=temp)
        np.add(temp, (1 << (drop - 1)) - 1, out=temp)
        np.add(temp, bits, out=temp)
        np.bitwise_and(temp, 0xFFFFFFFF << drop & 0xFFFFFFFF, out=into.view(np.uint32))
        np.bitwise_and(bits, 0x7FFFFFFF, out=temp)
        np.subtract(temp, smallest, out=temp)  # what is smaller wraps around, and so is past the end too
        other = temp >= normal
        if other.any():
            into[other] = _convert(part[other], elem_type, policy)
    return out.reshape(x.shape)


def _convert(x: np.ndarray, elem_type: int, policy: Overflow) -> np.ndarray:
    """By numpy's conversion; saturation changes only what became 0 or infinite."""
    fmt = FORMATS[FORMAT_NAMES[elem_type]]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        y = x.astype(numpy_dtype(elem_type)).astype(np.float32)
    if policy == "saturate":
        gone = (y == 0) & (x != 0)
        y = np.where(gone, np.copysign(np.float32(fmt.smallest_subnormal), x), y)
        lost = np.isinf(y) & np.isfinite(x)
        y = np.where(lost, np.copysign(np.float32(fmt.max_finite), x), y)
    return y


def rounding_nodes(source: str, target: str, elem_type: int) -> list[NodeProto]:
    """Nodes that round a value to a type and give it back in FP32."""
    if elem_type == TF32:
        return rounding_to_tf32_nodes(source, target)
    if elem_type == TF32_TRUNCATED:
        return truncation_to_tf32_nodes(source, target)
    return cast_pair(source, target, elem_type)


def cast_pair(source: str, target: str, elem_type: int) -> list[NodeProto]:
    """Two Casts: to the 16-bit type and back to FP32."""
    low = f"{target}__planner_low"
    return [
        helper.make_node("Cast", [source], [low], name=f"{low}/to", to=elem_type),
        helper.make_node("Cast", [low], [target], name=f"{low}/from", to=TensorProto.FLOAT),
    ]


def _inline(name: str, shape: tuple[int, ...], array: np.ndarray) -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
    tensor.raw_data = np.ascontiguousarray(array).tobytes()
    return tensor


def _drop_unread(graph: GraphProto) -> None:
    """Drop the initializers that nothing reads any more: their rounded copies took their place."""
    read = _reads(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    if len(kept) < len(graph.initializer):
        set_items(graph.initializer, kept)


def _reads(graph: GraphProto) -> set[str]:
    read = {value.name for value in (*graph.output, *graph.input)}
    for node in graph.node:
        read.update(node.input)
        for body in bodies_of(node):
            read |= _reads(body)
    return read
