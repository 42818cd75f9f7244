"""What is known while types are assigned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from onnx import TensorProto

from precision_planner.model import GraphIndex, Model, NodeId, Scope, TypeTable
from precision_planner.typing.assignment import Key
from precision_planner.typing.decisions import ELEMENT_TYPES, Decision, TypingOptions
from precision_planner.typing.elements import Elements, find_elements
from precision_planner.typing.forced import deliberate_islands, frozen_scopes, integer_products
from precision_planner.typing.indices import index_arithmetic
from precision_planner.typing.type_variables import TypeVariables

Req: TypeAlias = "tuple[str, int]"
"""('variable', number), ('type', element type) or ('any', 0)."""

ANY: Req = ("any", 0)
Places: TypeAlias = "tuple[list[int], list[int], list[int], list[int]]"


@dataclass(slots=True)
class NodeState:
    """What was found about a node: its variable (None for control flow) and the requirement of each slot."""

    variable: int | None
    inputs: dict[int, Req]
    outputs: dict[int, Req]
    decision: Decision | None = None
    forced: str = ""
    keep_as: str | None = None
    moves: bool = False


class State:
    """State of one assignment."""

    def __init__(
        self,
        model: Model,
        decisions: dict[NodeId, Decision],
        options: TypingOptions,
        index: GraphIndex | None,
        types: TypeTable | None,
    ) -> None:
        self.model, self.decisions, self.options = model, decisions, options
        self.index = index or GraphIndex(model.proto)
        self.elements: Elements = find_elements(model, self.index, types)
        self.wide = _native_type(self.elements)
        self.low_types = frozenset(
            {options.low, *(ELEMENT_TYPES[d.precision] for d in decisions.values() if d.precision != "fp32")}
        )
        self.variables = TypeVariables(options.low, self.wide)
        self.nodes: dict[tuple[tuple[str, ...], int], NodeState] = {}
        self.values: dict[Key, Req] = {}
        self.returns: dict[tuple[tuple[str, ...], int], Req] = {}
        self.constants: dict[Key, int] = {}
        self.frozen = frozen_scopes(self.index, self.elements)
        self.bodies: dict[int, dict[str, Scope]] = {}
        for scope in self.index.scopes:
            if scope.owner is not None and scope.parent is not None:
                self.bodies.setdefault(id(scope.owner), {})[scope.path[-1].rpartition(".")[2]] = scope
        self.forced = _forced_nodes(self)

    def is_wide(self, scope: Scope, value: str) -> bool:
        """Whether a value is a float whose type is to be decided."""
        return bool(value) and self.elements.of(self.index, scope, value).elem_type == self.wide

    def key(self, scope: Scope, value: str) -> Key | None:
        """The key of a value as seen from `scope`."""
        holder = self.index.resolve(scope, value)
        return None if holder is None else (holder.path, value)


def _native_type(elements: Elements) -> int:
    """DOUBLE for a model that has no FLOAT and was not cast to double, else FLOAT."""
    seen = {value.elem_type for value in elements.types.values()}
    if TensorProto.DOUBLE not in seen or TensorProto.FLOAT in seen:
        return TensorProto.FLOAT
    return TensorProto.FLOAT if seen & {TensorProto.FLOAT16, TensorProto.BFLOAT16} else TensorProto.DOUBLE


def _forced_nodes(state: State) -> dict[NodeId, str]:
    forced = deliberate_islands(state.index, state.elements, state.wide)
    wanted = {node for node, decision in state.decisions.items() if decision.precision != "fp32"}
    forced = {node: reason for node, reason in forced.items() if node not in wanted}
    forced.update(index_arithmetic(state.index, state.elements, state.wide))
    forced.update(integer_products(state.index))
    return forced
