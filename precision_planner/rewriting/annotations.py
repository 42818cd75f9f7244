"""value_info and signatures brought up to date with the new types."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from precision_planner.model import GraphIndex, Scope
from precision_planner.typing import Key, TypeAssignment


def update_annotations(
    index: GraphIndex,
    assignment: TypeAssignment,
    stored_name: Mapping[Key, str],
    added: Mapping[tuple[tuple[str, ...], str], tuple[str, int]],
) -> None:
    """Make every annotation say what its value is now.

    Args:
      index: of the typed proto, with the scopes as they were before.
      assignment: the types.
      stored_name: values of the main graph that were renamed because an output took their name.
      added: (scope path, name) of every Cast's result -> (the value it was cast from, its type).
    """
    for scope in index.scopes:
        _update_scope(scope, assignment, stored_name, added)


def _update_scope(
    scope: Scope,
    assignment: TypeAssignment,
    stored_name: Mapping[Key, str],
    added: Mapping[tuple[tuple[str, ...], str], tuple[str, int]],
) -> None:
    container = scope.container
    known: dict[str, onnx.ValueInfoProto] = {info.name: info for info in container.value_info}
    if isinstance(container, onnx.GraphProto):
        declared = {info.name: info for info in (*container.input, *container.output)}
        _drop_contradicted(container, declared)
        known = {**known, **declared}
        for at, info in enumerate(container.output):
            element = assignment.returns.get((scope.path, at))
            if element is not None:
                set_element(info.type, element)
        for info in container.input:
            element = assignment.storage.get((scope.path, info.name))
            if element is not None:
                set_element(info.type, element)
    templates = {name: _copy(info) for name, info in known.items()}
    for info in container.value_info:
        element = assignment.storage.get((scope.path, info.name))
        if element is not None and (scope.path, info.name) not in stored_name:
            set_element(info.type, element)
    described = {info.name for info in container.value_info}
    for (path, name), inner in stored_name.items():
        if path == scope.path and name in templates:
            info = container.value_info.add()
            info.CopyFrom(templates[name])
            info.name = inner
            set_element(info.type, assignment.storage[path, name])
    for (path, name), (source, element) in added.items():
        if path != scope.path or source not in templates or scope.is_output(name) or name in described:
            continue
        if not container.value_info and not _is_interface(scope, source):
            continue
        info = container.value_info.add()
        info.CopyFrom(templates[source])
        info.name = name
        set_element(info.type, element)


def _drop_contradicted(graph: onnx.GraphProto, declared: Mapping[str, onnx.ValueInfoProto]) -> None:
    """Remove what is said a second time, and otherwise, of an input or an output: its declaration holds."""
    wrong = [at for at, info in enumerate(graph.value_info) if _contradict(info, declared.get(info.name, info))]
    for at in reversed(wrong):
        del graph.value_info[at]


def _contradict(one: onnx.ValueInfoProto, other: onnx.ValueInfoProto) -> bool:
    """Whether two declarations of a value cannot both be true: another type, rank or length of an axis."""
    first, second = one.type.tensor_type, other.type.tensor_type
    if one.type.WhichOneof("value") != other.type.WhichOneof("value") or first.elem_type != second.elem_type:
        return True
    if not (first.HasField("shape") and second.HasField("shape")):
        return False
    sizes = [[dim.dim_value for dim in each.shape.dim] for each in (first, second)]
    return len(sizes[0]) != len(sizes[1]) or any(a and b and a != b for a, b in zip(*sizes, strict=True))


def _is_interface(scope: Scope, name: str) -> bool:
    return scope.is_input(name) or scope.is_output(name)


def _copy(info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(info)
    return copy


def set_element(proto: onnx.TypeProto, element: int) -> None:
    """Give a type (of a tensor, or of what a sequence or optional holds) another element type; none is left none."""
    which = proto.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        set_element(getattr(proto, which).elem_type, element)
    elif which == "tensor_type" and proto.tensor_type.elem_type:
        proto.tensor_type.elem_type = element
    elif which == "sparse_tensor_type" and proto.sparse_tensor_type.elem_type:
        proto.sparse_tensor_type.elem_type = element
