"""Floats that become shapes and indices: they never go low.

float16 counts exactly only up to 2048, so a length or an index that passes through it is wrong without any sign of
overflow. Walking back from every input that is a shape, an index or a Resize scale, the float nodes found on the way
stay in FP32:

1. those computed from integers and constants alone (Shape -> Cast -> Mul -> Floor -> Cast);
2. those computed from activations that nothing else reads (coordinates -> Floor -> Cast -> Gather).

The walk ends at operators that are no arithmetic on indices (MatMul, Conv, normalizations, TopK, NonZero, ...); it goes
into bodies and functions and out of them again.
"""

from __future__ import annotations

import onnx

from precision_planner.model import GraphIndex, NodeId, Scope
from precision_planner.model.flow import Flow
from precision_planner.operators import computes_with, is_arithmetic, row_of
from precision_planner.typing.elements import Elements

REASON = "shape or index arithmetic: float16 counts exactly only up to 2048"


def index_arithmetic(index: GraphIndex, elements: Elements, candidate: int) -> dict[NodeId, str]:
    """The nodes that compute shapes and indices in floats, with the reason why they stay in FP32.

    Args:
      index: of the model.
      elements: its element types.
      candidate: the float type in question.
    """
    return _Walk(index, elements, candidate).run()


def _index_slots(node: onnx.NodeProto) -> list[int]:
    """The inputs that are indices, shapes, counts, or scales and regions of a Resize."""
    row = row_of(node)
    return [
        at
        for at, name in enumerate(node.input)
        if name and (at in row.indices or at in row.shapes or at in row.stays_wide)
    ]


class _Walk:
    """One backward walk; `joined` are the float nodes found."""

    def __init__(self, index: GraphIndex, elements: Elements, candidate: int) -> None:
        self.index, self.elements, self.candidate = index, elements, candidate
        self.flow = Flow(index)
        self.pure: dict[tuple[tuple[str, ...], str], bool] = {}
        self.joined: dict[tuple[tuple[str, ...], int], NodeId] = {}
        self.seen: set[tuple[tuple[str, ...], str]] = set()
        self.postponed: list[tuple[Scope, int]] = []

    def run(self) -> dict[NodeId, str]:
        work = [(scope, node.input[at]) for scope, _, node in self.index.nodes() for at in _index_slots(node)]
        self._walk(work)
        # a node that something outside read at first may have become private when its other readers joined
        while self.postponed:
            waiting, self.postponed = self.postponed, []
            before = len(self.joined)
            for scope, position in waiting:
                self._join(scope, position, work)
            self._walk(work)
            if len(self.joined) == before:
                break
        return {node: REASON for node in self.joined.values()}

    def _walk(self, work: list[tuple[Scope, str]]) -> None:
        while work:
            scope, value = work.pop()
            holder = self.index.resolve(scope, value)
            if holder is None or (holder.path, value) in self.seen:
                continue
            self.seen.add((holder.path, value))
            elsewhere = self.flow.elsewhere(holder, value)
            if elsewhere:
                work += elsewhere
                continue
            position = holder.producer(value)
            if position is None or not is_arithmetic(holder.nodes[position]):
                continue
            if self._is_float(holder, value):
                self._join(holder, position, work)
            else:
                work += self._inputs(holder, position)

    def _inputs(self, scope: Scope, position: int) -> list[tuple[Scope, str]]:
        node = scope.nodes[position]
        return [(scope, name) for at, name in enumerate(node.input) if name and computes_with(node, at)]

    def _join(self, scope: Scope, position: int, work: list[tuple[Scope, str]]) -> None:
        node = scope.nodes[position]
        if (scope.path, position) in self.joined:
            return
        if not all(self._is_pure(scope, name) or self._is_private(scope, name) for name in node.output if name):
            self.postponed.append((scope, position))
            return
        self.joined[scope.path, position] = self.index.node_id(scope, position)
        work += self._inputs(scope, position)

    def _is_private(self, scope: Scope, value: str) -> bool:
        """Whether nothing but index arithmetic reads a value, wherever it is handed to."""
        reads, is_returned = self.flow.readers(scope, value, lambda node, slot: False)
        return not is_returned and all(
            (read.scope.path, read.position) in self.joined or self._makes_seen(read.scope, read.position)
            for read in reads
        )

    def _makes_seen(self, scope: Scope, position: int) -> bool:
        """Whether a reader's result is itself an index (a Cast to integer on the way, or the sink)."""
        node = scope.nodes[position]
        if _index_slots(node) and not is_arithmetic(node):
            return True
        return any((scope.path, name) in self.seen and not self._is_float(scope, name) for name in node.output)

    def _is_pure(self, scope: Scope, value: str) -> bool:
        """Whether a value depends on integers and constants alone."""
        key = (scope.path, value)
        if key not in self.pure:
            way = self.flow.trace([(scope, value)], computes_with, until=self._is_whole)
            self.pure[key] = all(passes or self._is_pure_end(end.scope, end.value, end.node) for end, passes in way)
        return self.pure[key]

    def _is_pure_end(self, scope: Scope, value: str, node: onnx.NodeProto | None) -> bool:
        if not self._is_float(scope, value):
            return True
        if node is None:
            return value in scope.initializers and not scope.is_overridable(value)
        return node.op_type == "Constant" or (row_of(node).generates and not row_of(node).random)

    def _is_whole(self, scope: Scope, value: str) -> bool:
        return not self._is_float(scope, value)

    def _is_float(self, scope: Scope, value: str) -> bool:
        return self.elements.of(self.index, scope, value).elem_type == self.candidate
