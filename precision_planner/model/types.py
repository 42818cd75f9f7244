"""Element types and shapes of every value, inferred once on the stripped graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import onnx
from onnx import TensorProto

from precision_planner.model.index import GraphIndex, Scope
from precision_planner.model.inference import infer
from precision_planner.model.model import Model
from precision_planner.model.order import sorted_copy

Dim: TypeAlias = "int | str | None"
"""A known size, a symbolic name, or nothing known."""


@dataclass(frozen=True, slots=True)
class ValueType:
    """What is known of a value.

    Attributes:
      elem_type: TensorProto.DataType, of the tensor or of what the sequence or optional holds; 0 if unknown.
      shape: one `Dim` per axis, None where even the rank is unknown.
      container: 'tensor', 'sequence', 'optional', 'sparse' or 'map'.
    """

    elem_type: int = 0
    shape: tuple[Dim, ...] | None = None
    container: str = "tensor"

    @property
    def rank(self) -> int | None:
        """Number of axes, None if unknown."""
        return None if self.shape is None else len(self.shape)


_NAMELESS = frozenset({"", "?", "-1", "*", "None"})
"""What exporters write for an axis that may have any size: two of these are two axes, not one name."""

UNKNOWN = ValueType()


class TypeTable(Mapping[tuple[tuple[str, ...], str], ValueType]):
    """(scope path, value) -> ValueType. A value of an outer scope is found from the bodies that capture it."""

    def __init__(self, types: Mapping[tuple[tuple[str, ...], str], ValueType]) -> None:
        self._types = dict(types)

    def __getitem__(self, key: tuple[tuple[str, ...], str]) -> ValueType:
        return self._types[key]

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], str]]:
        return iter(self._types)

    def __len__(self) -> int:
        return len(self._types)

    def of(self, scope: Scope, value: str) -> ValueType:
        """The type of `value` as seen from `scope`; `UNKNOWN` where inference gave none."""
        at: Scope | None = scope
        while at is not None:
            found = self._types.get((at.path, value))
            if found is not None:
                return found
            if at.defines(value) or at.kind != "subgraph":
                return UNKNOWN
            at = at.parent
        return UNKNOWN


def infer_types(model: Model, index: GraphIndex | None = None) -> TypeTable:
    """Infer element types and shapes with onnx.shape_inference, weights not needed.

    Where inference stops (custom ops, graphs that are not sorted) the values that follow are missing from the table
    or lack a shape; the model's own value_info is kept. Inside local functions only what the function itself says
    is known: its types depend on the call.

    Args:
      model: any model.
      index: of ``model.proto``, where the caller has one; only its scopes' paths are used.
    """
    inferred = infer(sorted_copy(model.proto))
    types: dict[tuple[tuple[str, ...], str], ValueType] = {}
    for scope in GraphIndex(inferred).scopes:
        container = scope.container
        infos = list(container.value_info)
        if isinstance(container, onnx.GraphProto):
            infos += [*container.input, *container.output]
        for info in infos:
            types[scope.path, info.name] = from_type_proto(info.type)
        for name, tensor in scope.initializers.items():
            types[scope.path, name] = ValueType(tensor.data_type, tuple(tensor.dims))
        for name, sparse in scope.sparse_initializers.items():
            types[scope.path, name] = ValueType(sparse.values.data_type, tuple(sparse.dims), "sparse")
    return TypeTable(types)


def from_type_proto(proto: onnx.TypeProto) -> ValueType:
    """Read a TypeProto; sequences and optionals give the type of what they hold."""
    container = "tensor"
    while True:
        which = proto.WhichOneof("value")
        if which == "tensor_type":
            tensor = proto.tensor_type
            shape = None
            if tensor.HasField("shape"):
                shape = tuple(_dim(dim) for dim in tensor.shape.dim)
            return ValueType(tensor.elem_type, shape, container)
        if which == "sparse_tensor_type":
            return ValueType(proto.sparse_tensor_type.elem_type, None, "sparse")
        if which == "sequence_type":
            container, proto = "sequence", proto.sequence_type.elem_type
        elif which == "optional_type":
            container, proto = (
                ("optional" if container == "tensor" else container),
                proto.optional_type.elem_type,
            )
        elif which == "map_type":
            return ValueType(TensorProto.UNDEFINED, None, "map")
        else:
            return ValueType(container=container)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        # a negative size is how some exporters write an axis that is free
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return None if dim.dim_param in _NAMELESS else dim.dim_param
