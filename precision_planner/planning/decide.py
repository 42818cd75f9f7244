"""From a model to decisions: measure, ask the rules, repair, and ask again."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from precision_planner.analysis.evidence import collect_evidence
from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.model.inputs import Inputs
from precision_planner.numerics.formats import get_format
from precision_planner.patterns import Match
from precision_planner.patterns.selecting import pattern_kinds
from precision_planner.planning.policy import Resolution, resolve
from precision_planner.planning.repairing import carry_out
from precision_planner.rules import Evaluation, Evidence, Finding, RuleBook, evaluate, load_rulebook
from precision_planner.rules.facts.registry import json_value
from precision_planner.transforms.repairs import REPAIRS
from precision_planner.typing import Decision

ROUNDS = 3
"""How often the graph is repaired and measured again: a repair may show what another one has to follow."""


@dataclass(frozen=True)
class Choice:
    """What the rules led to.

    Attributes:
      model: the model with its repairs.
      decisions: node of `model` -> precision, for every node that is not simply low.
      findings: what the rules said about the input model.
      repairs: what was changed in the graph: {repair, rule, nodes, note, ...}.
      evidence: what the rules were asked about, of `model`.
      rulebook: the rules asked.
      measured: the same as `evidence`, of the input model.
    """

    model: Model
    decisions: Mapping[NodeId, Decision]
    findings: tuple[Finding, ...]
    repairs: tuple[Mapping[str, Any], ...]
    evidence: Evidence
    rulebook: RuleBook
    measured: Evidence


def decide(
    model: Model,
    inputs: Inputs | None,
    *,
    precision: str,
    target: str,
    headroom: float = 4.0,
    policy: str = "auto",
    rules: Sequence[str | os.PathLike[str]] = (),
    only: Sequence[str] = (),
    disable: Sequence[str] = (),
    fuse: Sequence[str] = ("layernorm",),
    without: Sequence[str] = (),
    untouched: Collection[NodeId] = (),
    measured: Evidence | None = None,
) -> Choice:
    """Ask the rules about a model and resolve what they propose.

    A repair changes the graph and its ranges, so the rules are asked again after it, a few times at most; what they
    would still repair then is kept high instead.

    Args:
      model: in FP32.
      inputs: what activations are measured on; None: nothing is measured and range rules stay undecided.
      precision: "fp16" or "bf16".
      target: the build target's name.
      headroom: see `Evidence`.
      policy: see `precision_planner.planning.policy`.
      rules: folders of further rules.
      only: ids or tags of the only rules asked.
      disable: ids or tags of rules not asked.
      fuse: pattern kinds or categories that may be fused.
      without: repairs that are not applied.
      untouched: nodes that the user keeps: no repair changes them, what they read, or what reads them.
      measured: evidence about this very model that was collected before, for the same question.
    """
    rulebook = load_rulebook(rules)
    # the user's own selectors are applied by `rewrite`, where they win over every decision
    kinds = frozenset(pattern_kinds(fuse))

    def ask(subject: Model, known: Evidence | None = None) -> tuple[Evidence, Evaluation, Resolution]:
        evidence = known or collect_evidence(
            subject, inputs=inputs, precision=precision, target=target, headroom=headroom
        )
        return evidence, *judge(evidence)

    def judge(evidence: Evidence, without: Collection[str] = without) -> tuple[Evaluation, Resolution]:
        evaluation = evaluate(rulebook, evidence, only=only, disable=disable, policy=policy, without=without)
        return evaluation, resolve(evaluation, evidence, fuse=kinds, policy=policy)

    evidence, evaluation, resolution = ask(model, measured)
    first, findings = evidence, evaluation.findings
    repairs: tuple[Mapping[str, Any], ...] = ()
    for _ in range(ROUNDS):
        wanted = [one for one in resolution.repairs if not _touches(evidence.index, one.nodes, untouched)]
        repaired = carry_out(evidence, wanted, inputs)
        if not repaired.entries:
            break
        model, repairs = repaired.model, (*repairs, *repaired.entries)
        evidence, evaluation, resolution = ask(model)
    if resolution.repairs:  # tried and not to be had: what the rules propose instead
        evaluation, resolution = judge(evidence, without=REPAIRS)
    kept = {**_normalizations(evidence, evaluation, resolution), **resolution.decisions}
    decisions = {node: _bound(decision, rulebook) for node, decision in kept.items()}
    return Choice(model, decisions, findings, repairs, evidence, rulebook, first)


def _touches(index: GraphIndex, nodes: Collection[NodeId], untouched: Collection[NodeId]) -> bool:
    """Whether nodes, their producers or their readers are among those that nothing may change."""
    if not untouched:
        return False
    near = set(nodes)
    for identity in nodes:
        found = index.find(identity)
        if found is None:
            continue
        scope, position = found
        node = scope.nodes[position]
        makers = [scope.producer(name) for name in node.input if name]
        near.update(index.node_id(scope, at) for at in makers if at is not None)
        near.update(index.node_id(scope, use.position) for name in node.output if name for use in scope.consumers(name))
    return not near.isdisjoint(untouched)


def _bound(decision: Decision, rulebook: RuleBook) -> Decision:
    """The decision, binding where it is about range: data shows a lower bound, and the headroom is the user's."""
    rule = rulebook.get(decision.rule) if decision.rule else None
    about_range = rule is not None and (rule.severity == "error" or "range" in rule.tags)
    return replace(decision, binding=True) if about_range or "headroom" in decision.evidence else decision


def _normalizations(evidence: Evidence, evaluation: Evaluation, resolution: Resolution) -> dict[NodeId, Decision]:
    """Say of every LayerNormalization, fused or native, how its statistics come to be FP32 and why.

    The operator computes them so by itself (stash_type 1) and takes its data in the low type, which costs nothing:
    `compute`. Data that may not fit the low type makes it an `island`.
    """
    found: dict[NodeId, Decision] = {}
    fused = {match.anchor for match in resolution.fuse if match.kind == "layer_normalization"}
    for action in evaluation.actions:
        match = action.match
        if action.kind == "fuse" and match is not None and match.anchor in fused:
            facts = {name: json_value(value) for name, value in action.evidence.items()}
            found[match.anchor] = _norm_decision(evidence, match, action.reason, action.rule, facts)
    for match in evidence.matches:
        native = match.kind == "layer_normalization" and match.form == "native"
        if native and match.attributes.get("stash_type", 1) == 1:
            reason = "LayerNormalization computes its statistics in FP32 (stash_type 1)"
            found.setdefault(match.anchor, _norm_decision(evidence, match, reason, None, {}))
    return found


def _norm_decision(evidence: Evidence, match: Match, reason: str, rule: str | None, facts: dict[str, Any]) -> Decision:
    amax = _amax(evidence, match)
    limit = get_format(evidence.precision).max_finite
    if amax is None or amax * evidence.headroom <= limit:
        return Decision("fp32", reason, rule, "compute", facts)
    headroom = limit / amax if amax else 0.0
    said = f"{reason}; its input reaches {amax:.4g}, headroom {headroom:.3g}, so it is read in FP32 too"
    return Decision("fp32", said, rule, "island", {**facts, "amax": amax, "headroom": headroom})


def _amax(evidence: Evidence, match: Match) -> float | None:
    """The largest magnitude of what a normalization reads; None where it was not measured."""
    scope = evidence.index.by_path.get(match.scope)
    value = match.inputs.get("x", "")
    if evidence.ranges is None or scope is None or not value:
        return None
    holder = evidence.index.resolve(scope, value)
    found = None if holder is None else evidence.ranges.get((holder.path, value))
    return None if found is None else float(found.amax)
