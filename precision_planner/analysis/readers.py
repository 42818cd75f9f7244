"""Who reads a tensor: followed through what only carries it, into bodies and functions and out of them again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import NodeProto

from precision_planner.model import Scope
from precision_planner.model.index import GraphIndex

__all__ = ["CARRIERS", "Read", "Readers", "is_standard"]

CARRIERS = frozenset(
    {
        "Identity",
        "Cast",
        "CastLike",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Expand",
        "Dropout",
        "Tile",
    }
)
"""Ops that hand the values of their first input on, one by one."""

LIMIT = 4096
"""Reads looked at for one tensor: a scalar that the exporter shares may have one for each node."""


@dataclass(frozen=True, slots=True)
class Read:
    """One node that uses a tensor.

    Attributes:
      scope: the node's graph.
      position: of the node in it.
      slot: the index of the input.
      value: the name under which it is read: the tensor's own or that of what carries it.
    """

    scope: Scope
    position: int
    slot: int
    value: str

    @property
    def node(self) -> NodeProto:
        """The node."""
        return self.scope.nodes[self.position]


def is_standard(node: NodeProto) -> bool:
    """Whether a node is of ONNX's own domain."""
    return node.domain in ("", "ai.onnx")


class Readers:
    """Finds the nodes that use a value.

    Args:
      index: of the model.
    """

    def __init__(self, index: GraphIndex) -> None:
        self._bodies: dict[int, list[Scope]] = {}
        self._functions: dict[tuple[str, str], list[Scope]] = {}
        for scope in index.scopes:
            if scope.owner is not None:
                self._bodies.setdefault(id(scope.owner), []).append(scope)
            elif scope.kind == "function":
                self._functions.setdefault(_function_name(scope), []).append(scope)
        self._calls: dict[tuple[str, str], list[tuple[Scope, NodeProto]]] = {}
        if self._functions:
            for scope, _, node in index.nodes():
                if (node.domain, node.op_type) in self._functions:
                    self._calls.setdefault((node.domain, node.op_type), []).append((scope, node))

    def of(self, scope: Scope, value: str) -> tuple[list[Read], bool]:
        """The nodes that use a value, and whether the model returns it as it is.

        Seen through `CARRIERS`, from bodies that capture it, through the inputs of Loop, Scan and local functions,
        and out of the bodies that return it.

        Args:
          scope: the graph that holds the value.
          value: its name.
        """
        found: list[Read] = []
        is_returned = False
        seen: set[tuple[tuple[str, ...], str]] = set()
        waiting = deque([(scope, value)])
        while waiting and len(found) < LIMIT:
            holder, name = waiting.popleft()
            if (holder.path, name) in seen:
                continue
            seen.add((holder.path, name))
            if holder.is_output(name):
                is_returned = is_returned or holder.kind == "main"
                waiting.extend(self._outside(holder, name))
            for body in holder.body_outputs.get(name, ()):
                waiting.extend(self._outside(body, name))
            uses = [(holder, use) for use in holder.consumers(name)] + holder.captures.get(name, [])
            for where, use in uses:
                node = where.nodes[use.position]
                inside = self._inside(node, use.slot)
                if is_standard(node) and node.op_type in CARRIERS and use.slot == 0:
                    waiting.append((where, node.output[0]))
                elif inside:
                    waiting.extend(inside)
                else:
                    found.append(Read(where, use.position, use.slot, name))
        return found, is_returned

    def _inside(self, node: NodeProto, slot: int) -> list[tuple[Scope, str]]:
        """The names that input `slot` has in the node's bodies or in the function that the node calls."""
        # Loop has trip count, condition, carried values, and so has its body: iteration, condition, carried values
        if is_standard(node) and (node.op_type == "Scan" or (node.op_type == "Loop" and slot >= 2)):
            scopes = self._bodies.get(id(node), [])
        else:
            scopes = self._functions.get((node.domain, node.op_type), [])
        return [(scope, scope.inputs[slot]) for scope in scopes if slot < len(scope.inputs)]

    def _outside(self, body: Scope, value: str) -> Iterator[tuple[Scope, str]]:
        """The names that a returned value has around its body: outputs of If, of Loop (less the condition), of Scan."""
        places = [number for number, name in enumerate(body.outputs) if name == value]
        callers: list[tuple[Scope, NodeProto]] = []
        if body.kind == "function":
            callers = self._calls.get(_function_name(body), [])
        elif body.parent is not None and body.owner is not None:
            callers = [(body.parent, body.owner)]
        for scope, node in callers:
            shift = 1 if is_standard(node) and node.op_type == "Loop" else 0
            for place in places:
                if 0 <= place - shift < len(node.output) and node.output[place - shift]:
                    yield scope, node.output[place - shift]


def _function_name(scope: Scope) -> tuple[str, str]:
    """(domain, name) of a local function, as the nodes that call it have them."""
    return getattr(scope.container, "domain", ""), scope.container.name
