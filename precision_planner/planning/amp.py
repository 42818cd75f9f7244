"""torch's autocast on a graph: listed ops in their type, everything else in the widest type of what it reads.

torch.autocast casts the inputs of the ops on two lists and leaves the rest to type promotion. A model's parameters stay
float32 under it, so what adds a parameter to a half tensor (outside a linear layer) gives float32, and so does a lookup
in an embedding table; Python scalars (constants of rank 0) do not promote.

Source: https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior
"""

from __future__ import annotations

from collections.abc import Collection

from onnx import NodeProto, TensorProto

from precision_planner.model import FLOAT_TYPES, NodeId, Scope
from precision_planner.operators import is_product
from precision_planner.rules import Evidence
from precision_planner.rules.facts.model_facts import ModelFacts
from precision_planner.typing import Decision

__all__ = ["follow_training"]

_REASON = "torch's autocast computes it in the type of its inputs, and one of them is FP32"


def follow_training(
    evidence: Evidence, decisions: dict[NodeId, Decision], low: Collection[NodeId]
) -> dict[NodeId, Decision]:
    """Add what follows from type promotion.

    Args:
      evidence: the graph.
      decisions: what the lists put into FP32.
      low: what the lists put into the low precision.

    Returns:
      The decisions and, for every other float node with an FP32 input, FP32.
    """
    facts = ModelFacts(evidence)
    found = dict(decisions)
    for scope in evidence.index.scopes:
        high = _inputs(scope, evidence)
        for position, node in enumerate(scope.nodes):
            node_id = evidence.index.node_id(scope, position)
            if not any(name and evidence.types.of(scope, name).elem_type in FLOAT_TYPES for name in node.output):
                continue
            if node_id in decisions:
                high.update(node.output)
            elif node_id in low or _is_bias(facts, scope, node, high):
                continue
            elif node.op_type == "Cast":
                if _casts_to_float(node):
                    high.update(node.output)
            elif node.op_type != "Constant" and any(_is_high(facts, scope, name, high) for name in node.input if name):
                found[node_id] = Decision("fp32", _REASON)
                high.update(node.output)
    return found


def _inputs(scope: Scope, evidence: Evidence) -> set[str]:
    return {name for name in scope.inputs if evidence.types.of(scope, name).elem_type in FLOAT_TYPES}


def _is_high(facts: ModelFacts, scope: Scope, value: str, high: set[str]) -> bool:
    if value in high:
        return True
    if facts.constant_tensor(scope, value) is None:
        return False
    found = facts.source.types.of(scope, value)
    return found.elem_type in FLOAT_TYPES and found.rank != 0


def _is_bias(facts: ModelFacts, scope: Scope, node: NodeProto, high: set[str]) -> bool:
    """An Add of a constant to a low GEMM's output: the bias of a linear layer, which autocast casts with it."""
    if node.op_type != "Add":
        return False
    for value, other in (node.input, reversed(node.input)):
        producer = scope.producer_node(value)
        if producer is not None and is_product(producer) and value not in high:
            return facts.constant_tensor(scope, other) is not None
    return False


def _casts_to_float(node: NodeProto) -> bool:
    return any(attribute.name == "to" and attribute.i == TensorProto.FLOAT for attribute in node.attribute)
