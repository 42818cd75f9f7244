"""Constants in their new types: initializers, Constant nodes of every attribute kind, ConstantOfShape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from precision_planner.model import GraphIndex, Model, Scope, WeightStore, marker_key, numpy_dtype, set_payload
from precision_planner.model.flow import Flow
from precision_planner.model.names import SUFFIX, FreshNames
from precision_planner.model.tensors import clear_values
from precision_planner.operators import hands_mask_on
from precision_planner.rewriting.mask_constants import mask_constants, tested_masks
from precision_planner.rewriting.weights import (
    BLOCK,
    MASK_LIMIT,
    Array,
    Role,
    Treatment,
    WeightChange,
    WeightPolicy,
    cast_payload,
    format_of,
    payload_blocks,
    treat,
)
from precision_planner.transforms.repairs.finite_mask import mask_refusal
from precision_planner.typing import Key, TypeAssignment
from precision_planner.typing.forced import LOW_TYPES

_MOST_MASKED = 1 << 24
"""Elements of a mask that is looked at for its bound; a larger one is computed, not stored."""


class ConstantWriter:
    """Casts constants in place and makes copies, for one conversion.

    Attributes:
      nodes: Constant nodes to insert: scope path -> position of the original ("" for the front) -> nodes.
      changes: what the policy changed.
      count: tensors cast.
      copies: of these, copies beside an original that stays.
    """

    def __init__(
        self, model: Model, index: GraphIndex, assignment: TypeAssignment, policy: WeightPolicy, names: FreshNames
    ) -> None:
        self.model, self.index, self.assignment, self.policy, self.names = model, index, assignment, policy, names
        self.nodes: dict[tuple[str, ...], dict[str, list[onnx.NodeProto]]] = {}
        self.changes: list[WeightChange] = []
        self.count = self.copies = 0
        self._builder = model.weights.builder()
        self._made: dict[tuple[str, int, str], str] = {}
        self._pending: list[tuple[Scope, onnx.TensorProto]] = []
        self._masks = mask_constants(index) if policy == "auto" else frozenset()
        self._flow: Flow | None = None
        self._tested = tested_masks(index) if self._masks else frozenset()

    def store(self) -> WeightStore:
        """The weights of the typed model: only what it still reads."""
        return self._builder.build()

    def copy(self, key: Key, element: int) -> str:
        """A copy of a constant in another type, beside the original; returns its name."""
        scope = self.index.by_path[key[0]]
        name = self.names.fresh(f"{key[1]}__{SUFFIX[element]}")
        self.copies += 1
        tensor = scope.initializers.get(key[1])
        if tensor is not None:
            twin = onnx.TensorProto()
            twin.CopyFrom(tensor)
            twin.name = name
            if element != self.assignment.wide:
                self._cast_tensor(twin, element, self._role(key), key[1])
            self._pending.append((scope, twin))
            return name
        position = scope.producer(key[1])
        assert position is not None
        node = onnx.NodeProto()
        node.CopyFrom(scope.nodes[position])
        node.output[0] = name
        node.name = self.names.fresh(f"{node.name}__{SUFFIX[element]}") if node.name else ""
        if element != self.assignment.wide:
            self._cast_constant(node, element, self._role(key), key[1])
        self.nodes.setdefault(scope.path, {}).setdefault(str(position), []).append(node)
        return name

    def write(self) -> None:
        """Cast in place what all readers want low, and add the copies."""
        for key in self.assignment.constants:
            element = self.assignment.storage[key]
            scope = self.index.by_path[key[0]]
            if element == self.assignment.wide:
                if self._role(key) == "mask":
                    self._bound_wide(scope, key[1])
                continue
            tensor = scope.initializers.get(key[1])
            if tensor is not None:
                self._cast_tensor(tensor, element, self._role(key), key[1])
            else:
                node = scope.producer_node(key[1])
                assert node is not None
                self._cast_constant(node, element, self._role(key), key[1])
        for name, element in self.assignment.inputs.items():
            tensor = self.index.main.initializers.get(name)
            if tensor is not None and element != self.assignment.wide:
                self._cast_tensor(tensor, element, self._role(((), name)), name)
        for scope, tensor in self._pending:
            assert isinstance(scope.container, onnx.GraphProto)
            scope.container.initializer.append(tensor)

    def fill(self, node: onnx.NodeProto, key: Key, element: int) -> None:
        """Give ConstantOfShape a value of the new type (its default is a FLOAT zero)."""
        for attribute in node.attribute:
            if attribute.name == "value":
                self._cast_tensor(attribute.t, element, self._role(key), key[1])
                return
        zero = numpy_helper.from_array(np.zeros(1, np.uint16))
        zero.data_type = element
        node.attribute.append(helper.make_attribute("value", zero))

    def _role(self, key: Key) -> Role:
        if key not in self._masks:
            return ""
        return "open_mask" if key in self._tested else "mask"

    def _ends_low(self, scope: Scope, name: str) -> bool:
        """Whether anything that a mask goes into, up to the softmax, is in 16 bits; else it stays as it is."""
        waiting, seen = [(scope, name)], {(scope.path, name)}
        while waiting:
            at, value = waiting.pop()
            uses = [(at, use) for use in at.consumers(value)] + list(at.captures.get(value, ()))
            for reader, use in uses:
                node = reader.nodes[use.position]
                if self.assignment.reads.get((self.index.node_id(reader, use.position), use.slot)) in LOW_TYPES:
                    return True
                for output in node.output if hands_mask_on(node, use.slot) else ():
                    if output and (reader.path, output) not in seen:
                        seen.add((reader.path, output))
                        waiting.append((reader, output))
        return False

    def _bound_wide(self, scope: Scope, name: str) -> None:
        """Bound a mask that stays in FP32, where it provably does a mask's work alone: what it makes is cast later."""
        limit = MASK_LIMIT[format_of(self.assignment.options.low).name]
        array = self.index.constant(scope, name, self.model, _MOST_MASKED)
        if array is None or array.dtype.kind != "f" or not (array < -limit).any() or not self._ends_low(scope, name):
            return
        flow = self._flow = self._flow or Flow(self.index)
        if mask_refusal(flow, scope, name, lambda at, other: self.index.constant(at, other, self.model)):
            return
        tensor = scope.initializers.get(name)
        node = scope.producer_node(name)
        if tensor is None and node is not None:
            given = next((attribute for attribute in node.attribute if attribute.name == "value"), None)
            tensor = None if given is None else given.t
        if tensor is None:
            return
        bounded = numpy_helper.from_array(np.asarray(np.maximum(array, np.asarray(-limit, array.dtype))))
        clear_values(tensor)
        tensor.raw_data = bounded.raw_data
        self.changes.append(WeightChange(name, self.policy, "mask", int((array < -limit).sum()), 0, f"{-limit:g}"))

    def _cast_constant(self, node: onnx.NodeProto, element: int, role: Role, name: str) -> None:
        for attribute in node.attribute:
            if attribute.name == "value":
                self._cast_tensor(attribute.t, element, role, name)
            elif attribute.name in ("value_float", "value_floats"):
                value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = numpy_helper.from_array(np.asarray(value, np.float32))
                self._cast_tensor(tensor, element, role, name)
                attribute.CopyFrom(helper.make_attribute("value", tensor, attribute.doc_string))

    def _cast_tensor(self, tensor: onnx.TensorProto, element: int, role: Role, name: str) -> None:
        """Cast a tensor in place; stored payloads are cast while they are written."""
        self.count += 1
        key = marker_key(tensor)
        if key is not None:
            dtype = numpy_dtype(tensor.data_type)
            known = self._made.get((key, element, role))
            if known is None:
                payload = self.model.weights[key]
                elements = payload.nbytes // dtype.itemsize
                treatment = self._treat(name, payload_blocks(payload, dtype), elements, element, role)
                known = self._builder.add(cast_payload(payload, dtype, treatment))
                self._made[key, element, role] = known
            tensor.data_type = element
            set_payload(tensor, known)
            return
        array = numpy_helper.to_array(tensor)
        flat = np.ascontiguousarray(array).reshape(-1)
        treatment = self._treat(name, _blocks(flat), flat.size, element, role)
        raw = treatment.cast(flat).view(np.uint16).tobytes() if flat.size else b""
        for values in ("float_data", "double_data", "raw_data"):
            tensor.ClearField(values)
        tensor.data_type = element
        tensor.raw_data = raw

    def _treat(self, name: str, blocks: Iterable[Array], count: int, element: int, role: Role) -> Treatment:
        treatment, change = treat(name, blocks, count, element, self.policy, role)
        if change is not None:
            self.changes.append(change)
        return treatment


def _blocks(flat: np.ndarray[Any, Any]) -> Iterable[Array]:
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]
