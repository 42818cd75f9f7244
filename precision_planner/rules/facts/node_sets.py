"""Which nodes an action covers, from the terms of its `nodes`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from onnx import NodeProto

from precision_planner.model import NodeId, Scope
from precision_planner.rules.facts.evidence import Subject
from precision_planner.rules.facts.model_facts import TRANSPARENT, ModelFacts
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

_ARITHMETIC = frozenset(
    [
        "Abs",
        "Add",
        "Ceil",
        "Clip",
        "Concat",
        "CumSum",
        "Div",
        "Einsum",
        "Exp",
        "Expand",
        "Floor",
        "Identity",
        "Log",
        "MatMul",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Pow",
        "Range",
        "Reciprocal",
        "Reshape",
        "Round",
        "Sign",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
        "Cast",
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceSumSquare",
        "ReduceL2",
        "Flatten",
    ]
)
_MATRIX = frozenset({"MatMul", "Einsum"})
_NORMALIZATION_OPS = frozenset(
    {
        "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "GroupNormalization",
        "InstanceNormalization", "BatchNormalization", "LpNormalization", "MeanVarianceNormalization",
    }
)  # fmt: skip


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
    scope = subject.scope
    found: list[Place] = []
    for value in _inputs(facts, subject, role):
        position = scope.producer(value)
        while position is not None and facts.is_activation(scope, value):
            found.append((scope, position))
            node = scope.nodes[position]
            if node.op_type not in TRANSPARENT:
                break
            value = node.input[0]
            position = scope.producer(value)
    return found


def _readers(scope: Scope, value: str) -> list[Place]:
    """Who reads a value, with the shape ops between."""
    found: list[Place] = []
    waiting = [(scope, value)]
    while waiting:
        at, name = waiting.pop()
        uses = [(at, use) for use in at.consumers(name)] + list(at.captures.get(name, []))
        for holder, use in uses:
            node: NodeProto = holder.nodes[use.position]
            found.append((holder, use.position))
            if node.op_type in TRANSPARENT and use.slot == 0:
                waiting.append((holder, node.output[0]))
    return found


def _outputs(subject: Subject) -> list[str]:
    if subject.kind in ("tensor", "input"):
        return [subject.value]
    if subject.match is not None:
        return [subject.match.output, *subject.match.outputs]
    return [name for name in subject.node.output if name] if subject.node is not None else []


def _consumers(facts: ModelFacts, subject: Subject, role: str) -> list[Place]:
    return [place for value in dict.fromkeys(_outputs(subject)) for place in _readers(subject.scope, value)]


def _normalizations(facts: ModelFacts, subject: Subject, role: str) -> list[Place]:
    """Native normalizations that read the output, and every node of a decomposed one."""
    index = facts.source.index
    readers = _consumers(facts, subject, role)
    found = [place for place in readers if place[0].nodes[place[1]].op_type in _NORMALIZATION_OPS]
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


def _upstream(facts: ModelFacts, subject: Subject, role: str) -> list[Place]:
    return [(subject.scope, position) for position in upstream_of(facts, subject, role)]


def upstream_of(facts: ModelFacts, subject: Subject, role: str) -> list[int]:
    """Positions of the float arithmetic that leads to a subject's inputs; see `NODE_SETS`."""
    scope = subject.scope
    values = [name for name in _inputs(facts, subject, role) if facts.is_activation(scope, name)]

    def enter(node: NodeProto) -> bool:
        if node.op_type not in _ARITHMETIC or node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type in _MATRIX:
            # an outer product of positions and frequencies belongs to the arithmetic; a layer of the network does not
            length = facts.source.types.of(scope, node.input[0]).shape
            return bool(length) and length[-1] == 1  # type: ignore[index]
        # an integer op ends the walk: it has no precision
        return facts.is_activation(scope, node.output[0])

    return walk_up(scope, values, enter)


_SETS: dict[str, Callable[[ModelFacts, Subject, str], list[Place]]] = {
    "subject": _subject,
    "producers": _producers,
    "consumers": _consumers,
    "normalizations": _normalizations,
    "upstream": _upstream,
    "inside": _inside,
}
