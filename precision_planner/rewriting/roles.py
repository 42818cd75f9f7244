"""Which constants are masks: found by walking back from every softmax."""

from __future__ import annotations

import onnx

from precision_planner.model import GraphIndex, Scope
from precision_planner.typing import Key
from precision_planner.typing.schemas import DATA_MOVEMENT

_ARITHMETIC = "Add Cast CastLike Clip ConstantOfShape Div Max Min Mul Neg Sub Sum"
_COMBINES = DATA_MOVEMENT.union(_ARITHMETIC.split())
"""Operators through which a mask reaches the logits; a product or normalization ends the walk."""

_ATTENTIONS = frozenset(["Attention", "DecoderMaskedMultiHeadAttention", "MultiHeadAttention"])


def mask_constants(index: GraphIndex) -> frozenset[Key]:
    """The values that are added to or selected into the logits of a softmax, constants among them.

    The sinks are Softmax, LogSoftmax, the masks of attention operators, and Exp(x - max) written out.

    Returns:
      Keys of every value on the way back from there; the caller asks only about constants.
    """
    calls: dict[tuple[str, ...], list[tuple[Scope, onnx.NodeProto]]] = {}
    bodies: dict[int, list[Scope]] = {}
    work: list[tuple[Scope, str]] = []
    for scope in index.scopes:
        if scope.owner is not None:
            bodies.setdefault(id(scope.owner), []).append(scope)
    for scope, _, node in index.nodes():
        function = (f"fn:{node.domain}:{node.op_type}:{getattr(node, 'overload', '')}",)
        if function in index.by_path:
            calls.setdefault(function, []).append((scope, node))
        work += [(scope, name) for name in _logits(scope, node)]
    seen: set[Key] = set()
    while work:
        scope, name = work.pop()
        holder = index.resolve(scope, name) if name else None
        if holder is None or (holder.path, name) in seen:
            continue
        seen.add((holder.path, name))
        node_or_none = holder.producer_node(name)
        if node_or_none is None:
            if holder.kind == "function" and name in holder.inputs:
                at = holder.inputs.index(name)
                work += [(site, call.input[at]) for site, call in calls.get(holder.path, []) if at < len(call.input)]
            continue
        node = node_or_none
        if node.op_type == "If":
            at = list(node.output).index(name)
            work += [(body, body.outputs[at]) for body in bodies.get(id(node), ()) if at < len(body.outputs)]
        elif node.op_type in _COMBINES:
            work += [(holder, value) for value in node.input]
    return frozenset(seen)


def _logits(scope: Scope, node: onnx.NodeProto) -> list[str]:
    if node.op_type in ("Softmax", "LogSoftmax"):
        return [node.input[0]]
    if node.op_type in _ATTENTIONS:
        return list(node.input[3:])
    if node.op_type == "Exp":
        made_by = scope.producer_node(node.input[0])
        if made_by is not None and made_by.op_type == "Sub":
            return [made_by.input[0]]
    return []
