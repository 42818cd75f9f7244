"""Floats that become shapes and indices: they never go low.

float16 counts exactly only up to 2048, so a length or an index that passes through it is wrong without any sign of
overflow. Walking back from every input that is a shape, an index or a Resize scale, the float nodes found on the way
stay in FP32:

1. those computed from integers and constants alone (Shape -> Cast -> Mul -> Floor -> Cast);
2. those computed from activations that nothing else reads (coordinates -> Floor -> Cast -> Gather).

The walk ends at operators that are no arithmetic on indices (MatMul, Conv, normalizations, TopK, NonZero, ...).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from precision_planner.model import GraphIndex, NodeId, Scope
from precision_planner.typing.elements import Elements

_INDEX_SLOTS: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "Gather": (1,),
    "GatherElements": (1,),
    "GatherND": (1,),
    "Loop": (0,),
    "MaxUnpool": (1, 2),
    "NonMaxSuppression": (2,),
    "OneHot": (0, 1),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "ReverseSequence": (1,),
    "Scatter": (1,),
    "ScatterElements": (1,),
    "ScatterND": (1,),
    "SequenceAt": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}

_ARITHMETIC = frozenset(
    {
        "Abs", "Add", "Cast", "CastLike", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Div", "Exp",
        "Expand", "Flatten", "Floor", "Gather", "Identity", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Pow", "Range",
        "Reciprocal", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Sign", "Slice", "Split",
        "Sqrt", "Squeeze", "Sub", "Sum", "Tile", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip

REASON = "shape or index arithmetic: float16 counts exactly only up to 2048"


def index_arithmetic(index: GraphIndex, elements: Elements, candidate: int) -> dict[NodeId, str]:
    """The nodes that compute shapes and indices in floats, with the reason why they stay in FP32.

    Args:
      index: of the model.
      elements: its element types.
      candidate: the float type in question.
    """
    return _Walk(index, elements, candidate).run()


class _Walk:
    """One backward walk; `joined` are the float nodes found."""

    def __init__(self, index: GraphIndex, elements: Elements, candidate: int) -> None:
        self.index, self.elements, self.candidate = index, elements, candidate
        self.pure: dict[tuple[tuple[str, ...], str], bool] = {}
        self.joined: dict[tuple[tuple[str, ...], int], NodeId] = {}
        self.seen: set[tuple[tuple[str, ...], str]] = set()
        self.postponed: list[tuple[Scope, int]] = []

    def run(self) -> dict[NodeId, str]:
        work: list[tuple[Scope, str]] = []
        for scope, _, node in self.index.nodes():
            slots = _INDEX_SLOTS.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ()
            work += [(scope, node.input[at]) for at in slots if at < len(node.input) and node.input[at]]
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
            position = holder.producer(value)
            if position is None:
                continue
            node = holder.nodes[position]
            if node.op_type == "If":
                self._enter_branches(holder, node, value, work)
            elif node.op_type not in _ARITHMETIC or node.domain not in ("", "ai.onnx"):
                continue
            elif self._is_float(holder, value):
                self._join(holder, position, work)
            else:
                data = node.input[1:] if node.op_type == "Where" else node.input
                work += [(holder, name) for name in data if name]

    def _enter_branches(self, holder: Scope, node: onnx.NodeProto, value: str, work: list[tuple[Scope, str]]) -> None:
        at = list(node.output).index(value)
        work += [
            (body, body.outputs[at]) for body in self.index.scopes if body.owner is node and at < len(body.outputs)
        ]

    def _join(self, scope: Scope, position: int, work: list[tuple[Scope, str]]) -> None:
        node = scope.nodes[position]
        if (scope.path, position) in self.joined or node.op_type == "Constant":
            return
        if not all(self._is_pure(scope, name) or self._is_private(scope, name) for name in node.output if name):
            self.postponed.append((scope, position))
            return
        self.joined[scope.path, position] = self.index.node_id(scope, position)
        data = node.input[1:] if node.op_type == "Where" else node.input
        work += [(scope, name) for name in data if name]

    def _is_private(self, scope: Scope, value: str) -> bool:
        if scope.is_output(value) or value in scope.captures:
            return False
        return all(
            (scope.path, use.position) in self.joined or self._makes_seen(scope, use.position)
            for use in scope.consumers(value)
        )

    def _makes_seen(self, scope: Scope, position: int) -> bool:
        """Whether a reader's result is itself an index (a Cast to integer on the way, or the sink)."""
        node = scope.nodes[position]
        if node.op_type in _INDEX_SLOTS and node.op_type not in _ARITHMETIC:
            return True
        return any((scope.path, name) in self.seen and not self._is_float(scope, name) for name in node.output)

    def _is_pure(self, scope: Scope, value: str) -> bool:
        """Whether a value depends on integers and constants alone."""
        order: list[tuple[Scope, str]] = [(scope, value)]
        entered: set[tuple[tuple[str, ...], str]] = set()
        while order:
            at, name = order[-1]
            holder = self.index.resolve(at, name)
            if holder is None:
                return False
            key = (holder.path, name)
            if key in self.pure:
                order.pop()
                continue
            verdict, needs = self._purity_step(holder, name)
            if verdict is None:
                open_needs = []
                for need in needs:
                    source = self.index.resolve(holder, need)
                    if source is not None and (source.path, need) not in self.pure:
                        open_needs.append((holder, need))
                if open_needs and key not in entered:  # entered again only in the cycle of a malformed graph
                    entered.add(key)
                    order += open_needs
                    continue
                verdict = all(self._known_pure(holder, need) for need in needs)
            self.pure[key] = verdict
            order.pop()
        return self._known_pure(scope, value)

    def _known_pure(self, scope: Scope, value: str) -> bool:
        holder = self.index.resolve(scope, value)
        return holder is not None and self.pure.get((holder.path, value), False)

    def _purity_step(self, holder: Scope, name: str) -> tuple[bool | None, list[str]]:
        """(verdict, []) where it is known at once, else (None, the inputs it depends on)."""
        if not self._is_float(holder, name):
            return True, []
        if name in holder.initializers:
            return not holder.is_overridable(name), []
        node = holder.producer_node(name)
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _ARITHMETIC:
            return False, []
        return None, [need for need in node.input if need]

    def _is_float(self, scope: Scope, value: str) -> bool:
        return self.elements.of(self.index, scope, value).elem_type == self.candidate
