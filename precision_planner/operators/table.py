"""All rows, found by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache

from onnx import NodeProto

from precision_planner.operators import contributed, layers, movement, others, pointwise, reductions
from precision_planner.operators.row import Operator
from precision_planner.operators.signatures import microsoft_signatures

__all__ = ["UNKNOWN", "domain_of", "operators", "row", "row_of"]

UNKNOWN = Operator("")
"""Nothing is claimed of a custom operator, a plugin or a local function."""


def domain_of(node: NodeProto) -> str:
    """A node's domain, '' for ONNX's own, which has two spellings."""
    return "" if node.domain == "ai.onnx" else node.domain


@cache
def _table() -> Mapping[tuple[str, str], Operator]:
    rows = (
        *movement.ROWS, *pointwise.ROWS, *reductions.ROWS, *layers.ROWS, *others.ROWS, *contributed.ROWS,
    )  # fmt: skip
    table = {(row.domain, row.name): row for row in rows}
    if len(table) != len(rows):
        twice = sorted(name for name, count in Counter(row.name for row in rows).items() if count > 1)
        raise AssertionError(f"an operator has two rows, or its name stands in two domains: {', '.join(twice)}")
    for name in microsoft_signatures():
        table.setdefault(("com.microsoft", name), Operator(name, "com.microsoft"))
    return table


def row(name: str, domain: str = "") -> Operator:
    """What is known of an operator; `UNKNOWN` of one that nobody here knows."""
    return _table().get((domain, name), UNKNOWN)


def row_of(node: NodeProto) -> Operator:
    """The same for a node's operator. Where a node calls a local function, the caller has to ask for that first."""
    return _table().get((domain_of(node), node.op_type), UNKNOWN)


def operators() -> Iterator[Operator]:
    """Every row."""
    return iter(_table().values())
