"""Element types of every value, local functions included: what shape inference leaves open is filled in here.

onnx.shape_inference stops at custom operators and says nothing inside local functions. An element type needs no
shape: the operands that share a type parameter share a type, which carries it past both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, TensorProto

from precision_planner.model import GraphIndex, Model, Scope, TypeTable, ValueType, infer_types
from precision_planner.model.bodies import held_by
from precision_planner.model.edit import set_nodes
from precision_planner.operators import op_types, row_of
from precision_planner.typing.assignment import Key

UNKNOWN = ValueType()


@dataclass(slots=True)
class Calls:
    """Which nodes call which local function.

    Attributes:
      sites: function path -> the (scope, position) of its calls.
      opaque: functions that are called with different types, or not at all: left as they are, with the reason.
    """

    sites: dict[tuple[str, ...], list[tuple[Scope, int]]] = field(default_factory=dict)
    opaque: dict[tuple[str, ...], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Elements:
    """Element types by holder scope and value.

    Attributes:
      types: key -> what is known.
      calls: the calls of local functions.
    """

    types: Mapping[Key, ValueType]
    calls: Calls

    def of(self, index: GraphIndex, scope: Scope, value: str) -> ValueType:
        """The type of `value` as seen from `scope`."""
        holder = index.resolve(scope, value)
        return UNKNOWN if holder is None else self.types.get((holder.path, value), UNKNOWN)


def opset_of(proto: onnx.ModelProto, scope: Scope, domain: str) -> int:
    """The version of a domain that a scope imports: a function's own, else the model's; 1 where none is imported."""
    domain = "" if domain == "ai.onnx" else domain
    top = scope
    while top.parent is not None:
        top = top.parent
    imports = top.container.opset_import if isinstance(top.container, onnx.FunctionProto) else proto.opset_import
    for entry in imports:
        if ("" if entry.domain == "ai.onnx" else entry.domain) == domain:
            return int(entry.version)
    return 1


def function_of(index: GraphIndex, node: onnx.NodeProto) -> Scope | None:
    """The local function that a node calls, None for an operator."""
    return index.by_path.get((f"fn:{node.domain}:{node.op_type}:{getattr(node, 'overload', '')}",))


def find_elements(model: Model, index: GraphIndex, table: TypeTable | None = None) -> Elements:
    """Element types of every value of a model.

    Args:
      model: any model.
      index: of its proto.
      table: of `infer_types`, where the caller has it.
    """
    types: dict[Key, ValueType] = dict(table if table is not None else infer_types(model, index))
    calls = Calls()
    functions = [scope for scope in index.scopes if scope.kind == "function"]
    for scope, position, node in index.nodes():
        called = function_of(index, node) if functions else None
        if called is not None:
            calls.sites.setdefault(called.path, []).append((scope, position))
    plain = [scope for scope in index.scopes if _root(scope).kind != "function"]
    _complete(model.proto, index, plain, types)
    waiting = functions
    while waiting:
        ready = [
            function
            for function in waiting
            if all(_root(site).path not in {w.path for w in waiting} for site, _ in calls.sites.get(function.path, ()))
        ]
        if not ready:  # recursion, which ONNX forbids
            calls.opaque.update({function.path: "the function calls itself" for function in waiting})
            break
        for function in ready:
            _type_function(model, index, function, types, calls)
        waiting = [function for function in waiting if function not in ready]
    return Elements(types, calls)


def _root(scope: Scope) -> Scope:
    while scope.parent is not None:
        scope = scope.parent
    return scope


def _type_function(model: Model, index: GraphIndex, function: Scope, types: dict[Key, ValueType], calls: Calls) -> None:
    """Infer a function's body from its calls, which must agree on the element types."""
    sites = calls.sites.get(function.path, [])
    if not sites:
        calls.opaque[function.path] = "the function is never called"
        return
    elements = Elements(types, calls)
    signatures = []
    for scope, position in sites:
        node = scope.nodes[position]
        names = [*node.input, *[""] * len(function.inputs)][: len(function.inputs)]
        signatures.append([elements.of(index, scope, name) if name else UNKNOWN for name in names])
    if len({tuple(value.elem_type for value in signature) for signature in signatures}) > 1:
        calls.opaque[function.path] = "the function is called with different element types"
    named_by_call = _attributes_that_name_types(function.container.node)
    if len({_type_attributes(scope.nodes[position], named_by_call) for scope, position in sites}) > 1:
        calls.opaque[function.path] = "the function is called with different element types in its attributes"
    formals = [
        value if all(other[at] == value for other in signatures) else ValueType(value.elem_type, None, value.container)
        for at, value in enumerate(signatures[0])
    ]
    site, position = sites[0]
    body = _as_model(model.proto, function, formals, site.nodes[position])
    for (path, name), value in infer_types(Model(body, model.weights)).items():
        types[(*function.path, *path), name] = value
    _complete(model.proto, index, [s for s in index.scopes if _root(s) is function], types)


