"""The edges: which cells exchange values, and which values no Cast can convert."""

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
    """Tell the cells where a node's inputs come from."""
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
        if req == ANY and source[1][0] == "cell":
            if row_of(node).blind:
                continue
            if found.cell is not None and found.outputs:
                state.cells.flow(source[1][1], found.cell)
            else:
                state.cells.need(source[1][1], state.wide)
        elif req == ANY and found.cell is not None and found.outputs:
            state.cells.source(found.cell, source[1][1])
    if found.cell is not None and node.op_type == "Cast" and not found.inputs:
        _link_native_cast(state, scope, position, node)


def _link_native_cast(state: State, scope: Scope, position: int, node: onnx.NodeProto) -> None:
    """A Cast from a type that stays: a 16-bit source is no wider than it is."""
    found = state.nodes.get((scope.path, position))
    if found is None or found.cell is None or node.op_type != "Cast" or not node.input:
        return
    before = state.elements.of(state.index, scope, node.input[0]).elem_type
    if before in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        state.cells.source(found.cell, before)


def link_returns(state: State, scope: Scope) -> None:
    """Tell the cells what a scope returns."""
    for at, name in enumerate(scope.outputs):
        req = state.returns.get((scope.path, at))
        source = _source_of(state, scope, name) if req is not None else None
        if req is not None and source is not None:
            _edge(state, scope, name, source[1], req)


def _edge(state: State, scope: Scope, name: str, made: Req, read: Req) -> None:
    if state.elements.of(state.index, scope, name).container in ("sequence", "optional"):
        _tie(state, made, read)
        return
    match made[0], read[0]:
        case "cell", "cell":
            state.cells.flow(made[1], read[1])
        case "type", "cell":
            state.cells.source(read[1], made[1])
        case "cell", "type":
            state.cells.need(made[1], read[1])


def _tie(state: State, made: Req, read: Req) -> None:
    if made[0] == "cell" and read[0] == "cell":
        state.cells.tie(made[1], read[1])
        return
    for one, other in ((made, read), (read, made)):
        if one[0] == "cell" and other[0] == "type":
            cell = state.cells[one[1]]
            cell.element, cell.forced = other[1], other[1] == state.wide
            cell.reason = cell.reason or "a sequence or optional of a settled type, which no Cast converts"
