"""Topological order: models whose graphs are not sorted are common, and most tools refuse or misread them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import onnx

from precision_planner.model.bodies import bodies_of
from precision_planner.model.edit import set_nodes


def sorted_copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose graphs are topologically sorted, as shape inference and onnxruntime need (stable order)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    sort_graph(copy.graph)
    for function in copy.functions:
        for node in function.node:
            _sort_bodies(node)
        order = topological_order(function.node)
        if order is not None:
            set_nodes(function, [function.node[at] for at in order])
    return copy


def sort_graph(graph: onnx.GraphProto) -> None:
    """Sort a graph and its bodies in place; one that is sorted, or has a cycle, is left as it is."""
    for node in graph.node:
        _sort_bodies(node)
    order = topological_order(graph.node)
    if order is not None:
        set_nodes(graph, [graph.node[at] for at in order])


def topological_order(nodes: Sequence[onnx.NodeProto]) -> list[int] | None:
    """The positions in an order where producers come first; None if they already do (or there is a cycle).

    The order is the smallest: of the nodes that are ready, the one that stood first comes first.
    """
    made_by = {name: position for position, node in enumerate(nodes) for name in node.output if name}
    needs = [{made_by[name] for name in reads(node) if name in made_by} - {at} for at, node in enumerate(nodes)]
    if all(max(need, default=-1) < at for at, need in enumerate(needs)):
        return None
    readers: dict[int, list[int]] = {}
    missing = [len(need) for need in needs]
    for at, need in enumerate(needs):
        for source in need:
            readers.setdefault(source, []).append(at)
    ready = [at for at, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        at = heapq.heappop(ready)
        order.append(at)
        for reader in readers.get(at, ()):
            missing[reader] -= 1
            if missing[reader] == 0:
                heapq.heappush(ready, reader)
    return order if len(order) == len(nodes) else None


def reads(node: onnx.NodeProto) -> set[str]:
    """Every name a node reads, what its bodies capture included.

    Names that a body makes itself are in the set too: names are unique across a graph and its bodies, so they name
    nothing outside.
    """
    names = {name for name in node.input if name}
    for body in bodies_of(node):
        names.update(output.name for output in body.output)
        for inner in body.node:
            names |= reads(inner)
    return names


def _sort_bodies(node: onnx.NodeProto) -> None:
    for body in bodies_of(node):
        sort_graph(body)