def _attributes_that_name_types(nodes: Iterable[onnx.NodeProto]) -> frozenset[str]:
    """The attributes of a function that the element type of a value inside it is given by."""
    found: set[str] = set()
    for node in nodes:
        for attribute in node.attribute:
            if attribute.ref_attr_name and attribute.name == row_of(node).type_attribute:
                found.add(attribute.ref_attr_name)
            for body in held_by(attribute):
                found |= _attributes_that_name_types(body.node)
    return frozenset(found)


def _type_attributes(call: onnx.NodeProto, names: frozenset[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((given.name, int(given.i)) for given in call.attribute if given.name in names))


def _as_model(
    proto: onnx.ModelProto, function: Scope, formals: list[ValueType], call: onnx.NodeProto
) -> onnx.ModelProto:
    """A function's body as the main graph of a model, its attribute references replaced by the call's values."""
    container = function.container
    assert isinstance(container, onnx.FunctionProto)
    given = {attribute.name: attribute for attribute in container.attribute_proto}
    given.update({attribute.name: attribute for attribute in call.attribute})
    graph = onnx.GraphProto(name=container.name)
    set_nodes(graph, container.node)
    _substitute(graph, given)
    for name, formal in zip(function.inputs, formals, strict=True):
        info = graph.input.add(name=name)
        if formal.elem_type and formal.container == "tensor":
            tensor = info.type.tensor_type
            tensor.elem_type = formal.elem_type
            if formal.shape is not None:
                tensor.shape.SetInParent()
                for dim in formal.shape:
                    entry = tensor.shape.dim.add()
                    if isinstance(dim, int):
                        entry.dim_value = dim
                    elif dim:
                        entry.dim_param = dim
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in function.outputs)
    body = onnx.ModelProto(ir_version=proto.ir_version, graph=graph)
    body.opset_import.extend(container.opset_import)
    body.functions.extend(other for other in proto.functions if other is not container)
    return body


def _substitute(graph: onnx.GraphProto, given: Mapping[str, AttributeProto]) -> None:
    for node in graph.node:
        for at in reversed(range(len(node.attribute))):
            attribute = node.attribute[at]
            if attribute.ref_attr_name:
                value = given.get(attribute.ref_attr_name)
                name = attribute.name
                if value is None:
                    del node.attribute[at]
                else:
                    attribute.CopyFrom(value)
                    attribute.name = name
            else:
                for body in held_by(attribute):
                    _substitute(body, given)


def _complete(proto: onnx.ModelProto, index: GraphIndex, scopes: list[Scope], types: dict[Key, ValueType]) -> None:
    """Carry element types across operands that share a type parameter, forwards and backwards."""
    if not any(
        name and types.get((scope.path, name), UNKNOWN).elem_type == 0
        for scope in scopes
        for node in scope.nodes
        for name in node.output
    ):
        return
    for _ in range(4):
        changed = False
        for scope in scopes:
            for node in scope.nodes:
                changed |= _complete_node(proto, index, scope, node, types)
        if not changed:
            return


def _complete_node(
    proto: onnx.ModelProto, index: GraphIndex, scope: Scope, node: onnx.NodeProto, types: dict[Key, ValueType]
) -> bool:
    signature = op_types(node.op_type, node.domain, opset_of(proto, scope, node.domain))
    if signature is None:
        return False
    groups: dict[str, list[tuple[Key, ValueType]]] = {}
    for names, find, is_output in ((node.input, signature.input, False), (node.output, signature.output, True)):
        for at, name in enumerate(names):
            slot = find(at)
            if not name or slot is None or not slot.homogeneous:
                continue
            holder = scope if is_output else index.resolve(scope, name)
            if holder is not None:
                key = (holder.path, name)
                groups.setdefault(slot.parameter, []).append((key, types.get(key, UNKNOWN)))
    attribute = row_of(node).type_attribute
    changed = False
    if attribute and node.output and node.output[0]:
        key = (scope.path, node.output[0])
        named = next((a.i for a in node.attribute if a.name == attribute), 0)
        if named and types.get(key, UNKNOWN).elem_type == 0:
            types[key] = ValueType(int(named), types.get(key, UNKNOWN).shape)
            changed = True
    for parameter, members in groups.items():
        fixed = TensorProto.FLOAT if parameter == "tensor(float)" else 0
        element = fixed or next((value.elem_type for _, value in members if value.elem_type), 0)
        for key, value in members:
            if element and not value.elem_type and value.container == "tensor":
                types[key] = ValueType(element, value.shape)
                changed = True
    return changed
