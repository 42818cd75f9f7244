"""Types inside local functions, from their calls: a function says nothing about them itself."""

from __future__ import annotations

import onnx

from precision_planner.model import GraphIndex, Model, Scope, TypeTable, ValueType, infer_types
from precision_planner.model.edit import set_nodes


def with_function_types(model: Model, index: GraphIndex, types: TypeTable) -> TypeTable:
    """The table with what every local function's values are, as far as all calls agree.

    Args:
      model: any model.
      index: of ``model.proto``.
      types: of the model, function bodies left out.
    """
    functions = {(f.domain, f.name, getattr(f, "overload", "")): f for f in model.proto.functions}
    if not functions:
        return types
    known = dict(types)
    calls: dict[tuple[str, str, str], list[list[ValueType]]] = {}
    _collect(index, TypeTable(known), [s for s in index.scopes if _top(s).kind != "function"], functions, calls)
    pending = dict(functions)
    while pending:
        ready = [key for key in pending if key in calls and not _called_by(key, pending)]
        if not ready:
            break
        for key in ready:
            function = pending.pop(key)
            path = f"fn:{key[0]}:{key[1]}:{key[2]}"
            known.update(_body_types(model, function, calls[key], path))
            scopes = [scope for scope in index.scopes if scope.path[:1] == (path,)]
            _collect(index, TypeTable(known), scopes, functions, calls)
    return TypeTable(known)


def _top(scope: Scope) -> Scope:
    while scope.parent is not None:
        scope = scope.parent
    return scope


def _collect(
    index: GraphIndex,
    types: TypeTable,
    scopes: list[Scope],
    functions: dict[tuple[str, str, str], onnx.FunctionProto],
    calls: dict[tuple[str, str, str], list[list[ValueType]]],
) -> None:
    for scope in scopes:
        for node in scope.nodes:
            key = (node.domain, node.op_type, getattr(node, "overload", ""))
            if key in functions:
                calls.setdefault(key, []).append([types.of(scope, name) for name in node.input])


def _called_by(key: tuple[str, str, str], pending: dict[tuple[str, str, str], onnx.FunctionProto]) -> bool:
    """Whether a function that has no types yet calls this one."""
    return any(
        (node.domain, node.op_type, getattr(node, "overload", "")) == key
        for other, function in pending.items()
        if other != key
        for node in function.node
    )


def _body_types(
    model: Model, function: onnx.FunctionProto, calls: list[list[ValueType]], path: str
) -> dict[tuple[tuple[str, ...], str], ValueType]:
    """Infer the types of one function's values from those of its arguments."""
    proto = onnx.ModelProto(ir_version=model.proto.ir_version)
    proto.opset_import.extend(function.opset_import)
    if not any(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("", model.opset))
    proto.graph.name = function.name
    set_nodes(proto.graph, function.node)
    for position, name in enumerate(function.input):
        merged = _merge([call[position] for call in calls if position < len(call)])
        info = onnx.ValueInfoProto(name=name)
        if merged.elem_type:
            info.type.tensor_type.elem_type = merged.elem_type
            if merged.shape is not None:
                info.type.tensor_type.shape.SetInParent()
                for dim in merged.shape:
                    entry = info.type.tensor_type.shape.dim.add()
                    if isinstance(dim, int):
                        entry.dim_value = dim
                    elif dim:
                        entry.dim_param = dim
        proto.graph.input.append(info)
    for name in function.output:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    inferred = infer_types(model.with_proto(proto))
    return {((path, *inner), name): kind for (inner, name), kind in inferred.items() if kind.elem_type}


def _merge(types: list[ValueType]) -> ValueType:
    if not types or any(kind.container != "tensor" for kind in types):
        return ValueType()
    first = types[0]
    elem = first.elem_type if all(kind.elem_type == first.elem_type for kind in types) else 0
    shapes = [kind.shape for kind in types]
    if any(shape is None or len(shape) != len(shapes[0] or ()) for shape in shapes):
        return ValueType(elem)
    dims = [set(column) for column in zip(*[shape or () for shape in shapes], strict=True)]
    return ValueType(elem, tuple(next(iter(sizes)) if len(sizes) == 1 else None for sizes in dims))
