"""The one walk along what hands values on: forward to who uses a value, backward to where it comes from.

Both directions go into bodies and out of them again (captures, the inputs and results of If, Loop and Scan, local
functions) and visit every value once, so that a graph with a cycle ends too. Which nodes hand values on is asked of
`precision_planner.operators`; a caller may widen or narrow it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from onnx import NodeProto

from precision_planner.model.index import GraphIndex, Scope
from precision_planner.operators import carries, carries_to, domain_of, is_control

__all__ = ["Flow", "Origin", "Read", "Through"]

Through: TypeAlias = Callable[[NodeProto, int], bool]
"""Whether a node hands the value of its input at an index on."""


@dataclass(frozen=True, slots=True)
class Read:
    """One node that uses a value.

    Attributes:
      scope: the node's graph.
      position: of the node in it.
      slot: the index of the input.
      value: the name under which it is read: the value's own or that of what carries it.
    """

    scope: Scope
    position: int
    slot: int
    value: str

    @property
    def node(self) -> NodeProto:
        """The node."""
        return self.scope.nodes[self.position]


class Origin(NamedTuple):
    """Where a walk back ended: a value that no node hands on.

    Attributes:
      scope: the graph that holds it.
      value: its name.
      node: what makes it; None for initializers, the model's inputs, and what a Loop or Scan makes up for its body.
      position: of the node in its scope, -1 for none.
    """

    scope: Scope
    value: str
    node: NodeProto | None
    position: int


_Place: TypeAlias = tuple[Scope, str]


class Flow:
    """Walks along the values of a model.

    Args:
      index: of the model.
    """

    def __init__(self, index: GraphIndex) -> None:
        self._index = index
        self._bodies: dict[int, list[Scope]] = {}
        self._functions: dict[tuple[str, str, str], Scope] = {}
        for scope in index.scopes:
            if scope.owner is not None:
                self._bodies.setdefault(id(scope.owner), []).append(scope)
            elif scope.kind == "function":
                self._functions[_function_key(scope)] = scope
        self._calls: dict[tuple[str, str, str], list[tuple[Scope, int]]] = {}
        if self._functions:
            for scope, position, node in index.nodes():
                if _call_key(node) in self._functions:
                    self._calls.setdefault(_call_key(node), []).append((scope, position))

    # -- forward ----------------------------------------------------------------------------------------------------

    def readers(
        self, scope: Scope, value: str, through: Through = carries, *, limit: int | None = None
    ) -> tuple[list[Read], bool]:
        """The nodes that use a value, and whether the model returns it as it is.

        Args:
          scope: the graph that holds the value.
          value: its name.
          through: which nodes hand it on.
          limit: how many reads at most; None for all.
        """
        found: list[Read] = []
        is_returned = False
        for read in self._forward(scope, value, through):
            if read is None:
                is_returned = True
            else:
                found.append(read)
                if limit is not None and len(found) >= limit:
                    break
        return found, is_returned

    def uses(self, scope: Scope, value: str, through: Through = carries) -> list[Read]:
        """Every node that reads a value or what it is handed on as: those of `passed` and those of `readers`."""
        carried: list[Read] = []
        ends = [read for read in self._forward(scope, value, through, carried) if read is not None]
        return carried + ends

    def passed(self, scope: Scope, value: str, through: Through = carries) -> list[Read]:
        """The nodes that hand a value on, in the order of the walk."""
        carried: list[Read] = []
        for _ in self._forward(scope, value, through, carried):
            pass
        return carried

    def _forward(
        self, scope: Scope, value: str, through: Through, carried: list[Read] | None = None
    ) -> Iterator[Read | None]:
        """Every use, breadth first; None where the model returns the value."""
        seen: set[tuple[tuple[str, ...], str]] = set()
        waiting: deque[_Place] = deque([(scope, value)])
        while waiting:
            holder, name = waiting.popleft()
            if (holder.path, name) in seen:
                continue
            seen.add((holder.path, name))
            if holder.is_output(name):
                if holder.kind == "main":
                    yield None
                waiting.extend(self._outside(holder, name))
            for body in holder.body_outputs.get(name, ()):
                waiting.extend(self._outside(body, name))
            uses = [(holder, use) for use in holder.consumers(name)] + holder.captures.get(name, [])
            for where, use in uses:
                node = where.nodes[use.position]
                read = Read(where, use.position, use.slot, name)
                inside = self._inside(node, use.slot)
                if inside:
                    waiting.extend(inside)
                elif _call_key(node) not in self._functions and through(node, use.slot):
                    if carried is not None:
                        carried.append(read)
                    outputs = list(carries_to(node)) or [name for name in node.output[:1] if name]
                    waiting.extend((where, output) for output in outputs)
                else:
                    yield read

    def _inside(self, node: NodeProto, slot: int) -> list[_Place]:
        """The names that input `slot` has in the node's bodies or in the function that the node calls."""
        function = self._functions.get(_call_key(node))
        if function is not None:
            scopes, shift = [function], 0
        elif node.op_type == "Loop" and not domain_of(node):
            # trip count, condition, carried values; its body: iteration, condition, carried values
            scopes, shift = (self._bodies.get(id(node), []) if slot >= 2 else []), 0
        elif node.op_type == "Scan" and not domain_of(node):
            scopes, shift = self._bodies.get(id(node), []), _scan_shift(node)
        else:
            return []
        return [(scope, scope.inputs[slot - shift]) for scope in scopes if 0 <= slot - shift < len(scope.inputs)]

    def _outside(self, body: Scope, value: str) -> Iterator[_Place]:
        """The names that a returned value has around its body: outputs of If, of Loop (less the condition), of Scan.

        What a Loop or Scan carries comes back into the body, as its input, too.
        """
        places = [number for number, name in enumerate(body.outputs) if name == value]
        callers: list[tuple[Scope, NodeProto]] = []
        if body.kind == "function":
            callers = [(scope, scope.nodes[at]) for scope, at in self._calls.get(_function_key(body), [])]
        elif body.parent is not None and body.owner is not None:
            callers = [(body.parent, body.owner)]
        for scope, node in callers:
            loop = node.op_type == "Loop" and body.kind == "subgraph"
            for place in places:
                output = place - (1 if loop else 0)
                if 0 <= output < len(node.output) and node.output[output]:
                    yield scope, node.output[output]
                again = _fed_back(node, place) if body.kind == "subgraph" else None
                if again is not None and again < len(body.inputs):
                    yield body, body.inputs[again]

    # -- backward ---------------------------------------------------------------------------------------------------

    def origins(
        self, scope: Scope, value: str, through: Through = carries, *, limit: int | None = None
    ) -> list[Origin]:
        """Where a value comes from: every place where the walk back ended.

        Args:
          scope: the graph in which it is read.
          value: its name.
          through: which nodes hand on which of their inputs.
          limit: how many values are looked at, at most; None for all.
        """
        found: list[Origin] = []
        for origin, passes in self.trace([(scope, value)], through, limit=limit):
            if not passes:
                found.append(origin)
        return found

    def maker(self, scope: Scope, value: str, through: Through = carries) -> Origin | None:
        """The one place that a value comes from, None where there are several (branches, merges)."""
        found = self.origins(scope, value, through)
        return found[0] if len(found) == 1 else None

    def trace(
        self,
        starts: Iterable[_Place],
        through: Through = carries,
        *,
        until: Callable[[Scope, str], bool] | None = None,
        limit: int | None = None,
    ) -> Iterator[tuple[Origin, bool]]:
        """Every value on the way back, and whether the walk goes on behind it.

        Args:
          starts: (the graph in which it is read, value).
          through: which nodes hand on which of their inputs.
          until: (graph, value) behind which the walk does not go, whatever makes it.
          limit: how many values are looked at, at most; None for all.
        """
        seen: set[tuple[tuple[str, ...], str]] = set()
        waiting: deque[_Place] = deque(starts)
        while waiting and (limit is None or len(seen) < limit):
            scope, name = waiting.popleft()
            holder = self._index.resolve(scope, name) if name else None
            if holder is None or (holder.path, name) in seen:
                continue
            seen.add((holder.path, name))
            same = self.elsewhere(holder, name)
            if same:
                waiting.extend(same)
                continue
            position = holder.producer(name)
            if position is None:
                yield Origin(holder, name, None, -1), False
                continue
            node = holder.nodes[position]
            if until is not None and until(holder, name):
                yield Origin(holder, name, node, position), False
                continue
            called = _call_key(node) in self._functions
            inputs = [] if called else [n for at, n in enumerate(node.input) if n and through(node, at)]
            yield Origin(holder, name, node, position), bool(inputs)
            waiting.extend((holder, given) for given in inputs)

    def elsewhere(self, holder: Scope, value: str) -> list[_Place]:
        """Where a value comes from that no operator makes: a body or function returns it, or is given it.

        Args:
          holder: the graph that holds the value.
          value: its name.

        Returns:
          (graph, value): what the bodies or the function return, or what its callers give; empty for anything else.
        """
        position = holder.producer(value)
        return list(self._given(holder, value) if position is None else self._returned(holder.nodes[position], value))

    def _returned(self, node: NodeProto, value: str) -> Iterator[_Place]:
        """What a node's bodies, or the function that it calls, return as a value."""
        at = list(node.output).index(value)
        function = self._functions.get(_call_key(node))
        if function is not None:
            if at < len(function.outputs):
                yield function, function.outputs[at]
            return
        if not is_control(node):
            return
        place = at + (1 if node.op_type == "Loop" else 0)
        for body in self._bodies.get(id(node), ()):
            if place < len(body.outputs):
                yield body, body.outputs[place]
        if node.op_type == "Loop" and at + 2 < len(node.input) and node.input[at + 2]:
            # a loop that runs no time hands on what it was given
            for body in self._bodies.get(id(node), ())[:1]:
                if body.parent is not None:
                    yield body.parent, node.input[at + 2]

    def _given(self, holder: Scope, value: str) -> Iterator[_Place]:
        """What stands for an input of a body or function at its callers, and what the body itself feeds back."""
        if value not in holder.inputs or value in holder.initializers:
            return
        slot = holder.inputs.index(value)
        if holder.kind == "function":
            for scope, at in self._calls.get(_function_key(holder), ()):
                if slot < len(scope.nodes[at].input) and scope.nodes[at].input[slot]:
                    yield scope, scope.nodes[at].input[slot]
            return
        node = holder.owner
        if node is None or holder.parent is None or domain_of(node):
            return
        if node.op_type == "Loop" and slot >= 2:
            outer, returned = slot, slot - 1
        elif node.op_type == "Scan":
            outer, returned = slot + _scan_shift(node), slot if slot < _scan_states(node, holder) else -1
        else:
            return
        if outer < len(node.input) and node.input[outer]:
            yield holder.parent, node.input[outer]
        if 0 <= returned < len(holder.outputs):
            yield holder, holder.outputs[returned]


