"""A float64 model in FP32: what is simulated and planned, as TensorRT has no float64 either.

Inputs and outputs keep float64, with a Cast behind and before them. Weights are rounded to nearest while they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from precision_planner.model import (
    GraphIndex,
    LazyPayload,
    Model,
    Payload,
    infer_types,
    iter_tensors,
    marker_key,
    stored_tensor,
)
from precision_planner.operators import row_of

__all__ = ["is_double", "to_single"]

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def is_double(model: Model) -> bool:
    """Whether a model computes in float64 alone: it has float64 values and none of a narrower float type."""
    if not any(_mentions_double(value.type) for value in model.proto.graph.input) and not any(
        site.tensor.data_type == TensorProto.DOUBLE for site in iter_tensors(model.proto)
    ):
        return False
    seen = {value.elem_type for value in infer_types(model).values()}
    return TensorProto.DOUBLE in seen and not seen & _FLOATS


def to_single(model: Model) -> Model:
    """The model with every float64 value as float32, its interface as it was; the model itself if it is no such one.

    Args:
      model: any model. One whose float64 initializers a caller may override is left as it is.
    """
    main = GraphIndex(model.proto).main
    if not is_double(model) or any(
        tensor.data_type == TensorProto.DOUBLE and main.is_overridable(name)
        for name, tensor in main.initializers.items()
    ):
        return model
    proto = model.edit()
    store = model.weights
    for site in iter_tensors(proto):
        tensor = site.tensor
        if tensor.data_type != TensorProto.DOUBLE:
            continue
        key = marker_key(tensor)
        if key is None:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
        else:
            store, narrowed = store.add(_narrowed(store[key]))
            tensor.CopyFrom(stored_tensor(tensor.name, list(tensor.dims), TensorProto.FLOAT, narrowed))
    graph = proto.graph
    taken = {name for scope in GraphIndex(proto).scopes for node in scope.nodes for name in (*node.input, *node.output)}
    renamed, front, back = dict[str, str](), list[NodeProto](), list[NodeProto]()
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE and value.name not in renamed:
            renamed[value.name] = _fresh(f"{value.name}__single", taken)
    for value in graph.input:
        if value.name in renamed:
            front.append(_cast(value.name, renamed[value.name], TensorProto.FLOAT))
    given = {value.name for value in graph.input}
    for value in graph.output:
        if value.name in renamed and value.name not in given:
            back.append(_cast(renamed[value.name], value.name, TensorProto.DOUBLE))
    _narrow(graph.node, renamed)
    for function in proto.functions:
        _narrow(function.node, {})
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in (*front, *graph.node, *back)]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return model.with_proto(proto, store)


def _mentions_double(kind: object) -> bool:
    return "elem_type: 11" in str(kind)


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _cast(source: str, target: str, element: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=element)


def _narrow(nodes: Iterable[NodeProto], renamed: Mapping[str, str]) -> None:
    """Name what follows the interface anew, and make FLOAT of DOUBLE in attributes and bodies."""
    for node in nodes:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = renamed.get(name, name)
        for attribute in node.attribute:
            is_type = attribute.name == row_of(node).type_attribute and attribute.type == AttributeProto.INT
            if is_type and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _narrow_body(body, renamed)


def _narrow_body(body: GraphProto, renamed: Mapping[str, str]) -> None:
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    own |= {name for node in body.node for name in node.output}
    outer = {old: new for old, new in renamed.items() if old not in own}
    for value in (*body.input, *body.output):
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        value.name = outer.get(value.name, value.name)
    del body.value_info[:]
    _narrow(body.node, outer)


def _narrowed(payload: Payload) -> LazyPayload:
    def produce() -> Iterator[np.ndarray]:
        left = b""
        for chunk in payload.chunks():
            data = left + bytes(chunk)
            whole = len(data) // 8 * 8
            left = data[whole:]
            with np.errstate(over="ignore"):
                yield np.frombuffer(data[:whole], np.float64).astype(np.float32)

    return LazyPayload(payload.nbytes // 2, produce)
