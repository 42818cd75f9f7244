"""From what the rules propose to one decision a node.

The order, from the strongest down:

1. The user: --keep-fp32, then --keep-bf16, then --only-low (what it leaves out is FP32).
2. Rewrites: a fusion, then a repair. Two rewrites of the same node: the graver finding, then the rule's id. What a
   repair takes on is not kept for the same node's sake any more: ranges change with the graph, so a plan asks the
   rules again after it. Keeping a part of what a fusion takes keeps the fused node.
3. Keeping: FP32 over BF16 over low; equals by severity, then by id.
4. Nothing said: the low precision.

A measurement on made-up inputs alone never keeps a GEMM or a convolution high. Whatever loses is listed with the
winner, so that a report can name every rule that spoke.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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

__all__ = ["POLICIES", "Choices", "Resolution", "Superseded", "repair_requests", "resolve"]

POLICIES = ("auto", "rules", "torch-amp")
"""auto: rules, then simulation and search; rules: what the rules say and nothing else; torch-amp: torch's autocast."""
"""What made-up data never keeps high: the work for which 16 bits are wanted."""
_STRENGTH = {"keep_fp32": 0, "keep_bf16": 1, "run_low": 2}
_PRECISION: dict[str, Precision] = {"keep_fp32": "fp32", "keep_bf16": "bf16"}


@dataclass(frozen=True)
class Choices:
    """What the user decided.

    Attributes:
      keep_fp32: node -> the selector that names it.
      keep_bf16: node -> the selector that names it.
      only_low: the only nodes that may be low; None where nothing was said.
      fuse: pattern kinds that may be fused.
      repair: whether repairs may be applied.
    """

    keep_fp32: Mapping[NodeId, str] = field(default_factory=dict)
    keep_bf16: Mapping[NodeId, str] = field(default_factory=dict)
    only_low: frozenset[NodeId] | None = None
    fuse: frozenset[str] = frozenset({"layer_normalization"})
    repair: bool = True


@dataclass(frozen=True)
class Superseded:
    """An action that was not taken, wholly or for some nodes.

    Attributes:
      action: the action.
      nodes: for which nodes.
      reason: what was stronger, or why it was not taken.
    """

    action: Action
    nodes: tuple[NodeId, ...]
    reason: str


@dataclass(frozen=True)
class Resolution:
    """What is to be done.

    Attributes:
      fuse: patterns to rewrite as one node.
      repairs: repairs to apply, in order of precedence.
      decisions: node -> precision, for every node that is not simply low; of the graph before the rewrites.
      superseded: what was proposed and not taken.
      spoken: ids of the rules that found something.
    """

    fuse: tuple[Match, ...]
    repairs: tuple[RepairRequest, ...]
    decisions: dict[NodeId, Decision]
    superseded: tuple[Superseded, ...]
    spoken: tuple[str, ...]


def resolve(
    evaluation: Evaluation, evidence: Evidence, choices: Choices | None = None, *, policy: str = "auto"
) -> Resolution:
    """Turn proposals into decisions.

    Args:
      evaluation: what the rules said, under the same policy.
      evidence: what they were asked about.
      choices: the user's; None for none.
      policy: one of `POLICIES`.

    Raises:
      SelectorError: no such policy.
    """
    if policy not in POLICIES:
        raise SelectorError(f"there is no policy {policy!r}; use {', '.join(POLICIES)}")
    choices = choices or Choices()
    index = evidence.index
    superseded: list[Superseded] = []
    ordered = sorted(evaluation.actions, key=lambda action: (SEVERITIES.index(action.severity), action.rule))
    fuse, repairs, taken = _rewrites(ordered, choices, superseded)
    decisions = _keeps(ordered, choices, index, taken, superseded)
    if policy == "torch-amp":
        low = {node for action in ordered if action.kind == "run_low" for node in action.nodes}
        decisions = follow_training(evidence, decisions, low)
    decisions = _user_first(decisions, choices, index, superseded)
    spoken = tuple(dict.fromkeys(action.rule for action in evaluation.actions))
    return Resolution(tuple(fuse), repair_requests(repairs), decisions, tuple(superseded), spoken)


