"""From a model to decisions: measure, ask the rules, repair, and ask again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from precision_planner.analysis.evidence import collect_evidence
from precision_planner.model import Model, NodeId
from precision_planner.model.inputs import Inputs
from precision_planner.planning.policy import Choices, Resolution, resolve
from precision_planner.planning.selectors import pattern_kinds
from precision_planner.rules import Evaluation, Evidence, Finding, RuleBook, evaluate, load_rulebook
from precision_planner.rules.findings import json_value
from precision_planner.transforms.repairs import apply_repairs
from precision_planner.typing import Decision


@dataclass(frozen=True)
class Choice:
    """What the rules led to.

    Attributes:
      model: the model with its repairs.
      decisions: node of `model` -> precision, for every node that is not simply low.
      findings: what the rules said about the input model.
      repairs: what was changed in the graph: {repair, rule, nodes, ...}.
      evidence: what the rules were asked about, of `model`.
      rulebook: the rules asked.
    """

    model: Model
    decisions: Mapping[NodeId, Decision]
    findings: tuple[Finding, ...]
    repairs: tuple[Mapping[str, Any], ...]
    evidence: Evidence
    rulebook: RuleBook


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
) -> Choice:
    """Ask the rules about a model and resolve what they propose.

    A repair changes the graph and its ranges, so the rules are asked again after it.

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
    """
    rulebook = load_rulebook(rules)
    # the user's own selectors are applied by `rewrite`, where they win over every decision
    choices = Choices(fuse=frozenset(pattern_kinds(fuse)))

    def ask(subject: Model) -> tuple[Evidence, Evaluation, Resolution]:
        evidence = collect_evidence(subject, inputs=inputs, precision=precision, target=target, headroom=headroom)
        evaluation = evaluate(rulebook, evidence, only=only, disable=disable, policy=policy)
        return evidence, evaluation, resolve(evaluation, evidence, choices, policy=policy)

    evidence, evaluation, resolution = ask(model)
    findings = evaluation.findings
    repairs: tuple[Mapping[str, Any], ...] = ()
    if resolution.repairs:
        repaired = apply_repairs(model, resolution.repairs)
        if repaired.applied:
            model = repaired.model
            repairs = tuple(
                {"repair": entry.repair, "rule": entry.label, "nodes": [evidence.index.display(n) for n in entry.nodes]}
                for entry in repaired.applied
            )
            evidence, evaluation, resolution = ask(model)
    decisions = {**_normalizations(evidence, evaluation, resolution), **resolution.decisions}
    return Choice(model, decisions, findings, repairs, evidence, rulebook)


def _normalizations(evidence: Evidence, evaluation: Evaluation, resolution: Resolution) -> dict[NodeId, Decision]:
    """Say of every LayerNormalization, fused or native, that its statistics are FP32 and why.

    The operator computes them so by itself (stash_type 1), so this costs nothing; without it a plan would count as
    low what is not.
    """
    found: dict[NodeId, Decision] = {}
    fused = {match.anchor for match in resolution.fuse if match.kind == "layer_normalization"}
    for action in evaluation.actions:
        if action.kind == "fuse" and action.match is not None and action.match.anchor in fused:
            found[action.match.anchor] = Decision(
                "fp32", action.reason, action.rule, "compute", {k: json_value(v) for k, v in action.evidence.items()}
            )
    for match in evidence.matches:
        if match.kind == "layer_normalization" and match.form == "native":
            stash = match.attributes.get("stash_type", 1)
            if stash == 1:
                reason = "LayerNormalization computes its statistics in FP32 (stash_type 1)"
                found.setdefault(match.anchor, Decision("fp32", reason, None, "compute"))
    return found
