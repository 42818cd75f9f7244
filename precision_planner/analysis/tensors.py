"""Every float tensor that a model holds, wherever it sits, as a stream of parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, SparseTensorProto, TensorProto

from precision_planner.model import FLOAT_TYPES, Model, Scope, display_name, first_output, marker_key, numpy_dtype
from precision_planner.model.index import GraphIndex

__all__ = ["FloatTensor", "float_tensors"]

Array = np.ndarray[Any, np.dtype[Any]]

STANDARD = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class FloatTensor:
    """A tensor of float32, float64, float16 or bfloat16.

    Attributes:
      scope: the graph that holds it.
      name: the value that reads it: an initializer's name, a Constant's output; for a tensor in another attribute
        ``node.attribute``.
      kind: "initializer", "constant" (a Constant node), "sparse_initializer", "sparse_constant", "fill" (the value of
        ConstantOfShape) or "attribute" (any other).
      dims: its shape; of a sparse tensor the dense one.
      data_type: TensorProto.DataType.
      position: of the node that holds it, None for an initializer.
      stored: the TensorProto that holds the values (of a sparse tensor the values that are given), or None.
      values: the values where no TensorProto holds them (value_float, value_floats).
    """

    scope: Scope
    name: str
    kind: str
    dims: tuple[int, ...]
    data_type: int
    position: int | None = None
    stored: TensorProto | None = None
    values: Array | None = None

    @property
    def key(self) -> tuple[tuple[str, ...], str]:
        """(scope path, name)."""
        return self.scope.path, self.name

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type as numpy and ml_dtypes have it."""
        return numpy_dtype(self.data_type)

    @property
    def elements(self) -> int:
        """How many values are stored."""
        if self.values is not None:
            return int(self.values.size)
        assert self.stored is not None
        return prod(self.stored.dims)

    @property
    def nbytes(self) -> int:
        """How many bytes the census reads."""
        return self.elements * self.dtype.itemsize

    def parts(self, model: Model) -> Iterator[Array]:
        """The stored values, flat, a few megabytes at a time and without a copy where the file allows it."""
        if self.values is not None:
            yield self.values.reshape(-1)
            return
        assert self.stored is not None
        key = marker_key(self.stored)
        if key is None:
            yield model.array(self.stored).reshape(-1)
            return
        for chunk in model.weights[key].chunks():
            # through uint8: extension types do not read from a buffer
            yield np.frombuffer(chunk, np.uint8).view(self.dtype)


def float_tensors(index: GraphIndex) -> list[FloatTensor]:
    """Every float tensor of a model: initializers, sparse ones, attributes; in bodies and local functions too.

    Args:
      index: of the model.

    Returns:
      In the order of the graphs, initializers before nodes.
    """
    return [tensor for scope in index.scopes for tensor in _of_scope(scope)]


def _of_scope(scope: Scope) -> Iterator[FloatTensor]:
    for name, tensor in scope.initializers.items():
        if tensor.data_type in FLOAT_TYPES:
            yield FloatTensor(scope, name, "initializer", tuple(tensor.dims), tensor.data_type, stored=tensor)
    for name, sparse in scope.sparse_initializers.items():
        yield from _sparse(scope, name, "sparse_initializer", sparse, None)
    for position, node in enumerate(scope.nodes):
        for attribute in node.attribute:
            yield from _of_attribute(scope, position, node, attribute)


def _of_attribute(scope: Scope, position: int, node: NodeProto, attribute: AttributeProto) -> Iterator[FloatTensor]:
    """The float tensors of one attribute; bodies are scopes of their own."""
    standard = node.domain in STANDARD
    output = first_output(node)
    if standard and node.op_type == "Constant":
        if attribute.name == "value_float" and not attribute.ref_attr_name:
            values = np.array(attribute.f, np.float32)
            yield FloatTensor(scope, output, "constant", (), TensorProto.FLOAT, position, values=values)
        elif attribute.name == "value_floats" and not attribute.ref_attr_name:
            values = np.array(attribute.floats, np.float32)
            yield FloatTensor(scope, output, "constant", values.shape, TensorProto.FLOAT, position, values=values)
        kind, name = "constant", output
    elif standard and node.op_type == "ConstantOfShape":
        kind, name = "fill", output
    else:
        kind, name = "attribute", f"{display_name(node)}.{attribute.name}"
    if attribute.HasField("t"):
        yield from _dense(scope, name, kind, attribute.t, position)
    for number, tensor in enumerate(attribute.tensors):
        yield from _dense(scope, f"{name}[{number}]", kind, tensor, position)
    sparse_kind = "sparse_constant" if kind == "constant" else "attribute"
    if attribute.HasField("sparse_tensor"):
        yield from _sparse(scope, name, sparse_kind, attribute.sparse_tensor, position)
    for number, sparse in enumerate(attribute.sparse_tensors):
        yield from _sparse(scope, f"{name}[{number}]", sparse_kind, sparse, position)


def _dense(scope: Scope, name: str, kind: str, tensor: TensorProto, position: int) -> Iterator[FloatTensor]:
    if tensor.data_type in FLOAT_TYPES:
        yield FloatTensor(scope, name, kind, tuple(tensor.dims), tensor.data_type, position, stored=tensor)


def _sparse(
    scope: Scope, name: str, kind: str, sparse: SparseTensorProto, position: int | None
) -> Iterator[FloatTensor]:
    if sparse.values.data_type in FLOAT_TYPES:
        values = sparse.values
        yield FloatTensor(scope, name, kind, tuple(sparse.dims), values.data_type, position, stored=values)
