"""`assign_types`: from decisions about nodes to a type for every value and every reading."""

from __future__ import annotations

from collections.abc import Mapping

from precision_planner.model import GraphIndex, Model, NodeId, TypeTable
from precision_planner.typing.assignment import TypeAssignment
from precision_planner.typing.decisions import Decision, TypingOptions
from precision_planner.typing.flows import link_node, link_returns
from precision_planner.typing.gather import gather_formals, gather_interface, gather_node
from precision_planner.typing.result import build_assignment
from precision_planner.typing.state import State


def assign_types(
    model: Model,
    decisions: Mapping[NodeId, Decision] | None = None,
    options: TypingOptions | None = None,
    *,
    index: GraphIndex | None = None,
    types: TypeTable | None = None,
) -> TypeAssignment:
    """Give every value one storage type and every node one compute type.

    Pure: the model is read, nothing is changed. What nothing keeps in FP32 becomes the low type; a node that cannot
    (operator, opset, shape arithmetic, an unknown operator) stays in FP32 with its reason.

    Args:
      model: any model.
      decisions: what rules, selectors or a search decided about single nodes.
      options: the low type, interface types, plugins.
      index: of ``model.proto``, where the caller has it.
      types: of `infer_types`, where the caller has it.

    Returns:
      The assignment. `TypeAssignment.converted` is empty where nothing can go low: that is for the caller to judge.
    """
    state = State(model, dict(decisions or {}), options or TypingOptions(), index, types)
    gather_interface(state)
    for scope in state.index.scopes:
        gather_formals(state, scope)
    for scope in state.index.scopes:
        for position, node in enumerate(scope.nodes):
            gather_node(state, scope, position, node)
    for scope in state.index.scopes:
        for position in range(len(scope.nodes)):
            link_node(state, scope, position)
        link_returns(state, scope)
    state.variables.solve()
    return build_assignment(state)