def _fed_back(node: NodeProto, place: int) -> int | None:
    """The input of a Loop's or Scan's body that its output at `place` comes back into, None for none."""
    if domain_of(node):
        return None
    if node.op_type == "Loop":
        carried = len(node.input) - 2
        return place + 1 if 1 <= place <= carried else None
    if node.op_type == "Scan":
        states = len(node.input) - _scan_shift(node) - _scanned(node)
        return place if place < states else None
    return None


def _scanned(node: NodeProto) -> int:
    return next((int(given.i) for given in node.attribute if given.name == "num_scan_inputs"), 0)


def _scan_shift(node: NodeProto) -> int:
    """Scan 8 has the lengths of the sequences before the values; it is told by its `directions` attribute."""
    return 1 if any(given.name == "directions" for given in node.attribute) else 0


def _scan_states(node: NodeProto, body: Scope) -> int:
    return len(body.inputs) - _scanned(node)


def _call_key(node: NodeProto) -> tuple[str, str, str]:
    return node.domain, node.op_type, getattr(node, "overload", "")


def _function_key(scope: Scope) -> tuple[str, str, str]:
    """(domain, name, overload) of a local function, as the nodes that call it have them."""
    container = scope.container
    return getattr(container, "domain", ""), container.name, getattr(container, "overload", "")
