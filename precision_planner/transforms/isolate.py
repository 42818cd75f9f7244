"""The nodes of a match as a model of their own: in its own types, or all in float64 as the judge of a fusion."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from precision_planner.model import FLOAT_TYPES, GraphIndex, Model, Scope, TypeTable, ValueType, constant_value
from precision_planner.model.edit import set_items, set_nodes
from precision_planner.patterns import Match

_FREE_SIZE = 3
"""What an axis of unknown size gets."""


def isolate(model: Model, index: GraphIndex, types: TypeTable, scope: Scope, match: Match) -> Model:
    """The matched nodes as a model: constants come along, everything else they read is an input."""
    positions = sorted(found[1] for found in (index.find(node) for node in match.nodes) if found is not None)
    nodes = [scope.nodes[position] for position in positions]
    made = {name for node in nodes for name in node.output}
    proto = onnx.ModelProto(ir_version=model.proto.ir_version)
    versions = {entry.domain: entry.version for entry in getattr(_top(scope).container, "opset_import", ())}
    proto.opset_import.append(helper.make_opsetid("", versions.get("", model.opset)))
    proto.graph.name = "isolated"
    constants: list[NodeProto] = []
    seen: set[str] = set()
    work = [name for node in nodes for name in node.input if name and name not in made]
    for name in work:
        if name in seen:
            continue
        seen.add(name)
        holder = index.resolve(scope, name)
        node = None if holder is None else holder.producer_node(name)
        if holder is not None and name in holder.initializers and not holder.is_overridable(name):
            proto.graph.initializer.add().CopyFrom(holder.initializers[name])
        elif node is not None and node.op_type == "Constant":
            constants.append(node)
        else:
            proto.graph.input.append(_input(name, types.of(scope, name), match))
    set_nodes(proto.graph, [*constants, *nodes])
    proto.graph.output.append(ValueInfoProto(name=match.output))
    elem = types.of(scope, match.output).elem_type or TensorProto.FLOAT
    proto.graph.output[0].type.tensor_type.elem_type = elem
    return model.with_proto(proto)


def _top(scope: Scope) -> Scope:
    while scope.parent is not None:
        scope = scope.parent
    return scope


def _input(name: str, kind: ValueType, match: Match) -> ValueInfoProto:
    rewrite = match.rewrite
    shape: list[int] = []
    sizes = [] if rewrite is None else [size or _FREE_SIZE for size in rewrite.dims]
    if kind.shape is None:
        rank = (rewrite.rank if rewrite is not None else None) or 2 + len(sizes)
        shape = [_FREE_SIZE - 1] * rank
    else:
        shape = [dim if isinstance(dim, int) and dim > 0 else _FREE_SIZE for dim in kind.shape]
    if rewrite is not None and name == rewrite.x:
        for axis, size in zip(rewrite.axes, sizes, strict=True):
            shape[axis] = size
    return helper.make_tensor_value_info(name, kind.elem_type or TensorProto.FLOAT, shape)


def doubled(model: Model) -> Model:
    """The model with every float in float64: inputs, constants, the targets of Casts; values are kept exactly.

    Args:
      model: what `isolate` gave: no bodies, no functions.
    """
    proto = model.edit()
    tensors = [_double(model, tensor) for tensor in proto.graph.initializer]
    set_items(proto.graph.initializer, tensors)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type in FLOAT_TYPES:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in proto.graph.node:
        if node.op_type == "Constant":
            array = constant_value(node, model)
            if array is not None and array.dtype.kind in "fV":
                wide = numpy_helper.from_array(array.astype(np.float64))
                set_items(node.attribute, [helper.make_attribute("value", wide)])
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in FLOAT_TYPES:
                attribute.i = TensorProto.DOUBLE
    return model.with_proto(proto)


def _double(model: Model, tensor: TensorProto) -> TensorProto:
    if tensor.data_type not in FLOAT_TYPES:
        return tensor
    return numpy_helper.from_array(model.array(tensor).astype(np.float64), tensor.name)
