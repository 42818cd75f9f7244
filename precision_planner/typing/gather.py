"""What every node asks for: which variable or type each of its float slots has."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from fnmatch import fnmatchcase

import onnx
from onnx import TensorProto

from precision_planner.model import Scope
from precision_planner.model.bodies import bodies_of
from precision_planner.operators import is_control, named, op_types, row_of
from precision_planner.targets.lacks import lacks
from precision_planner.typing.control import gather_call, gather_control
from precision_planner.typing.decisions import ELEMENT_TYPES, PRECISIONS, Decision
from precision_planner.typing.elements import function_of, opset_of
from precision_planner.typing.node_slots import Mode, NodeSlots, classify, plugin_slots
from precision_planner.typing.state import ANY, NodeState, Req, State
from precision_planner.typing.type_variables import TypeVariable

BF16_CAST_OPSET = 13
"""Below it no Cast makes a bfloat16, whatever operators of other domains take; where none is imported, one will be."""


def gather_interface(state: State) -> None:
    """The types of the main graph's inputs and outputs."""
    main, globs = state.index.main, state.options.low_globs

    def element(name: str) -> int:
        # no Cast makes a sequence or an optional of another type
        tensor = state.elements.of(state.index, main, name).container == "tensor"
        return state.options.low if tensor and any(fnmatchcase(name, glob) for glob in globs) else state.wide

    for name in main.inputs:
        if state.is_wide(main, name) and state.elements.of(state.index, main, name).container != "sparse":
            state.values[(), name] = ("type", element(name))
    for at, name in enumerate(main.outputs):
        if state.is_wide(main, name):
            state.returns[(), at] = ("type", element(name))


def gather_formals(state: State, scope: Scope) -> None:
    """Constants, and what the arguments of functions and of untypable bodies are."""
    for name in scope.initializers:
        if state.is_wide(scope, name) and (scope.path, name) not in state.values:
            state.constants[scope.path, name] = state.wide
    for name, sparse in scope.sparse_initializers.items():
        if sparse.values.data_type == state.wide:
            state.values[scope.path, name] = ("type", state.wide)
    if scope.path in state.frozen:
        for name in scope.inputs:
            if state.is_wide(scope, name):
                state.values[scope.path, name] = ("type", state.wide)
        for at, name in enumerate(scope.outputs):
            if state.is_wide(scope, name):
                state.returns[scope.path, at] = ("type", state.wide)
    elif scope.kind == "function":
        for name in scope.inputs:
            if state.is_wide(scope, name):
                state.values[scope.path, name] = ("variable", state.variables.add(TypeVariable("moves", allowed=None)))
        for at, name in enumerate(scope.outputs):
            if state.is_wide(scope, name):
                state.returns[scope.path, at] = ("variable", state.variables.add(TypeVariable("moves", allowed=None)))


def gather_node(state: State, scope: Scope, position: int, node: onnx.NodeProto) -> None:
    """What one node asks for."""
    wide_in = [at for at, name in enumerate(node.input) if state.is_wide(scope, name)]
    wide_out = [at for at, name in enumerate(node.output) if state.is_wide(scope, name)]
    standard = node.domain in ("", "ai.onnx")
    function = function_of(state.index, node)
    if scope.path not in state.frozen:
        if function is not None and function.path not in state.frozen:
            gather_call(state, scope, position, node, function)
            return
        if function is None and is_control(node):
            gather_control(state, scope, position, node)
            return
    if not wide_in and not wide_out:
        return
    if standard and function is None and node.op_type == "Constant":
        _visit_constant(state, scope, node)
        return
    _visit_operator(state, scope, position, node, wide_in, wide_out, function)


def _visit_constant(state: State, scope: Scope, node: onnx.NodeProto) -> None:
    key = (scope.path, node.output[0])
    if scope.path in state.frozen or any(a.ref_attr_name or a.name == "sparse_value" for a in node.attribute):
        state.values[key] = ("type", state.wide)
    else:
        state.constants[key] = state.wide


def _visit_operator(
    state: State,
    scope: Scope,
    position: int,
    node: onnx.NodeProto,
    wide_in: list[int],
    wide_out: list[int],
    function: Scope | None,
) -> None:
    identity = state.index.node_id(scope, position)
    decision = state.decisions.get(identity)
    slots, named_in, named_out, reason = _slots(state, scope, node, wide_in, wide_out, function)
    reason = state.forced.get(identity, "") or reason
    if scope.path in state.frozen:
        reason = state.frozen[scope.path]
    if any(_reads_sparse(state, scope, node.input[at]) for at in wide_in):
        reason = reason or "reads a sparse initializer"
    variable, found = _variable(state, scope, node, slots, decision, reason, bool(wide_out))
    follows: Req = ("variable", variable)
    settled: dict[str, Req] = {"follows": follows, "any": ANY, "wide": ("type", state.wide)}
    for at, mode in slots.inputs.items():
        found.inputs[at] = ("type", named_in[at]) if at in named_in else settled[mode]
    for at, mode in slots.outputs.items():
        found.outputs[at] = ("type", named_out[at]) if at in named_out else settled[mode]
    if found.forced and state.variables[variable].element != state.options.low:
        found.inputs = {at: (ANY if slots.inputs[at] == "any" else ("type", state.wide)) for at in wide_in}
        found.outputs = {at: ("type", state.wide) for at in wide_out}
    state.nodes[scope.path, position] = found
    for at, req in found.outputs.items():
        state.values[scope.path, node.output[at]] = req


