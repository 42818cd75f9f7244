"""A typed model, evaluated as it is typed: widened to FP32, and rounded wherever its graph says 16 bits."""

from __future__ import annotations

from onnx import GraphProto, NodeProto, TensorProto, helper

from precision_planner.model import GraphIndex, Model, Scope, first_output
from precision_planner.model.bodies import bodies_of
from precision_planner.model.edit import set_nodes
from precision_planner.model.retype import make_float
from precision_planner.numerics.rounding import Overflow
from precision_planner.operators import domain_of, is_exact, named, row_of
from precision_planner.simulation.plans import element_types
from precision_planner.simulation.rounding import RoundingPlan, ValueKey
from precision_planner.simulation.schemas import LOW_TYPES


def is_typed_low(model: Model) -> bool:
    """Whether the graph itself has 16-bit floats: initializers, Constants, interface, or Casts to them."""
    index = GraphIndex(model.proto)
    for scope in index.scopes:
        if any(tensor.data_type in LOW_TYPES for tensor in scope.initializers.values()):
            return True
        container = scope.container
        if isinstance(container, GraphProto):
            ends = (*container.input, *container.output)
            if any(value.type.tensor_type.elem_type in LOW_TYPES for value in ends):
                return True
        for node in scope.nodes:
            for attribute in node.attribute:
                if attribute.HasField("t") and attribute.t.data_type in LOW_TYPES:
                    return True
                if attribute.name in ("to", "dtype", "output_dtype") and attribute.i in LOW_TYPES:
                    return True
    return False


def widen(model: Model, weights: Overflow = "inf") -> tuple[Model, RoundingPlan]:
    """The FP32 form of a typed model, and the plan that rounds it as it was typed.

    Initializers and constants widen exactly. A Cast to a 16-bit type stays, followed by one back (so an int64 or a
    double is rounded once); a Cast from 16 bits to FLOAT becomes one that does nothing. Every other operator
    computes in FP32 and its result is rounded to the type it has in the typed graph, but for those that only move
    values, which are rounded already.

    Args:
      model: without local functions.
      weights: for the plan; the constants of a typed graph are already of its types.
    """
    index = GraphIndex(model.proto)
    types = element_types(model, index)
    proto = model.edit()
    store = model.weights.builder()
    values: dict[ValueKey, int] = {}
    copies = GraphIndex(proto)
    for scope in reversed(copies.scopes):
        graph = scope.container
        assert isinstance(graph, GraphProto)
        for tensor in graph.initializer:
            if tensor.data_type in LOW_TYPES:
                make_float(tensor, model, store)
        for value in (*graph.input, *graph.output):
            _widen_value(value.type)
        del graph.value_info[:]
        nodes: list[NodeProto] = []
        for node in scope.nodes:
            for attribute in node.attribute:
                tensors = ([attribute.t] if attribute.HasField("t") else []) + list(attribute.tensors)
                for tensor in tensors:
                    if tensor.data_type in LOW_TYPES:
                        make_float(tensor, model, store)
            nodes.extend(_widen_node(node, scope, types, values))
        set_nodes(graph, nodes)
    stored = {key: kind for key, kind in types.items() if kind in LOW_TYPES}
    return model.with_proto(proto, store.build()), RoundingPlan(values, {}, weights, stored)


def _widen_node(
    node: NodeProto, scope: Scope, types: dict[ValueKey, int], values: dict[ValueKey, int]
) -> list[NodeProto]:
    # Cast and CastLike are handled by themselves
    attribute = None if row_of(node).converts else named(node, row_of(node).type_attribute)
    if attribute is not None and attribute.i in LOW_TYPES:
        attribute.i = TensorProto.FLOAT
    standard = not domain_of(node)
    passed = standard and node.op_type in ("Constant", "Identity")
    if passed or bodies_of(node):
        return [node]
    if standard and node.op_type == "Cast":
        to = next(a for a in node.attribute if a.name == "to")
        if to.i not in LOW_TYPES:
            return [node]
        result, low = node.output[0], f"{node.output[0]}__planner_cast"
        node.output[0] = low
        back = helper.make_node("Cast", [low], [result], name=f"{low}/from", to=TensorProto.FLOAT)
        return [node, back]
    for output in node.output:
        kind = types.get((scope.path, output), 0) if output else 0
        if kind in LOW_TYPES and not _moves(node, scope, types, kind):
            values[scope.path, output] = kind
    return [node]


def _moves(node: NodeProto, scope: Scope, types: dict[ValueKey, int], kind: int) -> bool:
    """Whether the node only moves values that are all of the result's type already."""
    if not is_exact(node):
        return False
    at: Scope | None = scope
    for value in node.input:
        at = scope
        found = 0
        while at is not None and not found:
            found = types.get((at.path, value), 0)
            at = at.parent
        if found in (TensorProto.FLOAT, TensorProto.DOUBLE, *LOW_TYPES) and found != kind:
            return False
    return bool(first_output(node))


def _widen_value(kind: object) -> None:
    which = kind.WhichOneof("value")  # type: ignore[attr-defined]
    if which == "tensor_type" and kind.tensor_type.elem_type in LOW_TYPES:  # type: ignore[attr-defined]
        kind.tensor_type.elem_type = TensorProto.FLOAT  # type: ignore[attr-defined]
    elif which in ("sequence_type", "optional_type"):
        _widen_value(getattr(kind, which).elem_type)
