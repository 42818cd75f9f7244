"""The regions of a graph: what the search keeps high or low together, because one kernel or one rule would.

Cases: 1. a pattern (normalization, softmax, GELU, rotary embedding, ...) is one region. 2. A matrix product or
convolution takes the pointwise nodes behind it along that read nothing else: bias, scale, activation. 3. A residual
sum is a region of its own. 4. Other pointwise nodes join the region of the only value they read, and reductions and
the rest stand alone; so do selections (TopK, pooling and reductions by maximum), unless they pick from what one region
makes and hands to nothing else. Every node that a decision can change is in a region: what is left low where all of
these are in FP32 is one of its own. Nodes that only move values follow what stands around them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from precision_planner.model import GraphIndex, Model, NodeId, Scope, TypeTable
from precision_planner.operators import PRODUCTS, is_exact, is_pointwise, is_product
from precision_planner.patterns import Match, find_patterns
from precision_planner.patterns.match import NORMALIZATIONS
from precision_planner.typing import TypeAssignment

__all__ = ["KINDS", "Region", "find_regions"]

KINDS = ("gemm", "normalization", "softmax", "residual", "pointwise", "other")
"""What a region does, the dear ones first."""

_ONE_KERNEL = (*NORMALIZATIONS, "softmax", "gelu", "l2_normalization", "rotary_embedding")
_MOST_HOPS = 16


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes that are decided together.

    Attributes:
      name: the display name of the node that makes its result.
      kind: one of `KINDS`.
      nodes: in graph order.
      attention: it holds a product inside an attention (Q K^T or P V), which a fused kernel computes in 16 bits.
    """

    name: str
    kind: str
    nodes: tuple[NodeId, ...]
    attention: bool = False


def find_regions(
    model: Model,
    index: GraphIndex,
    types: TypeTable,
    assignment: TypeAssignment,
    also: Collection[NodeId] = (),
) -> tuple[Region, ...]:
    """The regions of a model, in graph order.

    Args:
      model: the graph that is searched: fused, in FP32.
      index: of its proto.
      types: of its values.
      assignment: any assignment of it; says which nodes a decision can change.
      also: nodes that move values and have to be decided nevertheless.
    """
    free = {node for node, typing in assignment.nodes.items() if not typing.forced and not typing.moves}
    free.update(also)
    matches = find_patterns(model, index=index, types=types, kinds=(*_ONE_KERNEL, "residual", "attention"))
    patterns, residual, products = _by_node(matches, index)
    builder = _Builder(index, free, residual)
    for scope in index.scopes:
        for position in range(len(scope.nodes)):
            identity = index.node_id(scope, position)
            if identity in free:
                builder.place(scope, position, identity, patterns.get(identity))
    return tuple(
        Region(index.display(nodes[-1]), kind, tuple(nodes), any(node in products for node in nodes))
        for kind, nodes in builder.groups
    )


def _by_node(matches: Iterable[Match], index: GraphIndex) -> tuple[dict[NodeId, Match], set[NodeId], set[NodeId]]:
    """(node -> the pattern that it is decided with, residual sums, products inside attentions)."""
    patterns: dict[NodeId, Match] = {}
    residual: set[NodeId] = set()
    products: set[NodeId] = set()
    for match in matches:
        if match.kind == "residual":
            residual.update(match.nodes)
        elif match.kind == "attention":
            products.update(node for node in match.nodes if _is_product(index, node))
        elif match.proven:
            for node in match.nodes:
                if not _is_product(index, node):
                    patterns.setdefault(node, match)
    return patterns, residual, products


def _is_product(index: GraphIndex, node: NodeId) -> bool:
    found = index.find(node)
    return found is not None and is_product(found[0].nodes[found[1]], PRODUCTS)


class _Builder:
    """Collects nodes into groups: (kind, nodes), in the order in which groups begin."""

    def __init__(self, index: GraphIndex, free: set[NodeId], residual: set[NodeId]) -> None:
        self.groups: list[tuple[str, list[NodeId]]] = []
        self._index, self._free, self._residual = index, free, residual
        self._group_of: dict[NodeId, int] = {}
        self._pattern_group: dict[int, int] = {}

    def place(self, scope: Scope, position: int, identity: NodeId, pattern: Match | None) -> None:
        """Put a node, whose predecessors have been placed, into its group."""
        node = scope.nodes[position]
        if pattern is not None:
            known = self._pattern_group.get(id(pattern))
            group = self._new(_kind_of(pattern)) if known is None else known
            self._pattern_group[id(pattern)] = group
        elif is_product(node, PRODUCTS):
            group = self._new("gemm")
        elif identity in self._residual:
            group = self._new("residual")
        elif is_pointwise(node) or is_exact(node):
            joined = self._joined(scope, position)
            group = self._new("pointwise") if joined is None else joined
        else:
            group = self._new("other")
        self.groups[group][1].append(identity)
        self._group_of[identity] = group

    def _new(self, kind: str) -> int:
        self.groups.append((kind, []))
        return len(self.groups) - 1

    def _joined(self, scope: Scope, position: int) -> int | None:
        """The group of what a pointwise node reads, where it is one group and only pointwise nodes read it."""
        groups = set()
        for value in scope.nodes[position].input:
            maker = self._maker(scope, value)
            if maker is None:
                continue
            made_by, name = maker
            if made_by not in self._group_of or not self._read_pointwise(scope, name):
                return None
            groups.add(self._group_of[made_by])
        group = groups.pop() if len(groups) == 1 else None
        return group if group is not None and self.groups[group][0] in ("gemm", "pointwise", "other") else None

    def _maker(self, scope: Scope, value: str) -> tuple[NodeId, str] | None:
        """The node behind a value that can be decided, seen through nodes that move it; None for constants."""
        for _ in range(_MOST_HOPS):
            at = scope.producer(value) if value else None
            if at is None:
                return None
            identity, node = self._index.node_id(scope, at), scope.nodes[at]
            if identity in self._group_of or not is_exact(node) or not node.input:
                return (identity, value) if node.op_type != "Constant" else None
            value = node.input[0]
        return None

    def _read_pointwise(self, scope: Scope, value: str) -> bool:
        if scope.is_output(value) or value in scope.captures:
            return False
        readers = [scope.nodes[use.position] for use in scope.consumers(value)]
        return all(is_pointwise(reader) or is_exact(reader) for reader in readers)


def _kind_of(match: Match) -> str:
    if match.kind in NORMALIZATIONS or match.kind == "l2_normalization":
        return "normalization"
    return "softmax" if match.kind == "softmax" else "pointwise"
