"""Between the regions of a graph: who makes a value and who reads it, seen through nodes that only move it."""

from __future__ import annotations

from collections.abc import Sequence

from precision_planner.model import GraphIndex, Scope
from precision_planner.operators import is_exact
from precision_planner.planning.search.regions import Region

__all__ = ["Flow"]


class Flow:
    """Which region made a value and which read it.

    Args:
      index: of the graph.
      regions: of the graph; their numbers are their places.
    """

    def __init__(self, index: GraphIndex, regions: Sequence[Region]) -> None:
        self._index = index
        self._region_of = {node: number for number, region in enumerate(regions) for node in region.nodes}

    def region(self, scope: Scope, position: int) -> int | None:
        """The region of a node."""
        return self._region_of.get(self._index.node_id(scope, position))

    def origin(self, scope: Scope, value: str) -> int | None:
        """The region that made a value; None for constants, inputs, and what no region makes."""
        seen: set[str] = set()
        while value and value not in seen:
            seen.add(value)
            position = scope.producer(value)
            if position is None:
                return None
            number = self.region(scope, position)
            if number is not None or not is_exact(scope.nodes[position]):
                return number
            value = next((name for name in scope.nodes[position].input if name), "")
        return None

    def readers(self, scope: Scope, value: str) -> frozenset[int]:
        """The regions that read a value."""
        found: set[int] = set()
        waiting, seen = [(scope, value)], {(scope.path, value)}
        while waiting:
            here, name = waiting.pop()
            uses = [(here, use.position) for use in here.consumers(name)]
            uses += [(body, use.position) for body, use in here.captures.get(name, ())]
            for reader, position in uses:
                number = self.region(reader, position)
                if number is not None:
                    found.add(number)
                elif is_exact(reader.nodes[position]):
                    for output in reader.nodes[position].output:
                        if output and (reader.path, output) not in seen:
                            seen.add((reader.path, output))
                            waiting.append((reader, output))
        return frozenset(found)