def repair_requests(actions: list[Action] | tuple[Action, ...]) -> tuple[RepairRequest, ...]:
    """The repairs that actions ask for; `label` is the rule's id."""
    return tuple(
        RepairRequest(
            action.repair, action.scope, action.nodes, action.value, action.parameters, action.match, action.rule
        )
        for action in actions
        if action.repair
    )


def _rewrites(
    ordered: list[Action], choices: Choices, superseded: list[Superseded]
) -> tuple[list[Match], list[Action], dict[NodeId, Action]]:
    """The rewrites to carry out, and which of them took which node."""
    taken: dict[NodeId, Action] = {}
    fuse: list[Match] = []
    repairs: list[Action] = []
    rewrites = [action for action in ordered if action.kind in REWRITE_KINDS]
    for action in sorted(rewrites, key=lambda action: action.kind != "fuse"):
        if action.kind == "fuse" and (action.match is None or action.match.kind not in choices.fuse):
            continue  # the user fuses nothing of that kind: kept instead, by _keeps
        if action.kind != "fuse" and not choices.repair:
            superseded.append(Superseded(action, action.nodes, "repairs are switched off"))
            continue
        winner = next((taken[node] for node in action.nodes if node in taken), None)
        if winner is not None and not (winner.repair and winner.repair == action.repair and winner.rule == action.rule):
            superseded.append(
                Superseded(action, action.nodes, f"{winner.rule} rewrites the same nodes ({winner.kind})")
            )
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
    choices: Choices,
    index: GraphIndex,
    taken: dict[NodeId, Action],
    superseded: list[Superseded],
) -> dict[NodeId, Decision]:
    winners: dict[NodeId, Action] = {}
    for action in ordered:
        kind = action.kind
        if kind == "fuse" and (action.match is None or action.match.kind not in choices.fuse):
            kind = "keep_fp32"
        elif kind in REWRITE_KINDS and not choices.repair:
            continue
        if kind not in _STRENGTH:
            continue
        lost: dict[str, list[NodeId]] = {}
        for node in dict.fromkeys(_after_fusion(node, action, taken) for node in action.nodes):
            reason = _refusal(action, node, index, taken)
            holder = winners.get(node)
            if not reason and holder is not None:
                stronger = _STRENGTH[kind] < _STRENGTH.get(holder.kind, 0)
                loser, winner = (holder, action) if stronger else (action, holder)
                if loser.kind != winner.kind and loser.rule != winner.rule:
                    superseded.append(Superseded(loser, (node,), f"{winner.rule} asks for {winner.kind}"))
                if not stronger:
                    continue
            if reason:
                lost.setdefault(reason, []).append(node)
            else:
                winners[node] = action
        superseded += [Superseded(action, tuple(nodes), reason) for reason, nodes in lost.items()]
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


def _refusal(action: Action, node: NodeId, index: GraphIndex, taken: dict[NodeId, Action]) -> str:
    """Why an action does not keep a node; "" if it does."""
    rewrite = taken.get(node)
    fused = rewrite is not None and rewrite.kind == "fuse" and rewrite.match is not None
    if rewrite is not None and rewrite is not action and not fused:
        return f"{rewrite.rule} rewrites it ({rewrite.repair or rewrite.kind})"
    if action.synthesized:
        place = index.find(node)
        if place is not None and is_product(place[0].nodes[place[1]], PRODUCTS):
            return "measured on made-up inputs alone, which never keeps a GEMM or a convolution high; give --inputs"
    return ""


def _user_first(
    decisions: dict[NodeId, Decision], choices: Choices, index: GraphIndex, superseded: list[Superseded]
) -> dict[NodeId, Decision]:
    found = dict(decisions)
    if choices.only_low is not None:
        for scope, position, _ in index.nodes():
            node = index.node_id(scope, position)
            if node not in choices.only_low:
                found[node] = Decision("fp32", "not named by --only-low")
    for node, selector in choices.keep_bf16.items():
        found[node] = Decision("bf16", f"--keep-bf16 {selector}")
    for node, selector in choices.keep_fp32.items():
        before = decisions.get(node)
        evidence = dict(before.evidence) if before is not None and before.precision == "fp32" else {}
        rule = before.rule if before is not None and before.precision == "fp32" else None
        keep_as = before.keep_as if before is not None else None
        found[node] = Decision("fp32", f"--keep-fp32 {selector}", rule, keep_as, evidence)
    return found
