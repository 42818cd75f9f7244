"""Which parts of two graphs are worth drawing before and after: one of each kind of fusion and of island."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import NodeProto, TensorProto

from precision_planner.model import FLOAT_TYPES, GraphIndex, Model, TypeTable, display_name, infer_types, type_name
from precision_planner.operators import is_conversion
from precision_planner.simulation import inline_functions

if TYPE_CHECKING:
    from precision_planner.diffing.sources import Side

MOST_DRAWINGS = 8
MOST_NODES = 24
"""A part with more nodes shows its first ones, and says how many there are."""

_LOW = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_WIDE = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})


@dataclass(frozen=True)
class _Graph:
    nodes: Sequence[NodeProto]
    maker: Mapping[str, int]
    readers: Mapping[str, Sequence[int]]
    constants: frozenset[str]
    types: TypeTable
    kept: frozenset[str]


def side_drawings(reference: Side, candidate: Side) -> list[dict[str, Any]]:
    """`drawings` of what was compared; [] where either is no model."""
    if reference.model is None or candidate.model is None:
        return []
    fused = fused_names(reference.model, candidate.model, candidate.plan.get("fusions") or ())
    return drawings(reference.model, candidate.model, {**fused, **candidate.names}, reasons(candidate.plan))


def reasons(plan: Mapping[str, Any]) -> dict[str, str]:
    """Node -> why a plan keeps it in FP32, from its JSON."""
    return {
        str(node["node"]): str(node["reason"])
        for node in plan.get("nodes") or ()
        if node.get("reason") and node.get("precision") == "fp32"
    }


def drawings(
    reference: Model, candidate: Model, names: Mapping[str, str], kept: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Parts of both graphs, ready to be drawn.

    Args:
      reference: the graph before.
      candidate: the graph after.
      names: old node name -> new; several old ones with one new one were fused.
      kept: node of the candidate -> why it is FP32.

    Returns:
      One dict for each distinct kind: `kind` ("fusion" or "island"), `title`, `count` (how many are like it),
      `reason`, and `before` and `after`, each {"nodes": [{"name", "op_type", "type", "inside",
      "kept"}], "edges": [[from, to,
      type]], "hidden": n}. A node's `type` is what it makes.
    """
    whys = dict(kept or {})
    before, after = _graph(reference), _graph(candidate, frozenset(whys))
    named_before = {display_name(node): at for at, node in enumerate(before.nodes)}
    named_after = {display_name(node): at for at, node in enumerate(after.nodes)}
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    drawn: set[int] = set()
    fused: dict[str, list[str]] = {}
    for old, new in names.items():
        if old != new:
            fused.setdefault(new, []).append(old)
    for new, olds in fused.items():
        old_places = sorted(named_before[name] for name in olds if name in named_before)
        if new not in named_after or len(old_places) < 2:
            continue
        place = named_after[new]
        drawn.add(place)
        key = ("fusion", after.nodes[place].op_type, tuple(before.nodes[at].op_type for at in old_places))
        title = f"{len(old_places)} nodes became one {after.nodes[place].op_type}"
        _note(groups, key, title, new, whys.get(new, ""), (before, old_places), (after, [place]))
    for part in _islands(after):
        if drawn.issuperset(part):
            continue
        ops = tuple(after.nodes[at].op_type for at in part)
        outputs = [name for at in part for name in after.nodes[at].output if name in before.maker]
        here = sorted({before.maker[name] for name in outputs})
        why = next((whys[name] for at in part if (name := display_name(after.nodes[at])) in whys), "")
        title = f"FP32 island: {', '.join(dict.fromkeys(ops))}"
        _note(groups, ("island", ops), title, display_name(after.nodes[part[0]]), why, (before, here), (after, part))
    return list(groups.values())[:MOST_DRAWINGS]


def _note(
    groups: dict[tuple[Any, ...], dict[str, Any]],
    key: tuple[Any, ...],
    title: str,
    name: str,
    reason: str,
    before: tuple[_Graph, Sequence[int]],
    after: tuple[_Graph, Sequence[int]],
) -> None:
    if key in groups:
        groups[key]["count"] += 1
        groups[key]["reason"] = groups[key]["reason"] or reason
        return
    groups[key] = {
        "kind": key[0],
        "title": title,
        "count": 1,
        "example": name,
        "reason": reason,
        "before": _part(*before),
        "after": _part(*after),
    }


