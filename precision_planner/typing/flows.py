"""The edges: which variables exchange values, and which values no Cast can convert."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from precision_planner.model import Scope
from precision_planner.operators import row_of
from precision_planner.typing.assignment import Key
from precision_planner.typing.state import ANY, Req, State


def _source_of(state: State, scope: Scope, name: str) -> tuple[Key, Req] | None:
    key = state.key(scope, name)
    if key is None or key in state.constants:
        return None
    req = state.values.get(key)
    return None if req is None else (key, req)


def link_node(state: State, scope: Scope, position: int) -> None:
    """Tell the variables where a node's inputs come from."""
    found = state.nodes.get((scope.path, position))
    node = scope.nodes[position]
    if found is None:
        _link_native_cast(state, scope, position, node)
        return
    for at, req in found.inputs.items():
        source = _source_of(state, scope, node.input[at])
        if source is None:
            continue
        _edge(state, scope, node.input[at], source[1], req)
        if req == ANY and source[1][0] == "variable":
            if row_of(node).blind:
                continue
            if found.variable is not None and found.outputs:
                state.variables.flow(source[1][1], found.variable)
            else:
                state.variables.need(source[1][1], state.wide)
        elif req == ANY and found.variable is not None and found.outputs:
            state.variables.source(found.variable, source[1][1])
    if found.variable is not None and node.op_type == "Cast" and not found.inputs:
        _link_native_cast(state, scope, position, node)


def _link_native_cast(state: State, scope: Scope, position: int, node: onnx.NodeProto) -> None:
    """A Cast from a type that stays: a 16-bit source is no wider than it is."""
    found = state.nodes.get((scope.path, position))
    if found is None or found.variable is None or node.op_type != "Cast" or not node.input:
        return
    before = state.elements.of(state.index, scope, node.input[0]).elem_type
    if before in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        state.variables.source(found.variable, before)


def link_returns(state: State, scope: Scope) -> None:
    """Tell the variables what a scope returns."""
    for at, name in enumerate(scope.outputs):
        req = state.returns.get((scope.path, at))
        source = _source_of(state, scope, name) if req is not None else None
        if req is not None and source is not None:
            _edge(state, scope, name, source[1], req)
            if req[0] == "variable" and scope.kind == "subgraph":
                state.variables.returned(source[1], req[1])


def _edge(state: State, scope: Scope, name: str, made: Req, read: Req) -> None:
    if state.elements.of(state.index, scope, name).container in ("sequence", "optional"):
        _tie(state, made, read)
        return
    match made[0], read[0]:
        case "variable", "variable":
            state.variables.flow(made[1], read[1])
        case "type", "variable":
            state.variables.source(read[1], made[1])
        case "variable", "type":
            state.variables.need(made[1], read[1])


def _tie(state: State, made: Req, read: Req) -> None:
    if made[0] == "variable" and read[0] == "variable":
        state.variables.tie(made[1], read[1])
        return
    for one, other in ((made, read), (read, made)):
        if one[0] == "variable" and other[0] == "type":
            variable = state.variables[one[1]]
            variable.element, variable.forced = other[1], other[1] == state.wide
            variable.reason = variable.reason or "a sequence or optional of a settled type, which no Cast converts"
