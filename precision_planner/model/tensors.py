"""Tensors of a stripped model: finding them wherever they sit, reading their values, making new ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from precision_planner.errors import ModelError
from precision_planner.model.payloads import Payload
from precision_planner.model.wire import MARKER_PREFIX

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
"""The element types that a precision plan is about (the 8-bit and 4-bit floats belong to quantization)."""

_PACKED_4BIT = frozenset(
    getattr(TensorProto, name) for name in ("INT4", "UINT4", "FLOAT4E2M1") if hasattr(TensorProto, name)
)
_PACKED_2BIT = frozenset(getattr(TensorProto, name) for name in ("INT2", "UINT2") if hasattr(TensorProto, name))


def marker_key(tensor: TensorProto) -> str | None:
    """The weight-store key of a stripped tensor, None when its payload is inline (or in a plain external file)."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    for entry in tensor.external_data:
        if entry.key == "location" and entry.value.startswith(MARKER_PREFIX):
            return entry.value[len(MARKER_PREFIX) :]
    return None


def stored_tensor(name: str, dims: Sequence[int], data_type: int, key: str) -> TensorProto:
    """A stripped tensor whose payload the weight store holds as `key`."""
    tensor = TensorProto(name=name, dims=dims, data_type=data_type)
    set_payload(tensor, key)
    return tensor


def set_payload(tensor: TensorProto, key: str) -> None:
    """Make a tensor carry the stored payload `key`, dropping whatever values it held inline."""
    clear_values(tensor)
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", MARKER_PREFIX + key


def clear_values(tensor: TensorProto) -> None:
    """Drop the values of a tensor; name, type, dims, doc string and metadata stay."""
    for field in (
        "raw_data",
        "float_data",
        "int32_data",
        "int64_data",
        "double_data",
        "uint64_data",
        "string_data",
    ):
        tensor.ClearField(field)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def numpy_dtype(data_type: int) -> np.dtype:
    """The numpy (or ml_dtypes) type of a TensorProto.DataType; ModelError for one that onnx does not know."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    except (KeyError, ValueError):
        raise ModelError(f"tensor element type {data_type} is unknown to onnx {onnx.__version__}") from None


def type_name(data_type: int) -> str:
    """The name that ONNX gives an element type, in lower case: float, float16, bfloat16, int64, ..."""
    return TensorProto.DataType.Name(data_type).lower()


def dense_nbytes(data_type: int, dims: Sequence[int]) -> int:
    """Bytes of a dense tensor of that type and shape, 4-bit types packed two a byte."""
    count = prod(dims)
    if data_type in _PACKED_4BIT:
        return (count + 1) // 2
    if data_type in _PACKED_2BIT:
        return (count + 3) // 4
    return count * numpy_dtype(data_type).itemsize


def tensor_array(tensor: TensorProto, weights: Mapping[str, Payload]) -> np.ndarray:
    """The values of a tensor, shape `dims`, read-only; a view of the memory map where the payload allows it.

    bfloat16, float8 and 4-bit types come as ml_dtypes.

    Raises:
      ModelError: the payload's size does not fit the shape.
    """
    key = marker_key(tensor)
    if key is None:
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ModelError(f"tensor '{tensor.name}' cannot be read: {error}; export the model again") from None
    payload = weights[key]
    shape = tuple(tensor.dims)
    if tensor.data_type in _PACKED_4BIT | _PACKED_2BIT:
        whole = TensorProto(name=tensor.name, dims=shape, data_type=tensor.data_type)
        whole.raw_data = b"".join(payload.chunks())
        return numpy_helper.to_array(whole)
    dtype = numpy_dtype(tensor.data_type)
    view = getattr(payload, "buffer", lambda: None)()
    if view is None:
        view = _gathered(payload)
    if len(view) != prod(shape) * dtype.itemsize:
        raise ModelError(
            f"tensor '{tensor.name}' holds {len(view)} bytes where {list(shape)} of {dtype} takes "
            f"{prod(shape) * dtype.itemsize}; export the model again"
        )
    array: np.ndarray = np.frombuffer(view, np.uint8).view(dtype) if len(view) else np.empty(0, dtype)
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def _gathered(payload: Payload) -> memoryview:
    """The bytes of a payload that are computed piece by piece, written once."""
    whole = np.empty(payload.nbytes, np.uint8)
    done = 0
    for chunk in payload.chunks():
        whole[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    return whole[:done].data


@dataclass(frozen=True, slots=True)
class TensorSite:
    """A tensor and where it sits."""

    tensor: TensorProto
    owner: str
    """'initializer', 'sparse_values', 'sparse_indices' or 'attribute'."""
    node: onnx.NodeProto | None
    """The node whose attribute holds it (None for an initializer)."""
    attribute: str
    graph_depth: int
    """0 in the main graph, more inside bodies and functions."""


def iter_tensors(proto: onnx.ModelProto) -> Iterator[TensorSite]:
    """Every TensorProto of a model: initializers, sparse ones, attributes, in bodies and local functions too."""
    yield from _graph_tensors(proto.graph, 0)
    for function in proto.functions:
        for node in function.node:
            yield from _node_tensors(node, 1)
        for attribute in function.attribute_proto:
            yield from _attribute_tensors(None, attribute, 1)
    for training in proto.training_info:
        for graph in (training.initialization, training.algorithm):
            yield from _graph_tensors(graph, 1)


def _graph_tensors(graph: onnx.GraphProto, depth: int) -> Iterator[TensorSite]:
    for tensor in graph.initializer:
        yield TensorSite(tensor, "initializer", None, "", depth)
    for sparse in graph.sparse_initializer:
        yield TensorSite(sparse.values, "sparse_values", None, "", depth)
        yield TensorSite(sparse.indices, "sparse_indices", None, "", depth)
    for node in graph.node:
        yield from _node_tensors(node, depth)


def _node_tensors(node: onnx.NodeProto, depth: int) -> Iterator[TensorSite]:
    for attribute in node.attribute:
        yield from _attribute_tensors(node, attribute, depth)


def _attribute_tensors(node: onnx.NodeProto | None, attribute: onnx.AttributeProto, depth: int) -> Iterator[TensorSite]:
    name = attribute.name
    if attribute.HasField("t"):
        yield TensorSite(attribute.t, "attribute", node, name, depth)
    for tensor in attribute.tensors:
        yield TensorSite(tensor, "attribute", node, name, depth)
    sparse_tensors = ([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []) + list(
        attribute.sparse_tensors
    )
    for sparse in sparse_tensors:
        yield TensorSite(sparse.values, "sparse_values", node, name, depth)
        yield TensorSite(sparse.indices, "sparse_indices", node, name, depth)
    if attribute.HasField("g"):
        yield from _graph_tensors(attribute.g, depth + 1)
    for graph in attribute.graphs:
        yield from _graph_tensors(graph, depth + 1)


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
"""numpy's bfloat16, from ml_dtypes."""
