"""From what the rules propose to one decision a node.

The order, from the strongest down:

1. Rewrites: a fusion, then a repair. Two rewrites of the same node: the graver finding, then the rule's id. What a
   repair takes on is not kept for the same node's sake any more: ranges change with the graph, so a plan asks the
   rules again after it. Keeping a part of what a fusion takes keeps the fused node.
2. Keeping: FP32 over BF16 over low; equals by severity, then by id.
3. Nothing said: the low precision.

A measurement on made-up inputs alone never keeps a GEMM or a convolution high. What the user chose is no proposal: it
is applied where the graph is rewritten, over all of this.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

from precision_planner.errors import SelectorError
from precision_planner.model import GraphIndex, NodeId
from precision_planner.operators import PRODUCTS, is_product
from precision_planner.patterns import Match
from precision_planner.planning.amp import follow_training
from precision_planner.rules import Action, Evaluation, Evidence
from precision_planner.rules.facts.registry import json_value
from precision_planner.rules.language.rule import REWRITE_KINDS, SEVERITIES
from precision_planner.transforms.repairs import RepairRequest
from precision_planner.typing import Decision, KeepAs, Precision

__all__ = ["POLICIES", "Resolution", "repair_requests", "resolve"]

POLICIES = ("auto", "rules", "torch-amp")
"""auto: rules, then simulation and search; rules: what the rules say and nothing else; torch-amp: torch's autocast."""
FUSED = frozenset({"layer_normalization"})
"""Pattern kinds that are fused where nothing else is asked."""
_STRENGTH = {"keep_fp32": 0, "keep_bf16": 1, "run_low": 2}
_PRECISION: dict[str, Precision] = {"keep_fp32": "fp32", "keep_bf16": "bf16"}


@dataclass(frozen=True)
class Resolution:
    """What is to be done.

    Attributes:
      fuse: patterns to rewrite as one node.
      repairs: repairs to apply, in order of precedence.
      decisions: node -> precision, for every node that is not simply low; of the graph before the rewrites.
      spoken: ids of the rules that found something.
    """

    fuse: tuple[Match, ...]
    repairs: tuple[RepairRequest, ...]
    decisions: dict[NodeId, Decision]
    spoken: tuple[str, ...]


def resolve(
    evaluation: Evaluation, evidence: Evidence, *, fuse: Collection[str] = FUSED, policy: str = "auto"
) -> Resolution:
    """Turn proposals into decisions.

    Args:
      evaluation: what the rules said, under the same policy.
      evidence: what they were asked about.
      fuse: pattern kinds that may be fused.
      policy: one of `POLICIES`.

    Raises:
      SelectorError: no such policy.
    """
    if policy not in POLICIES:
        raise SelectorError(f"there is no policy {policy!r}; use {', '.join(POLICIES)}")
    index = evidence.index
    ordered = sorted(evaluation.actions, key=lambda action: (SEVERITIES.index(action.severity), action.rule))
    fused, repairs, taken = _rewrites(ordered, fuse)
    decisions = _keeps(ordered, fuse, index, taken)
    if policy == "torch-amp":
        low = {node for action in ordered if action.kind == "run_low" for node in action.nodes}
        decisions = follow_training(evidence, decisions, low)
    spoken = tuple(dict.fromkeys(action.rule for action in evaluation.actions))
    return Resolution(tuple(fused), repair_requests(repairs), decisions, spoken)


def repair_requests(actions: list[Action] | tuple[Action, ...]) -> tuple[RepairRequest, ...]:
    """The repairs that actions ask for; `label` is the rule's id."""
    return tuple(
        RepairRequest(
            action.repair, action.scope, action.nodes, action.value, action.parameters, action.match, action.rule
        )
        for action in actions
        if action.repair
    )


def _rewrites(ordered: list[Action], kinds: Collection[str]) -> tuple[list[Match], list[Action], dict[NodeId, Action]]:
    """The rewrites to carry out, and which of them took which node."""
    taken: dict[NodeId, Action] = {}
    fuse: list[Match] = []
    repairs: list[Action] = []
    rewrites = [action for action in ordered if action.kind in REWRITE_KINDS]
    for action in sorted(rewrites, key=lambda action: action.kind != "fuse"):
        if action.kind == "fuse" and (action.match is None or action.match.kind not in kinds):
            continue  # the user fuses nothing of that kind: kept instead, by _keeps
        winner = next((taken[node] for node in action.nodes if node in taken), None)
        if winner is not None and not (winner.repair and winner.repair == action.repair and winner.rule == action.rule):
            continue
        if action.kind == "fuse" and action.match is not None:
            fuse.append(action.match)
        else:
            repairs.append(action)
        for node in action.nodes:
            taken.setdefault(node, action)
    return fuse, repairs, taken


def _keeps(
    ordered: list[Action],
    kinds: Collection[str],
    index: GraphIndex,
    taken: dict[NodeId, Action],
) -> dict[NodeId, Decision]:
    winners: dict[NodeId, Action] = {}
    for action in ordered:
        kind = action.kind
        if kind == "fuse" and (action.match is None or action.match.kind not in kinds):
            kind = "keep_fp32"
        if kind not in _STRENGTH:
            continue
        for node in dict.fromkeys(_after_fusion(node, action, taken) for node in action.nodes):
            holder = winners.get(node)
            if holder is not None and _STRENGTH[kind] >= _STRENGTH.get(holder.kind, 0):
                continue
            if not _is_refused(action, node, index, taken):
                winners[node] = action
    return {
        node: Decision(
            _PRECISION.get("keep_fp32" if action.kind == "fuse" else action.kind, "fp32"),
            action.reason,
            action.rule,
            cast("KeepAs | None", action.keep_as or None),
            {name: json_value(value) for name, value in action.evidence.items()},
        )
        for node, action in winners.items()
        if action.kind != "run_low"
    }


def _after_fusion(node: NodeId, action: Action, taken: dict[NodeId, Action]) -> NodeId:
    """The node itself, or the one that a fusion makes of it: keeping a part of a pattern keeps what it becomes."""
    rewrite = taken.get(node)
    if rewrite is None or rewrite is action or rewrite.kind != "fuse" or rewrite.match is None:
        return node
    return rewrite.match.anchor


def _is_refused(action: Action, node: NodeId, index: GraphIndex, taken: dict[NodeId, Action]) -> bool:
    """Whether an action does not keep a node: another rewrites it, or made-up data would keep a product."""
    rewrite = taken.get(node)
    fused = rewrite is not None and rewrite.kind == "fuse" and rewrite.match is not None
    if rewrite is not None and rewrite is not action and not fused:
        return True
    place = index.find(node) if action.synthesized else None
    return place is not None and is_product(place[0].nodes[place[1]], PRODUCTS)