def _slots(
    state: State, scope: Scope, node: onnx.NodeProto, wide_in: list[int], wide_out: list[int], function: Scope | None
) -> tuple[NodeSlots, dict[int, int], dict[int, int], str]:
    plugin = state.options.plugins.get(node.op_type)
    opset = opset_of(state.model.proto, scope, node.domain)
    schema = None if function is not None else op_types(node.op_type, node.domain, opset)
    frozen = NodeSlots(dict.fromkeys(wide_in, "wide"), dict.fromkeys(wide_out, "wide"), None, "fixed")
    if plugin is not None and schema is None:
        slots, named_in, named_out = plugin_slots(plugin, state.options, wide_in, wide_out)
        return slots, named_in, named_out, ""
    if schema is None:
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        what = state.frozen.get(function.path, "") if function is not None else f"unknown operator {name}"
        return frozen, {}, {}, f"{what}: its types are not known, so it stays FP32"
    if row_of(node).bodies or bodies_of(node):
        return frozen, {}, {}, f"{node.op_type} has bodies, whose types stay"
    if node.op_type == "BitCast":
        return frozen, {}, {}, "reads the bits of its input, whose type must stay"
    if node.domain == "ai.onnx.ml":
        return frozen, {}, {}, "compares with the tables in its attributes, which have the type of its input"
    slots = classify(node, schema, wide_in, wide_out, state.low_types)
    given = named(node, row_of(node).type_attribute)
    if given is not None and given.ref_attr_name:
        # read in any type, and the result has the type that the call names
        slots = replace(slots, outputs=dict.fromkeys(wide_out, "wide"))
        return slots, {}, {}, f"its type is the call's attribute {given.ref_attr_name}"
    reason = ""
    if state.options.loadable:
        slots = _without(slots, _lacks(node, scope, state).keys(), state.low_types)
    if slots.allowed is not None and 1 < opset_of(state.model.proto, scope, "") < BF16_CAST_OPSET:
        slots = replace(slots, allowed=slots.allowed - {TensorProto.BFLOAT16})
    if "follows" not in (*slots.inputs.values(), *slots.outputs.values()) and (
        "wide" in (*slots.inputs.values(), *slots.outputs.values())
    ):
        low = " or ".join(sorted(PRECISIONS[t] for t in state.low_types))
        reason = f"{node.op_type} takes no {low} at opset {opset}"
    return slots, {}, {}, reason


def _without(slots: NodeSlots, lacked: Set[int], low: frozenset[int]) -> NodeSlots:
    """The slots of a node that cannot have some types: what reads anything (ArgMax) reads FP32 then, too."""
    inputs: dict[int, Mode] = {
        at: "wide" if mode == "any" and lacked & low else mode for at, mode in slots.inputs.items()
    }
    return replace(slots, inputs=inputs, allowed=None if slots.allowed is None else slots.allowed - lacked)


def _reads_sparse(state: State, scope: Scope, name: str) -> bool:
    holder = state.index.resolve(scope, name)
    return holder is not None and name in holder.sparse_initializers


def _variable(
    state: State,
    scope: Scope,
    node: onnx.NodeProto,
    slots: NodeSlots,
    decision: Decision | None,
    reason: str,
    makes_float: bool,
) -> tuple[int, NodeState]:
    kind = slots.kind if makes_float or slots.kind != "moves" else "compares"
    variable = TypeVariable(kind, allowed=slots.allowed)
    found = NodeState(None, {}, {}, decision, moves=kind != "fixed")
    keep_as = None
    if reason:
        variable.element, variable.reason, variable.forced = state.wide, reason, True
        found.forced = reason
    elif decision is not None:
        keep_as = _keep_as(state, node, decision)
        variable.reason = decision.reason
        if keep_as == "compute":
            # statistics in FP32 whatever the data is: it takes the type of what stands around it
            variable.kind = "moves"
        else:
            wanted = ELEMENT_TYPES[decision.precision]
            variable.element = state.wide if wanted == TensorProto.FLOAT else wanted
    elif kind == "fixed":
        variable.element = state.options.low
    if variable.element and variable.allowed is not None and variable.element not in variable.allowed | {state.wide}:
        lack = _lacks(node, scope, state).get(variable.element) if state.options.loadable else None
        variable.reason = found.forced = lack or f"{node.op_type} takes no {PRECISIONS[variable.element]} at this opset"
        variable.element, variable.forced, keep_as = state.wide, True, None
    found.keep_as = keep_as
    number = state.variables.add(variable)
    found.variable = number
    return number, found


def _lacks(node: onnx.NodeProto, scope: Scope, state: State) -> Mapping[int, str]:
    """What a node cannot have, by what every runtime lacks and the build target besides."""
    return lacks(node, state.options.refused, opset_of(state.model.proto, scope, ""))


def _keep_as(state: State, node: onnx.NodeProto, decision: Decision) -> str | None:
    """How a kept node is kept: `compute` exists only where an attribute says the type of the statistics."""
    if decision.precision != "fp32":
        return None
    if not row_of(node).statistics_type:
        return "island"
    return decision.keep_as or state.options.keep_as or "compute"
