"""A model of one other float type in FP32: float64, of which TensorRT has none either, or FP16 that is to become BF16.

Inputs and outputs keep their type, with a Cast behind and before them. Weights are converted while they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from precision_planner.model import GraphIndex, Model, WeightStore, infer_types, iter_tensors
from precision_planner.model.bodies import bodies_of
from precision_planner.model.edit import set_nodes
from precision_planner.model.names import FreshNames
from precision_planner.model.retype import make_float
from precision_planner.operators import row_of

__all__ = ["is_all", "make_single", "to_single"]

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def is_all(model: Model, element: int) -> bool:
    """Whether a model computes in one float type alone: it has values of it and of no other."""
    inputs = (value.type.tensor_type.elem_type for value in model.proto.graph.input)
    if element not in inputs and all(site.tensor.data_type != element for site in iter_tensors(model.proto)):
        return False
    return {value.elem_type for value in infer_types(model).values()} & _FLOATS == {element}


def to_single(model: Model, element: int = TensorProto.DOUBLE) -> Model:
    """The model with its float values as float32, its interface as it was; the model itself if it is no such one.

    Args:
      model: any model. One whose initializers of that type a caller may override is left as it is.
      element: the float type that it is to be all of: DOUBLE or FLOAT16.
    """
    main = GraphIndex(model.proto).main
    if not is_all(model, element) or any(
        tensor.data_type == element and main.is_overridable(name) for name, tensor in main.initializers.items()
    ):
        return model
    proto = model.edit()
    graph = proto.graph
    names = FreshNames.of(proto)
    renamed, front, back = dict[str, str](), list[NodeProto](), list[NodeProto]()
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == element and value.name not in renamed:
            renamed[value.name] = names.fresh(f"{value.name}__single")
    for value in graph.input:
        if value.name in renamed:
            front.append(_cast(value.name, renamed[value.name], TensorProto.FLOAT))
    given = {value.name for value in graph.input}
    for value in graph.output:
        if value.name in renamed and value.name not in given:
            back.append(_cast(renamed[value.name], value.name, element))
    weights = make_single(proto, model, frozenset({element}), renamed)
    set_nodes(graph, [*front, *graph.node, *back])
    return model.with_proto(proto, weights)


def make_single(
    proto: onnx.ModelProto, model: Model, elements: frozenset[int], renamed: Mapping[str, str] | None = None
) -> WeightStore:
    """Make FLOAT of float types, in place: of tensors, attributes, and values of bodies and functions.

    The types of the model's own inputs and outputs are the caller's.

    Args:
      proto: a copy of the model's.
      model: holds the weights.
      elements: the types.
      renamed: values of the main graph that are read and made under another name now.
    """
    store = model.weights.builder()
    for site in iter_tensors(proto):
        if site.tensor.data_type in elements:
            make_float(site.tensor, model, store)
    _retype(proto.graph.node, renamed or {}, elements)
    for function in proto.functions:
        _retype(function.node, {}, elements)
        del function.value_info[:]
    del proto.graph.value_info[:]
    return store.build()


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=to)


def _retype(nodes: Iterable[NodeProto], renamed: Mapping[str, str], elements: frozenset[int]) -> None:
    """Name what follows the interface anew, and make FLOAT of a type in attributes and bodies."""
    for node in nodes:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = renamed.get(name, name)
        for attribute in node.attribute:
            is_type = attribute.name == row_of(node).type_attribute and attribute.type == AttributeProto.INT
            if is_type and attribute.i in elements:
                attribute.i = TensorProto.FLOAT
        for body in bodies_of(node):
            _retype_body(body, renamed, elements)


def _retype_body(body: GraphProto, renamed: Mapping[str, str], elements: frozenset[int]) -> None:
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    own |= {name for node in body.node for name in node.output}
    outer = {old: new for old, new in renamed.items() if old not in own}
    for value in (*body.input, *body.output):
        if value.type.tensor_type.elem_type in elements:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        value.name = outer.get(value.name, value.name)
    del body.value_info[:]
    _retype(body.node, outer, elements)
