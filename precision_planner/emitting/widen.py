"""A typed model back in FP32 types: what a comparison with plain FP16 starts from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

from precision_planner.model import (
    LazyPayload,
    Model,
    Payload,
    infer_types,
    iter_tensors,
    marker_key,
    numpy_dtype,
    stored_tensor,
)
from precision_planner.model.edit import set_nodes

_LOW = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_FLOATS = _LOW | {TensorProto.FLOAT}
_TYPE_ATTRIBUTES = frozenset({"to", "dtype"})


def widen(model: Model) -> Model:
    """The model with every FLOAT16 and BFLOAT16 as FLOAT, and without the Casts between these three.

    Exact: every 16-bit value is a float32 value; weights are widened while they are read. Values keep their names but
    where a Cast went: its readers read what it cast.
    """
    casts = _no_longer_needed(model)
    proto = model.edit()
    store = model.weights
    for site in iter_tensors(proto):
        if site.tensor.data_type not in _LOW:
            continue
        key = marker_key(site.tensor)
        if key is None:
            _set(
                site.tensor, numpy_helper.from_array(np.asarray(model.array(site.tensor), np.float32), site.tensor.name)
            )
            continue
        payload = _widened(store[key], numpy_dtype(site.tensor.data_type))
        store, new_key = store.add(payload)
        name, dims = site.tensor.name, list(site.tensor.dims)
        _set(site.tensor, stored_tensor(name, dims, TensorProto.FLOAT, new_key))
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        for info in (*graph.input, *graph.output):
            if info.type.tensor_type.elem_type in _LOW:
                info.type.tensor_type.elem_type = TensorProto.FLOAT
        del graph.value_info[:]
        graphs += _rewrite_nodes(graph.node)
        _drop(graph, casts)
    for function in proto.functions:
        _rewrite_nodes(function.node)
    return model.with_proto(proto, store)


def _rewrite_nodes(nodes: Iterable[NodeProto]) -> list[GraphProto]:
    """Make FLOAT of low type attributes; returns the bodies."""
    bodies: list[GraphProto] = []
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES and attribute.i in _LOW:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("g"):
                bodies.append(attribute.g)
            bodies += attribute.graphs
    return bodies


def _no_longer_needed(model: Model) -> dict[str, str]:
    """Output of a Cast between floats -> what it casts, for Casts of graphs (not of functions)."""
    types = infer_types(model)
    found: dict[str, str] = {}

    def walk(graph: GraphProto) -> None:
        outputs = {info.name for info in graph.output}
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g)
            if node.op_type != "Cast" or node.domain or node.output[0] in outputs:
                continue
            target = next(attribute.i for attribute in node.attribute if attribute.name == "to")
            source = elements.get(node.input[0], 0)
            if target in _FLOATS and source in _FLOATS:
                found[node.output[0]] = node.input[0]

    elements = {value: kind.elem_type for (_, value), kind in types.items()}
    walk(model.proto.graph)
    return found


def _drop(graph: GraphProto, casts: dict[str, str]) -> None:
    kept = [node for node in graph.node if not (node.op_type == "Cast" and node.output[0] in casts)]
    for node in kept:
        for index, name in enumerate(node.input):
            while name in casts:
                name = casts[name]
            node.input[index] = name
    if len(kept) != len(graph.node):
        set_nodes(graph, kept)


def _set(tensor: TensorProto, new: TensorProto) -> None:
    doc = tensor.doc_string
    tensor.CopyFrom(new)
    if doc:
        tensor.doc_string = doc


def _widened(payload: Payload, dtype: np.dtype) -> LazyPayload:
    def produce() -> Iterator[np.ndarray]:
        for chunk in payload.chunks():
            yield np.frombuffer(chunk, np.uint8).view(dtype).astype(np.float32)

    return LazyPayload(payload.nbytes * 2, produce)