def _graph(model: Model, kept: frozenset[str] = frozenset()) -> _Graph:
    model = inline_functions(model)
    scope = GraphIndex(model.proto).main
    readers: dict[str, list[int]] = {}
    for at, node in enumerate(scope.nodes):
        for name in dict.fromkeys(node.input):
            if name:
                readers.setdefault(name, []).append(at)
    constants = set(scope.initializers)
    constants.update(name for node in scope.nodes if node.op_type == "Constant" for name in node.output)
    maker = {name: at for at, node in enumerate(scope.nodes) for name in node.output if name}
    return _Graph(list(scope.nodes), maker, readers, frozenset(constants), infer_types(model), kept)


def _islands(graph: _Graph) -> list[list[int]]:
    """Connected nodes that compute in FP32 between 16-bit values, each in the graph's order."""
    types = {name: kind.elem_type for (scope, name), kind in graph.types.items() if not scope}
    if not _LOW.intersection(types.values()):
        return []
    wide = set()
    for at, node in enumerate(graph.nodes):
        if is_conversion(node) or node.op_type == "Constant":
            continue
        values = [name for name in (*node.input, *node.output) if name and name not in graph.constants]
        floats = {types.get(name, 0) for name in values} & FLOAT_TYPES
        if floats and floats <= _WIDE:
            wide.add(at)
    parts: list[list[int]] = []
    seen: set[int] = set()
    for start in sorted(wide):
        if start in seen:
            continue
        part, todo = set[int](), [start]
        while todo:
            at = todo.pop()
            if at in part:
                continue
            part.add(at)
            near = [graph.maker[name] for name in graph.nodes[at].input if name in graph.maker]
            near += [other for name in graph.nodes[at].output for other in graph.readers.get(name, ())]
            todo += [other for other in near if other in wide]
        seen |= part
        parts.append(sorted(part))
    return parts


def _part(graph: _Graph, places: Sequence[int]) -> dict[str, Any]:
    """These nodes and their neighbors, one step away."""
    inside = list(places)[:MOST_NODES]
    chosen = set(inside)
    around: set[int] = set()
    for at in inside:
        around.update(
            graph.maker[name] for name in graph.nodes[at].input if name in graph.maker and name not in graph.constants
        )
        around.update(other for name in graph.nodes[at].output for other in graph.readers.get(name, ()))
    hidden = set(places) - chosen
    around -= chosen | hidden
    # many readers of one value (a residual, a mask) would hide the part itself
    shown = sorted(chosen | set(sorted(around)[: max(4, MOST_NODES - len(chosen))]))
    number = {at: position for position, at in enumerate(shown)}
    edges = []
    for at in shown:
        for name in dict.fromkeys(graph.nodes[at].input):
            source = graph.maker.get(name)
            if source in number:
                edges.append([number[source], number[at], _type(graph, name)])
    return {
        "nodes": [
            {
                "name": display_name(graph.nodes[at]),
                "op_type": graph.nodes[at].op_type,
                "type": _type(graph, next(iter(graph.nodes[at].output), "")),
                "inside": at in chosen,
                "kept": display_name(graph.nodes[at]) in graph.kept,
            }
            for at in shown
        ],
        "edges": edges,
        "hidden": len(hidden),
    }


def _type(graph: _Graph, name: str) -> str:
    kind = graph.types.get(((), name))
    return "" if kind is None or not kind.elem_type else type_name(kind.elem_type)


def fused_names(reference: Model, candidate: Model, fusions: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Old node name -> the node of the candidate that took its place, of the fusions that a plan lists.

    Args:
      reference: the graph before.
      candidate: the graph after.
      fusions: the plan's: {"kind", "nodes": names in the graph before}.
    """
    made = {name: display_name(node) for node in candidate.proto.graph.node for name in node.output if name}
    outputs = {display_name(node): list(node.output) for node in reference.proto.graph.node}
    found: dict[str, str] = {}
    for fusion in fusions:
        nodes = [str(name) for name in fusion.get("nodes", ())]
        new = next((made[out] for name in reversed(nodes) for out in outputs.get(name, ()) if out in made), None)
        if new is not None:
            found.update((name, new) for name in nodes)
    return found
