"""Control flow and calls: one type variable for each value that crosses the border of a body or a function."""

from __future__ import annotations

import onnx

from precision_planner.model import Scope
from precision_planner.typing.elements import opset_of
from precision_planner.typing.state import NodeState, Places, Req, State
from precision_planner.typing.type_variables import Kind, TypeVariable


def _variable(state: State, parts: list[tuple[Scope, str]], kind: Kind) -> Req | None:
    """A type variable for one value, None where no part of it is a float to be decided; wide where parts differ."""
    known = [state.elements.of(state.index, scope, name) for scope, name in parts if name]
    wide = [value.elem_type == state.wide for value in known if value.elem_type]
    if not any(wide):
        return None
    if not all(wide):
        return ("type", state.wide)
    return ("variable", state.variables.add(TypeVariable(kind)))


def gather_call(state: State, scope: Scope, position: int, node: onnx.NodeProto, function: Scope) -> None:
    """The call of a local function: its arguments share their types with every other call."""
    found = NodeState(None, {}, {})
    for at, name in enumerate(node.input):
        if at < len(function.inputs) and state.is_wide(scope, name):
            found.inputs[at] = state.values.get((function.path, function.inputs[at]), ("type", state.wide))
    for at, name in enumerate(node.output):
        if name and (function.path, at) in state.returns:
            found.outputs[at] = state.returns[function.path, at]
            state.values[scope.path, name] = found.outputs[at]
    state.nodes[scope.path, position] = found


def gather_control(state: State, scope: Scope, position: int, node: onnx.NodeProto) -> None:
    """If, Loop and Scan: one type variable a value, in the node and in its bodies."""
    found = NodeState(None, {}, {})
    bodies = state.bodies.get(id(node), {})
    if node.op_type == "If":
        branches = list(bodies.values())
        for at, name in enumerate(node.output):
            _bind(state, found, scope, node, [], [at] if name else [], [(b, at) for b in branches], [])
    else:
        body = next(iter(bodies.values()))
        for inputs, outputs, returned, formals in _loop_variables(node, body, opset_of(state.model.proto, scope, "")):
            _bind(state, found, scope, node, inputs, outputs, [(body, at) for at in returned], [(body, formals)])
    state.nodes[scope.path, position] = found


def _bind(
    state: State,
    found: NodeState,
    scope: Scope,
    node: onnx.NodeProto,
    inputs: list[int],
    outputs: list[int],
    returned: list[tuple[Scope, int]],
    formals: list[tuple[Scope, list[int]]],
) -> None:
    """Give one value its type variable in all the places where it appears."""
    parts = [(scope, node.input[at]) for at in inputs if at < len(node.input)]
    parts += [(scope, node.output[at]) for at in outputs if at < len(node.output)]
    parts += [(body, body.outputs[at]) for body, at in returned if at < len(body.outputs)]
    parts += [(body, body.inputs[at]) for body, ats in formals for at in ats if at < len(body.inputs)]
    req = _variable(state, parts, "state" if node.op_type in ("Loop", "Scan") and inputs else "moves")
    if req is None:
        return
    for at in inputs:
        if at < len(node.input) and node.input[at]:
            found.inputs[at] = req
    for at in outputs:
        if at < len(node.output) and node.output[at]:
            found.outputs[at] = req
            state.values[scope.path, node.output[at]] = req
    for body, at in returned:
        if at < len(body.outputs):
            state.returns[body.path, at] = req
    for body, ats in formals:
        for at in ats:
            if at < len(body.inputs):
                state.values[body.path, body.inputs[at]] = req


def _loop_variables(node: onnx.NodeProto, body: Scope, opset: int) -> list[Places]:
    """(node inputs, node outputs, body outputs, body inputs) of every variable of a Loop or Scan.

    Source: Loop 1 to 25: body (iteration, condition, state...) -> (condition, state..., scanned...); Scan 9 and later:
    inputs (state..., scanned...), Scan 8 with sequence_lens before them.
    """
    if node.op_type == "Loop":
        state = len(node.input) - 2
        carried = [([2 + k], [k], [1 + k], [2 + k]) for k in range(state)]
        scans = len(body.outputs) - 1 - state
        return carried + [([], [state + k], [1 + state + k], []) for k in range(max(scans, 0))]
    scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
    first = 1 if opset < 9 else 0
    state = len(node.input) - first - scanned
    carried = [([first + k], [k], [k], [k]) for k in range(state)]
    reads: list[Places] = [([first + state + k], [], [], [state + k]) for k in range(scanned)]
    outs: list[Places] = [([], [k], [k], []) for k in range(state, len(node.output))]
    return carried + reads + outs
