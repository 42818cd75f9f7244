"""Which nodes an action covers, from the terms of its `nodes`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from onnx import NodeProto

from precision_planner.model import NodeId, Scope
from precision_planner.operators import MOMENTS, Product, is_arithmetic, is_norm, is_product, row_of
from precision_planner.rules.facts.evidence import Subject
from precision_planner.rules.facts.model_facts import ModelFacts
from precision_planner.rules.facts.surroundings import walk_up

__all__ = ["NODE_SETS", "NodeSet", "resolve_nodes", "upstream_of"]

Place = tuple[Scope, int]

NODE_SETS = {
    "subject": "the node, or all nodes of the pattern",
    "producers": "the nodes that make the subject's inputs (all, or of one role), with the shape ops between",
    "consumers": "the nodes that read the subject's output, a weight or an input, with the shape ops between",
    "normalizations": "the normalizations that read the subject's output",
    "upstream": "the arithmetic that leads to the subject's inputs (all, or one role): back to a GEMM, a convolution, "
    "a lookup, a normalization or an input",
    "inside": "the pattern's nodes but the last",
}
"""Name -> meaning."""

_MATRIX: frozenset[Product] = frozenset({"matmul", "einsum"})


@dataclass(frozen=True, slots=True)
class NodeSet:
    """One term of an action's `nodes`.

    Attributes:
      name: a key of `NODE_SETS`.
      role: the input of the subject that it starts from; "" for all.
      ops: only these op types; none means all.
    """

    name: str
    role: str = ""
    ops: tuple[str, ...] = ()


def resolve_nodes(facts: ModelFacts, subject: Subject, terms: Iterable[NodeSet]) -> tuple[NodeId, ...]:
    """The nodes of an action, each once, in graph order; Constant nodes are left out: they follow their readers.

    Args:
      facts: the model.
      subject: what the rule fired on.
      terms: the action's `nodes`.
    """
    places: dict[tuple[tuple[str, ...], int], Place] = {}
    for term in terms:
        for scope, position in _SETS[term.name](facts, subject, term.role):
            node = scope.nodes[position]
            if node.op_type != "Constant" and (not term.ops or node.op_type in term.ops):
                places[scope.path, position] = (scope, position)
    order = {scope.path: number for number, scope in enumerate(facts.source.index.scopes)}
    ordered = sorted(places.values(), key=lambda place: (order[place[0].path], place[1]))
    return tuple(facts.source.index.node_id(scope, position) for scope, position in ordered)


def _subject(facts: ModelFacts, subject: Subject, role: str) -> list[Place]:
    if subject.kind in ("tensor", "input"):
        return []
    found = (facts.source.index.find(node) for node in subject.node_ids(facts.source.index))
    return [place for place in found if place is not None]


def _inside(facts: ModelFacts, subject: Subject, role: str) -> list[Place]:
    return _subject(facts, subject, role)[:-1]


def _inputs(facts: ModelFacts, subject: Subject, role: str) -> list[str]:
    if role:
        return facts.role_values(subject, role) or []
    if subject.match is not None:
        return [name for name in subject.match.inputs.values() if name]
    return [name for name in subject.node.input if name] if subject.node is not None else []


def _producers(facts: ModelFacts, subject: Subject, role: str) -> list[Place]:
    starts = [(subject.scope, value) for value in _inputs(facts, subject, role)]
    way = facts.flow.trace(starts, until=lambda scope, value: not facts.is_activation(scope, value))
    return [
        (found.scope, found.position)
        for found, _ in way
        if found.node is not None and facts.is_activation(found.scope, found.value)
    ]


def _readers(facts: ModelFacts, scope: Scope, value: str) -> list[Place]:
    """Who reads a value, with the shape ops between."""
    return [(read.scope, read.position) for read in facts.flow.uses(scope, value)]


def _outputs(subject: Subject) -> list[str]:
    if subject.kind in ("tensor", "input"):
        return [subject.value]
    if subject.match is not None:
        return [subject.match.output, *subject.match.outputs]
    return [name for name in subject.node.output if name] if subject.node is not None else []


def _consumers(facts: ModelFacts, subject: Subject, role: str) -> list[Place]:
    return [place for value in dict.fromkeys(_outputs(subject)) for place in _readers(facts, subject.scope, value)]


def _normalizations(facts: ModelFacts, subject: Subject, role: str) -> list[Place]:
    """Native normalizations that read the output, and every node of a decomposed one."""
    index = facts.source.index
    readers = _consumers(facts, subject, role)
    found = [place for place in readers if is_norm(place[0].nodes[place[1]])]
    values = set(_outputs(subject))
    for match in facts.source.matches:
        if (
            match.kind.endswith("_normalization")
            and match.scope == subject.scope.path
            and values & set(match.inputs.values())
        ):
            places = (index.find(node) for node in match.nodes)
            found += [place for place in places if place is not None]
    return found


def upstream_of(facts: ModelFacts, subject: Subject, role: str) -> list[Place]:
    """The float arithmetic that leads to a subject's inputs; see `NODE_SETS`."""
    types = facts.source.types
    starts = [(subject.scope, name) for name in _inputs(facts, subject, role)]

    def enter(node: NodeProto) -> bool:
        if is_product(node, _MATRIX):
            return True
        return is_arithmetic(node, reductions=MOMENTS) and row_of(node).movement != "lookup"

    def until(scope: Scope, value: str) -> bool:
        if not facts.is_activation(scope, value):  # an integer op ends the walk: it has no precision
            return True
        node = scope.producer_node(value)
        if node is None or not is_product(node, _MATRIX):
            return False
        # an outer product of positions and frequencies belongs to the arithmetic; a layer of the network does not
        length = types.of(scope, node.input[0]).shape
        return not length or length[-1] != 1

    return walk_up(facts.flow, starts, enter, until=until)


_SETS: dict[str, Callable[[ModelFacts, Subject, str], list[Place]]] = {
    "subject": _subject,
    "producers": _producers,
    "consumers": _consumers,
    "normalizations": _normalizations,
    "upstream": upstream_of,
    "inside": _inside,
}
