"""A graph cut into blocks of nodes, and a block under a rounding plan as a model of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import onnx
from onnx import NodeProto

from precision_planner.model import GraphIndex, Model
from precision_planner.model.blocks import containers, part_input
from precision_planner.model.edit import set_nodes
from precision_planner.model.order import reads
from precision_planner.simulation.rounding import RoundingPlan, apply_rounding

__all__ = ["Block", "Cut", "Signature", "homes"]

Signature: TypeAlias = "tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...], bool]"
"""What a plan says about one block: (values rounded where made, edges rounded where read, products), sorted; whether it
rounds by chance."""

_WINDOW = 3
"""A cut may move by a third of a block to where fewer values cross it."""


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes [start, stop) of the sorted main graph.

    Attributes:
      start, stop: the positions.
      constants: positions of Constant nodes elsewhere that it reads; each block has its own copy.
      inputs: values made outside that it reads, constants not among them.
      outputs: values made here that later blocks read, or that the model returns.
      dying: values that no later block reads and the model does not return.
    """

    start: int
    stop: int
    constants: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dying: tuple[str, ...]


class Cut:
    """The blocks of a model.

    Args:
      model: without local functions, its main graph sorted.
      index: of its proto.
      size: nodes that a block should have. The ends lie where few values cross them, never where a sequence does.
    """

    def __init__(self, model: Model, index: GraphIndex, size: int) -> None:
        self._model = model
        self._index = index
        self._nodes: Sequence[NodeProto] = index.main.nodes
        self._reads = [reads(node) for node in self._nodes]
        self._constant = {at for at, node in enumerate(self._nodes) if node.op_type == "Constant"}
        self.blocks = tuple(self._make_blocks(size))
        self._home = homes(index)
        self._block_of = [number for number, block in enumerate(self.blocks) for _ in range(block.start, block.stop)]

    def signatures(self, plan: RoundingPlan) -> tuple[Signature, ...]:
        """What a plan says about each block. Positions of the plan's edges are those of `index`."""
        main = self._index.main
        values: list[list[Any]] = [[] for _ in self.blocks]
        edges: list[list[Any]] = [[] for _ in self.blocks]
        products: list[list[Any]] = [[] for _ in self.blocks]
        for (path, value), elem_type in plan.values.items():
            position = self._home[path] if path else main.producer(value)
            assert position is not None, f"{value} is rounded where it is made, and nothing makes it"
            values[self._block_of[position]].append((path, value, elem_type))
        for (path, position, slot), elem_type in plan.edges.items():
            edges[self._block_of[self._home[path] if path else position]].append((path, position, slot, elem_type))
        for (path, position), product in plan.accumulated.items():
            products[self._block_of[self._home[path] if path else position]].append((path, position, product))
        # the policy for weights is the whole plan's: without edges it changes nothing
        return tuple(
            (
                tuple(sorted(v)),
                (plan.weights, *sorted(e)) if e else (),
                tuple(sorted(p)),
                bool(plan.draw and (v or e or p)),
            )
            for v, e, p in zip(values, edges, products, strict=True)
        )

    def part(
        self, block: Block, signature: Signature, weights: Any, given: Mapping[str, tuple[int, Sequence[int]]]
    ) -> Model:
        """A block, rounded, as a model whose inputs and outputs are the block's.

        Args:
          block: one of `blocks`.
          signature: of the block under a plan.
          weights: the plan's policy for weights.
          given: block input -> element type and shape.
        """
        whole = self._model.proto
        proto = onnx.ModelProto(ir_version=whole.ir_version)
        proto.opset_import.extend(whole.opset_import)
        graph = proto.graph
        graph.name = f"nodes_{block.start}"
        positions = [*block.constants, *range(block.start, block.stop)]
        set_nodes(graph, [self._nodes[at] for at in positions])
        read = set[str]().union(*(self._reads[at] for at in positions)) if positions else set[str]()
        graph.initializer.extend(tensor for tensor in whole.graph.initializer if tensor.name in read)
        graph.sparse_initializer.extend(s for s in whole.graph.sparse_initializer if s.values.name in read)
        held = {tensor.name for tensor in graph.initializer}
        known = {value.name: value for value in whole.graph.input}
        graph.input.extend(value for name, value in known.items() if name in held)  # overridable, so no constants
        for name in block.inputs:
            graph.input.append(known.get(name) or part_input(name, *given[name], graph.node))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in block.outputs)
        local = {position: at for at, position in enumerate(positions)}
        values, edges, products, draw = signature
        plan = RoundingPlan(
            {(path, value): elem_type for path, value, elem_type in values},
            {(path, at if path else local[at], slot): kind for path, at, slot, kind in edges[1:]},
            weights,
            accumulated={(path, at if path else local[at]): product for path, at, product in products},
            draw=int(draw),
        )
        return apply_rounding(self._model.with_proto(proto), plan)

    def _make_blocks(self, size: int) -> list[Block]:
        nodes, graph = self._nodes, self._model.proto.graph
        end = len(nodes)
        returned = {value.name for value in graph.output}
        last = {name: at for at, names in enumerate(self._reads) for name in names}
        last.update(dict.fromkeys(returned, end))
        made = {name: at for at, node in enumerate(nodes) for name in node.output if name}
        made_by_constant = {name: at for name, at in made.items() if at in self._constant and name not in returned}
        stored = {tensor.name for tensor in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
        given = {value.name for value in graph.input} - stored
        bounds = self._bounds(size, made, last, made_by_constant)
        blocks = []
        for start, stop in pairwise(bounds):
            read = set[str]().union(*self._reads[start:stop])
            inner = {name for at in range(start, stop) for name in nodes[at].output if name}
            outer = read - inner
            constants = sorted({made_by_constant[name] for name in outer if name in made_by_constant})
            inputs = sorted(name for name in outer if name in given or (name in made and name not in made_by_constant))
            outputs = [
                name
                for at in range(start, stop)
                for name in nodes[at].output
                if name and last.get(name, -1) >= stop and name not in made_by_constant
            ]
            dying = [name for name in inputs if last[name] < stop]
            blocks.append(Block(start, stop, tuple(constants), tuple(inputs), tuple(outputs), tuple(dying)))
        return blocks

    def _bounds(
        self, size: int, made: Mapping[str, int], last: Mapping[str, int], constants: Mapping[str, int]
    ) -> list[int]:
        end = len(self._nodes)
        uncut = containers(self._model.proto)
        crossing = [0] * (end + 1)
        for name, at in made.items():
            if name in constants or last.get(name, -1) <= at:
                continue
            weight = end if name in uncut else 1
            for between in (at + 1, min(last[name], end) + 1):
                if between <= end:
                    crossing[between] += weight if between == at + 1 else -weight
        for at in range(1, end + 1):
            crossing[at] += crossing[at - 1]
        bounds, reach = [0], size // _WINDOW
        while end - bounds[-1] > size + reach:
            middle = bounds[-1] + size
            place = min(range(middle - reach, middle + reach + 1), key=lambda at: (crossing[at], abs(at - middle)))
            while place < end and crossing[place] >= end:  # a sequence cannot leave a block
                place += 1
            bounds.append(place)
        return bounds if bounds[-1] == end else [*bounds, end]


def homes(index: GraphIndex) -> dict[tuple[str, ...], int]:
    """Path of each body -> the position in the main graph of the node that holds it."""
    homes: dict[tuple[str, ...], int] = {}
    for scope in index.scopes:
        if scope.kind != "subgraph" or scope.parent is None:
            continue
        if scope.parent.path:
            homes[scope.path] = homes[scope.parent.path]
        else:
            homes[scope.path] = next(at for at, node in enumerate(index.main.nodes) if node is scope.owner)
    return homes
