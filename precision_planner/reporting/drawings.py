"""A part of a graph as an inline SVG: boxes in layers, top to bottom. Colors come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

BOX_WIDTH, BOX_HEIGHT = 136, 26
GAP_X, GAP_Y = 14, 22
MARGIN = 8
SIDE = 26
"""Room left and right for the edges that go around boxes."""

MOST_LABEL = 20

_SHORT = {"float32": "fp32", "float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}


def subgraph_drawing(part: Mapping[str, Any], label: str = "subgraph") -> str:
    """Draw nodes and edges as `diffing.drawings` gives them; "" for no nodes.

    A node stands below everything it reads. Nodes inside the part are filled, their neighbors outlined.

    Args:
      part: {"nodes": [..], "edges": [[from, to, type]], "hidden": n}.
      label: what a screen reader says.
    """
    nodes: Sequence[Mapping[str, Any]] = part["nodes"]
    if not nodes:
        return ""
    rank = _ranks(len(nodes), part["edges"])
    rows: list[list[int]] = [[] for _ in range(max(rank) + 1)]
    for at, row in enumerate(rank):
        rows[row].append(at)
    _untangle(rows, part["edges"])
    columns = max(map(len, rows))
    width = 2 * SIDE + columns * BOX_WIDTH + (columns - 1) * GAP_X
    height = 2 * MARGIN + len(rows) * BOX_HEIGHT + (len(rows) - 1) * GAP_Y
    place: dict[int, tuple[float, float]] = {}
    for row, members in enumerate(rows):
        wide = len(members) * BOX_WIDTH + (len(members) - 1) * GAP_X
        for column, at in enumerate(members):
            left = (width - wide) / 2 + column * (BOX_WIDTH + GAP_X)
            place[at] = (left, MARGIN + row * (BOX_HEIGHT + GAP_Y))
    names = ", ".join(str(node["op_type"]) for node in nodes)
    parts = [
        f'<svg class="graph" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}: {escape(names)}">'
    ]
    for source, target, kind in part["edges"]:
        (x0, y0), (x1, y1) = place[source], place[target]
        x0, x1, y0 = x0 + BOX_WIDTH / 2, x1 + BOX_WIDTH / 2, y0 + BOX_HEIGHT
        bend = (y1 - y0) / 2
        aside = 0.0
        if rank[target] - rank[source] > 1:  # around the boxes between
            aside = (BOX_WIDTH / 2 + GAP_X) * 4 / 3 * (1 if x0 <= x1 else -1)  # a cubic gets 3/4 of the way
        parts.append(
            f'<path class="edge {_kind(kind)}" d="M{x0:g} {y0:g} C{x0 + aside:g} {y0 + bend:g} {x1 + aside:g} '
            f'{y1 - bend:g} {x1:g} {y1:g}"><title>{escape(str(kind))}</title></path>'
        )
    for at, node in enumerate(nodes):
        left, top = place[at]
        parts.append(_box(node, left, top))
    return "".join(parts) + "</svg>"


def _box(node: Mapping[str, Any], left: float, top: float) -> str:
    kind = "fp32" if node.get("kept") else _kind(node.get("type", ""))
    place = "inside" if node.get("inside") else "outside"
    op = str(node["op_type"])
    text = op if len(op) <= MOST_LABEL else op[: MOST_LABEL - 1] + "…"
    return (
        f'<g class="box {place} {kind}"><rect x="{left:g}" y="{top:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" '
        f'rx="5"/><text x="{left + BOX_WIDTH / 2:g}" y="{top + BOX_HEIGHT / 2 + 4:g}" text-anchor="middle">'
        f"{escape(text)}</text><title>{escape(str(node['name']))}: makes {escape(str(node.get('type', '')))}"
        f"{', computes in FP32' if node.get('kept') else ''}</title></g>"
    )


def _kind(type_name: Any) -> str:
    return _SHORT.get(str(type_name).lower(), "other")


def _ranks(count: int, edges: Sequence[Sequence[Any]]) -> list[int]:
    """The longest path to each node; the nodes come in topological order."""
    rank = [0] * count
    for source, target, _ in sorted(edges, key=lambda edge: (edge[1], edge[0])):
        rank[target] = max(rank[target], rank[source] + 1)
    # a source stands right above its first reader, not at the top
    for source in range(count - 1, -1, -1):
        below = [rank[target] for start, target, _ in edges if start == source]
        if below:
            rank[source] = max(rank[source], min(below) - 1)
    least = min(rank)
    return [row - least for row in rank]


def _untangle(rows: list[list[int]], edges: Sequence[Sequence[Any]]) -> None:
    """Order each row by where its nodes' sources stand."""
    above: dict[int, list[int]] = {}
    for source, target, _ in edges:
        above.setdefault(target, []).append(source)
    place: dict[int, float] = {}
    for row in rows:
        middle = (len(row) - 1) / 2

        def wish(at: int, row: list[int] = row, middle: float = middle) -> float:
            known = [place[source] for source in above.get(at, ()) if source in place]
            return sum(known) / len(known) if known else row.index(at) - middle

        order = sorted(list(row), key=wish)
        row[:] = order
        place.update((at, position - middle) for position, at in enumerate(order))
