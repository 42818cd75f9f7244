"""What must stay FP32 by necessity, found before any type is chosen, each node with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx
from onnx import TensorProto

from precision_planner.model import GraphIndex, NodeId, Scope, dense_nbytes
from precision_planner.operators import (
    GEMMS,
    Product,
    carries,
    is_control,
    is_conversion,
    is_product,
    is_sum,
    moves_values,
    row_of,
)
from precision_planner.typing.elements import Elements, function_of, opset_of

LOW_TYPES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})

CAST_NAME = re.compile(r"__cast_(fp16|bf16|fp32|fp64)(_\d+)?$")
"""How a Cast of ours is named; a second run knows the islands of the first by it."""

WEIGHT_BYTES = 16384
"""A matrix product with a constant of this size is a layer, not a table that a mixed model computes aside."""

_HALF_SCALES_OPSET = 19
"""Below it DequantizeLinear takes float scales alone."""

_PRODUCTS: frozenset[Product] = GEMMS | {"recurrent"}


def integer_products(index: GraphIndex) -> dict[NodeId, str]:
    """The rescaling of integer products: 127 * 127 * K passes 65504 for every K above 4."""
    reason = "rescales an integer product, whose accumulator passes float16's range"
    found: dict[NodeId, str] = {}
    for scope, position, node in index.nodes():
        if row_of(node).product == "integer":
            work = [node.output[0]]
            while work:
                value = work.pop()
                for use in scope.consumers(value):
                    reader = scope.nodes[use.position]
                    if is_sum(reader) or (carries(reader, use.slot) and not is_conversion(reader)):
                        work.append(reader.output[0])
                    elif is_conversion(reader):
                        found[index.node_id(scope, use.position)] = reason
                        for next_use in scope.consumers(reader.output[0]):
                            if scope.nodes[next_use.position].op_type == "Mul":
                                found[index.node_id(scope, next_use.position)] = reason
        elif node.op_type == "DynamicQuantizeLinear" and len(node.output) > 1:
            for use in scope.consumers(node.output[1]):
                if scope.nodes[use.position].op_type == "Mul":
                    found[index.node_id(scope, use.position)] = "a quantization scale"
        elif row_of(node).quantizes and not is_weight_only(index, scope, node):
            found[index.node_id(scope, position)] = "quantized part, left as it is"
    return found


def is_weight_only(index: GraphIndex, scope: Scope, node: onnx.NodeProto) -> bool:
    """Whether a node gives products their weights, quantized, while what they are multiplied with is not.

    With scales in half, builders make one kernel of it and the product, which reads INT4 or INT8; with FP32 scales and
    a Cast behind it, the weight is written out in half on every run (seen in TensorRT-RTX's layers).
    """
    if node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx"):
        return False
    if opset_of(index.proto, scope, "") < _HALF_SCALES_OPSET:
        return False
    if not all(_constant(index, scope, name) for name in node.input if name):
        return False
    work, readers = [(scope, node.output[0])], 0
    while work:
        at, value = work.pop()
        if at.is_output(value) or value in at.captures or value in at.body_outputs:
            return False
        for use in at.consumers(value):
            reader = at.nodes[use.position]
            if carries(reader, use.slot) and not is_conversion(reader):
                work += [(at, output) for output in reader.output if output]
                continue
            others = [name for slot, name in enumerate(reader.input[:2]) if slot != use.slot]
            made = [at.producer_node(name) for name in others if name]
            if not is_product(reader, GEMMS) or any(maker is not None and row_of(maker).quantizes for maker in made):
                return False
            readers += 1
    return readers > 0


def _constant(index: GraphIndex, scope: Scope, name: str) -> bool:
    holder = index.resolve(scope, name)
    if holder is None:
        return False
    if name in holder.initializers:
        return not (holder.kind == "main" and holder.is_overridable(name))
    maker = holder.producer_node(name)
    return maker is not None and maker.op_type == "Constant"


def deliberate_islands(index: GraphIndex, elements: Elements, wide: int) -> dict[NodeId, str]:
    """The FP32 parts of a model that is already half: what its author, or an earlier run, cast up on purpose.

    An FP32 region that meets a Cast from or to a 16-bit type is left as it is where anything else is computed in such a
    type, with one exception: a region that
    holds layers (products with weights of 16 KiB and more) and was not cast by this program is the part of a mixed
    model that nobody has converted yet. The Cast of a constant does not count: it says how the constant is stored,
    not how anything is computed.
    """
    if not _computes_low(index, elements):
        return {}
    reason = "the model itself computes this in FP32, between Casts"
    return dict.fromkeys(_Regions(index, elements, wide).deliberate(), reason)


def _computes_low(index: GraphIndex, elements: Elements) -> bool:
    """Whether anything is computed in 16 bits: a half interface or halves in storage alone make no mixed model."""
    return any(
        elements.of(index, scope, name).elem_type in LOW_TYPES
        for scope, _, node in index.nodes()
        if node.op_type != "Constant" and not moves_values(node)
        for name in node.output
        if name
    )


class _Regions:
    """Connected sets of nodes that exchange wide values, and which Casts they meet."""

    def __init__(self, index: GraphIndex, elements: Elements, wide: int) -> None:
        self.index, self.elements, self.wide = index, elements, wide
        self.nodes: dict[int, NodeId] = {}
        self._parent: list[int] = []
        self._value: dict[tuple[tuple[str, ...], str], int] = {}
        self._touched: set[int] = set()
        self._ours: set[int] = set()
        self._layers: set[int] = set()
        for scope, position, node in index.nodes():
            self._visit(scope, position, node)

    def deliberate(self) -> list[NodeId]:
        """The nodes of the regions that were cast up on purpose."""
        touched, ours, layers = ({self._root(n) for n in found} for found in (self._touched, self._ours, self._layers))
        wanted = touched & (ours | (touched - layers))
        return [node for number, node in self.nodes.items() if self._root(number) in wanted]

    def _visit(self, scope: Scope, position: int, node: onnx.NodeProto) -> None:
        if node.op_type == "Cast" and node.domain in ("", "ai.onnx"):
            self._visit_cast(scope, node)
            return
        if node.op_type == "Constant":
            return
        number = self._new()
        wide_slots = False
        for name in (*node.input, *node.output):
            value = self._wide_value(scope, name)
            if value is not None:
                wide_slots = True
                self._join(number, value)
        if wide_slots:
            self.nodes[number] = self.index.node_id(scope, position)
        if is_product(node, _PRODUCTS) and any(self._is_layer(scope, name) for name in node.input):
            self._layers.add(number)

    def _visit_cast(self, scope: Scope, node: onnx.NodeProto) -> None:
        if self._is_constant(scope, node.input[0]):
            return
        before = self.elements.of(self.index, scope, node.input[0]).elem_type
        after = self.elements.of(self.index, scope, node.output[0]).elem_type
        for name, other in ((node.input[0], after), (node.output[0], before)):
            value = self._wide_value(scope, name) if other in LOW_TYPES else None
            if value is not None:
                self._touched.add(value)
                if CAST_NAME.search(node.name):
                    self._ours.add(value)

    def _wide_value(self, scope: Scope, name: str) -> int | None:
        """The number of a wide value that nodes make; None for constants (shared by regions) and other types."""
        holder = self.index.resolve(scope, name) if name else None
        if holder is None or name in holder.initializers:
            return None
        if self.elements.types.get((holder.path, name)) is None:
            return None
        if self.elements.types[holder.path, name].elem_type != self.wide:
            return None
        producer = holder.producer_node(name)
        if producer is not None and producer.op_type == "Constant":
            return None
        key = (holder.path, name)
        if key not in self._value:
            self._value[key] = self._new()
        return self._value[key]

    def _is_constant(self, scope: Scope, name: str) -> bool:
        holder = self.index.resolve(scope, name)
        if holder is None or holder.is_overridable(name):
            return False
        producer = holder.producer_node(name)
        return name in holder.initializers or (producer is not None and producer.op_type == "Constant")

    def _is_layer(self, scope: Scope, name: str) -> bool:
        holder = self.index.resolve(scope, name) if name else None
        tensor = holder.initializers.get(name) if holder is not None else None
        return (
            tensor is not None
            and tensor.data_type == self.wide
            and dense_nbytes(tensor.data_type, tensor.dims) >= WEIGHT_BYTES
        )

    def _new(self) -> int:
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def _root(self, number: int) -> int:
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def _join(self, a: int, b: int) -> None:
        self._parent[self._root(a)] = self._root(b)


def frozen_scopes(index: GraphIndex, elements: Elements) -> Mapping[tuple[str, ...], str]:
    """Scopes whose every type stays: bodies of operators that nobody here knows, and untypable functions."""
    frozen: dict[tuple[str, ...], str] = {}
    for scope in index.scopes:
        if scope.path in elements.calls.opaque:
            frozen[scope.path] = elements.calls.opaque[scope.path]
        elif scope.parent is not None and scope.parent.path in frozen:
            frozen[scope.path] = frozen[scope.parent.path]
        elif scope.owner is not None and (not is_control(scope.owner) or function_of(index, scope.owner) is not None):
            frozen[scope.path] = f"body of {scope.owner.op_type}, whose types are not known here"
    return frozen
