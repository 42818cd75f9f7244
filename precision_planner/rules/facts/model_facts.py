"""The engine's view of one model: roles, constants, ranges and positions, computed when first asked for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from precision_planner.model import FLOAT_TYPES, Scope, TypeTable
from precision_planner.model.flow import Flow, Read
from precision_planner.operators import row_of, weight_role
from precision_planner.rules.facts import surroundings
from precision_planner.rules.facts.evidence import FactSource, Subject, ValueKey, measured_amax
from precision_planner.rules.facts.registry import Fact, FactValue, find_fact

__all__ = ["ModelFacts", "input_names"]

# Roles that every subject has beside its inputs' own names. output: the (first) output; inputs: all float inputs that
# are no constants; inside: a pattern's outputs but the last; scores: of an attention's scaling, the product
# of Q and K; constants: all constant inputs of a node; constant: its one constant input; variable: its one other input;
# denominator: the divisor of a Div, the argument of anything else that must not be zero.
SMALL_CONSTANT = 4096
MOST_READS = 4096
"""Readings of one weight that are looked at."""


class ModelFacts:
    """One evaluation's view of a model.

    Args:
      source: the graph and what was measured.
      without: repairs that may not be proposed.
    """

    def __init__(self, source: FactSource, without: Collection[str] = ()) -> None:
        self.source = source
        self.without = frozenset(without)
        self._types: TypeTable = source.types
        self._extremes: dict[ValueKey, tuple[float | None, float] | None] = {}
        self._small: dict[ValueKey, np.ndarray[Any, Any] | None] = {}
        self.repair_memo: dict[Any, Any] = {}

    @cached_property
    def amax(self) -> dict[ValueKey, float]:
        """The largest magnitude of every value that was measured."""
        return measured_amax(self.source)

    def lookup(self, subject: Subject, name: str) -> FactValue:
        """A fact of a subject by the name that rules use; None where it is unknown.

        Raises:
          KeyError: no such fact (the loader refuses those, so this is a bug).
        """
        if name not in subject.memo:
            subject.memo[name] = self._compute(subject, name)
        value: FactValue = subject.memo[name]
        return value

    def _compute(self, subject: Subject, name: str) -> FactValue:
        fact = find_fact(subject.kind, name)
        if fact is None:
            raise KeyError(f"a {subject.kind} has no fact {name!r}")
        if fact.subjects != ("value",):
            return fact.compute(self, subject)
        role = name.rpartition(".")[0]
        if not role:
            return fact.compute(self, subject.scope, subject.value)
        return self._combined(subject, fact, role)

    def _combined(self, subject: Subject, fact: Fact, role: str) -> FactValue:
        values = self.role_values(subject, role)
        if values is None:
            return None
        if len(values) == 1:
            return fact.compute(self, subject.scope, values[0])
        if fact.type not in ("number", "flag"):
            return None
        known = [found for value in values if (found := fact.compute(self, subject.scope, value)) is not None]
        # over several values an extreme is known as far as it was measured at all
        return fact.combine(known) if known else None

    def role_values(self, subject: Subject, role: str) -> list[str] | None:
        """The values that play a role for a subject; None if none does."""
        values_of = self._node_values if subject.match is None else self._match_values
        return values_of(subject, role) or None

    def _match_values(self, subject: Subject, role: str) -> list[str]:
        match = subject.match
        assert match is not None
        if role == "output":
            return [match.output]
        if role == "inputs":
            return [name for name in match.inputs.values() if name and self.is_activation(subject.scope, name)]
        if role == "inside":
            outputs = (match.output, *match.outputs)
            return [node.output for node in match.nodes if node.output not in outputs]
        if role == "scores":
            scores = match.attributes.get("scores")
            return [scores] if isinstance(scores, str) else []
        value = match.inputs.get(role, "")
        return [value] if value else []

    def _node_values(self, subject: Subject, role: str) -> list[str]:
        node, scope = subject.node, subject.scope
        assert node is not None
        if role == "output":
            return [name for name in node.output[:1] if name]
        if role in ("inputs", "constant", "constants", "variable"):
            names = [name for name in node.input if name]
            if role == "inputs":
                return [name for name in names if self.is_activation(scope, name)]
            constants = [name for name in names if self.constant_tensor(scope, name) is not None]
            if role == "constants":
                return constants
            chosen = constants if role == "constant" else [name for name in names if name not in constants]
            return chosen if len(chosen) == 1 else []
        if role == "denominator":
            slot = 1 if node.op_type == "Div" else 0
            return [node.input[slot]] if slot < len(node.input) else []
        slots = input_names(node, self.source.model.opsets)
        if role in slots:
            slot = slots.index(role)
            return [node.input[slot]] if slot < len(node.input) and node.input[slot] else []
        return []

    def is_activation(self, scope: Scope, value: str) -> bool:
        """Whether a value is a float (or of unknown type) and no constant."""
        elem_type = self._types.of(scope, value).elem_type
        return elem_type in (0, *FLOAT_TYPES) and self.constant_tensor(scope, value) is None

    def constant_tensor(self, scope: Scope, value: str) -> TensorProto | NodeProto | None:
        """The initializer or Constant node behind a value, seen through Identity; None if it is no constant."""
        index = self.source.index
        for _ in range(64):
            holder = index.resolve(scope, value)
            if holder is None:
                return None
            tensor = holder.initializers.get(value)
            if tensor is not None:
                return None if holder.is_overridable(value) and holder.kind == "main" else tensor
            node = holder.producer_node(value)
            if node is None or node.domain not in ("", "ai.onnx"):
                return None
            if node.op_type == "Constant":
                return node
            if node.op_type != "Identity":
                return None
            scope, value = holder, node.input[0]
        return None

    def small_constant(self, scope: Scope, value: str) -> np.ndarray[Any, Any] | None:
        """The values of a constant of up to 4096 elements, None for anything else."""
        holder = self.source.index.resolve(scope, value)
        key = ((holder or scope).path, value)
        if key not in self._small:
            self._small[key] = self.source.index.constant(scope, value, self.source.model, SMALL_CONSTANT)
        return self._small[key]

    def number(self, scope: Scope, value: str) -> float | None:
        """The value of a constant of one element, None for everything else."""
        array = self.small_constant(scope, value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def extremes(self, scope: Scope, value: str) -> tuple[float | None, float] | None:
        """(smallest magnitude above zero or None, largest magnitude) of a float value; None where unknown."""
        holder = self.source.index.resolve(scope, value) or scope
        key = (holder.path, value)
        if key not in self._extremes:
            self._extremes[key] = self._find_extremes(holder, value)
        return self._extremes[key]

    def _find_extremes(self, scope: Scope, value: str) -> tuple[float | None, float] | None:
        if self._types.of(scope, value).elem_type not in (0, *FLOAT_TYPES):
            return None
        stats = (self.source.census or {}).get((scope.path, value))
        if stats is not None and self.constant_tensor(scope, value) is not None:
            return stats.min_abs, math.inf if stats.inf else stats.max_abs or 0.0
        array = self.small_constant(scope, value)
        if array is not None:
            magnitude = np.abs(array.astype(np.float64))
            some = magnitude[magnitude > 0]
            return (float(some.min()) if some.size else None), float(magnitude.max(initial=0.0))
        measured = (self.source.ranges or {}).get((scope.path, value))
        return None if measured is None else (measured.amin or None, float(measured.amax))

    def bounds(self, scope: Scope, value: str) -> tuple[float, float] | None:
        """(smallest, largest) value; None where unknown."""
        array = self.small_constant(scope, value)
        if array is not None:
            return (float(array.min()), float(array.max())) if array.size and array.dtype.kind in "fiu" else None
        holder = self.source.index.resolve(scope, value) or scope
        measured = (self.source.ranges or {}).get((holder.path, value))
        return None if measured is None else (float(measured.minimum), float(measured.maximum))

    @cached_property
    def flow(self) -> Flow:
        """The walks along the model's values."""
        return Flow(self.source.index)

    def source_node(self, scope: Scope, value: str) -> NodeProto | None:
        """The node that makes a value, seen through what only moves it and from the scopes around."""
        made = self.flow.maker(scope, value)
        is_visible = made is not None and scope.path[: len(made.scope.path)] == made.scope.path
        return made.node if made is not None and is_visible else None

    def tensor_uses(self, subject: Subject) -> list[Read]:
        """Who reads a weight, seen through what only moves it."""
        if "uses" not in subject.memo:
            subject.memo["uses"] = self.flow.readers(subject.scope, subject.value, limit=MOST_READS)[0]
        found: list[Read] = subject.memo["uses"]
        return found

    def tensor_roles(self, subject: Subject) -> frozenset[str]:
        """What a weight is read as."""
        if "roles" not in subject.memo:
            dims = list(subject.tensor.dims) if subject.tensor is not None else []
            roles = {_ROLES.get(weight_role(read.node, read.slot), "") for read in self.tensor_uses(subject)} - {""}
            if math.prod(dims) == 1:
                roles.add("scalar")
            elif not roles and len(dims) == 1:
                ops = {read.node.op_type for read in self.tensor_uses(subject)}
                roles |= {"bias"} if ops == {"Add"} else set()
            subject.memo["roles"] = frozenset(roles or {"constant"})
        roles_found: frozenset[str] = subject.memo["roles"]
        return roles_found

    def is_broadcast(self, subject: Subject) -> bool | None:
        """Whether an elementwise op reads a weight together with a value of more axes; None if no rank is known."""
        rank = len(subject.tensor.dims) if subject.tensor is not None else None
        known = False
        for read in self.tensor_uses(subject):
            if not row_of(read.node).broadcasts:
                continue
            for other, name in enumerate(read.node.input):
                other_rank = self._types.of(read.scope, name).rank
                known = known or (other != read.slot and other_rank is not None)
                if other != read.slot and other_rank is not None and rank is not None and other_rank > rank:
                    return True
        return False if known else None

    @cached_property
    def patterns_of(self) -> dict[tuple[tuple[str, ...], str], frozenset[str]]:
        """Node (scope path, first output) -> the kinds of the proven patterns it is part of."""
        found: dict[tuple[tuple[str, ...], str], frozenset[str]] = {}
        for match in self.source.matches:
            if match.proven:
                for node in match.nodes:
                    key = (node.scope, node.output)
                    found[key] = found.get(key, frozenset()) | {match.kind}
        return found

    def surroundings_of(self, scope: Scope, position: int) -> frozenset[str]:
        """Where a node stands: see `surroundings.SURROUNDINGS`."""
        return self._surroundings.get((scope.path, position), frozenset())

    @cached_property
    def _surroundings(self) -> Mapping[tuple[tuple[str, ...], int], frozenset[str]]:
        return surroundings.find_surroundings(self.source.index, self.flow, self._types, self.number)


_ROLES = {
    **{name: name for name in ("weight", "bias", "table", "scale", "mean", "variance")},
    "quantization_scale": "scale",
}
"""What an operator calls a constant -> the role that rules know."""


def input_names(node: NodeProto, opsets: dict[str, int]) -> Sequence[str]:
    """The names that an operator's schema gives its inputs; none for an unknown operator."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return schema_input_names(node.op_type, domain, opsets.get(domain, 1))


def schema_input_names(op_type: str, domain: str, version: int) -> Sequence[str]:
    """The formal input names of an operator at an opset version; none if there is no such operator."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return ()
    return [formal.name for formal in schema.inputs]
