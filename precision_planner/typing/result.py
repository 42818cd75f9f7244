"""From solved variables to the assignment."""

from __future__ import annotations

import onnx

from precision_planner.model import NodeId
from precision_planner.typing.assignment import Key, NodeTyping, TypeAssignment
from precision_planner.typing.decisions import PRECISIONS, sums_are_promised
from precision_planner.typing.state import ANY, NodeState, Req, State

BETWEEN_NEIGHBORS = "moves values between FP32 neighbors"
"""The reason of a node that nobody decided: it follows what stands around it."""


def settled(state: State, req: Req, stored: int) -> int:
    """The element type of a requirement; `stored` for one that reads what is there."""
    if req[0] == "variable":
        return state.variables[req[1]].element
    return stored if req[0] == "any" else req[1]


def build_assignment(state: State) -> TypeAssignment:
    """Read the solved variables."""
    storage: dict[Key, int] = {}
    for value, req in state.values.items():
        storage[value] = settled(state, req, state.wide)
    reads: dict[tuple[NodeId, int], int] = {}
    wanted: dict[Key, set[int]] = {}
    indifferent: list[tuple[NodeId, int, Key]] = []
    nodes: dict[NodeId, NodeTyping] = {}
    for (path, position), found in state.nodes.items():
        scope = state.index.by_path[path]
        node, identity = scope.nodes[position], state.index.node_id(scope, position)
        for at, req in found.inputs.items():
            key = state.key(scope, node.input[at])
            if key is None:
                continue
            if req == ANY:
                indifferent.append((identity, at, key))
            else:
                reads[identity, at] = settled(state, req, state.wide)
                wanted.setdefault(key, set()).add(reads[identity, at])
        if found.variable is not None and (found.outputs or any(req != ANY for req in found.inputs.values())):
            nodes[identity] = _typing(state, identity, node, found)
    returns = {place: settled(state, req, state.wide) for place, req in state.returns.items()}
    for (path, at), element in returns.items():
        key = state.key(state.index.by_path[path], state.index.by_path[path].outputs[at])
        if key is not None:
            wanted.setdefault(key, set()).add(element)
    main = state.index.main
    for at, name in enumerate(main.outputs):
        # an interface output keeps its name: the constant under it has the interface's type, other readers a copy
        if ((), name) in state.constants and ((), at) in returns:
            wanted[(), name] = {returns[(), at]}
    for constant in state.constants:
        storage[constant] = state.constants[constant] = _constant_type(state, wanted.get(constant, set()))
    for identity, at, value in indifferent:
        reads[identity, at] = storage.get(value, state.wide)
    return TypeAssignment(
        options=state.options,
        nodes=nodes,
        storage=storage,
        wide=state.wide,
        reads=reads,
        returns=returns,
        inputs={name: storage[(), name] for name in main.inputs if ((), name) in state.values},
        outputs={name: returns[(), at] for at, name in enumerate(main.outputs) if ((), at) in returns},
        constants=dict(state.constants),
        cast_sources=_cast_sources(state),
    )


def _cast_sources(state: State) -> dict[Key, int]:
    return {
        (scope.path, node.output[0]): state.elements.of(state.index, scope, node.input[0]).elem_type
        for scope, _, node in state.index.nodes()
        if node.op_type == "Cast" and node.domain in ("", "ai.onnx") and node.input and node.output
    }


def _constant_type(state: State, wanted: set[int]) -> int:
    """The type under a constant's own name: wide where anyone reads it wide (or nobody reads it)."""
    if not wanted or state.wide in wanted:
        return state.wide
    return state.options.low if state.options.low in wanted else min(wanted)


def _typing(state: State, identity: NodeId, node: onnx.NodeProto, found: NodeState) -> NodeTyping:
    assert found.variable is not None
    variable = state.variables[found.variable]
    decision = found.decision
    compute = "fp32" if found.keep_as == "compute" else PRECISIONS.get(variable.element, "fp32")
    asked = decision is not None and decision.precision == "fp16+"
    if asked and compute == "fp16" and sums_are_promised(node):
        compute = "fp16+"
    reason = variable.reason
    if compute == "fp32" and not reason and found.moves:
        reason = BETWEEN_NEIGHBORS
    return NodeTyping(
        node=identity,
        op_type=node.op_type,
        io=variable.element,
        compute=compute,
        reason=reason if compute != state.options.precision else "",
        rule=decision.rule if decision is not None and not variable.forced else None,
        forced=variable.forced,
        decided=decision is not None,
        keep_as="compute" if found.keep_as == "compute" else ("island" if compute == "fp32" else None),
        moves=found.moves,
    )
