"""What the engine says: findings, actions, and what it could not decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from precision_planner.model import NodeId
from precision_planner.rules.facts.registry import json_value

if TYPE_CHECKING:
    from precision_planner.patterns import Match

__all__ = ["Action", "Evaluation", "Finding", "Undecided"]


@dataclass(frozen=True)
class Action:
    """What a rule proposes for one subject.

    Attributes:
      kind: one of `precision_planner.rules.language.rule.ACTION_KINDS`.
      nodes: what it covers, in graph order.
      rule: the rule's id.
      reason: one sentence with the numbers in it.
      severity: of the finding.
      repair: the name of the repair, for rewrites but `fuse`.
      parameters: of the repair.
      keep_as: for keep_fp32, "compute", "island", or "" for what costs least.
      match: for a subject that is a pattern.
      scope: path of the subject's scope.
      value: the tensor or input, for a subject that is one.
      evidence: fact -> value.
      measured: the decision rests on calibration data.
      synthesized: ... which was made up.
      skipped: (kind, why not) of the alternatives before this one.
    """

    kind: str
    nodes: tuple[NodeId, ...]
    rule: str
    reason: str
    severity: str = "warning"
    repair: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    keep_as: str = ""
    match: Match | None = field(default=None, repr=False)
    scope: tuple[str, ...] = ()
    value: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    measured: bool = False
    synthesized: bool = False
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, repr=False)
class Finding:
    """One rule on one subject.

    Attributes:
      rule: the rule's id.
      severity: "error", "warning" or "info".
      subject: display name of the node, tensor or input.
      message: one line, with the numbers in it.
      evidence: fact -> value: what the rule asked and what it reports besides.
      action: {kind, nodes (display names), repair, parameters, skipped}, JSON-ready.
      nodes: the nodes of the action.
      proposal: the same action, as a value.
      kind: of the subject: "pattern", "node", "tensor" or "input".
      confidence: "certain" without calibration data, "measured" on the user's, "low" on synthesized data.
    """

    rule: str
    severity: str
    subject: str
    message: str
    evidence: Mapping[str, Any]
    action: Mapping[str, Any]
    nodes: tuple[NodeId, ...]
    proposal: Action = field(repr=False)
    kind: str = "node"
    confidence: str = "certain"

    def __repr__(self) -> str:
        return f"<{self.severity} {self.rule} at {self.subject}: {self.message[:120]}>"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinities and NaN as strings, sets as sorted lists."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "subject": self.subject,
            "message": self.message,
            "evidence": {name: json_value(value) for name, value in self.evidence.items()},
            "action": {name: json_value(value) for name, value in self.action.items()},
            "confidence": self.confidence,
        }


@dataclass(frozen=True)
class Undecided:
    """A rule that could neither fire nor pass, because facts are missing.

    Attributes:
      rule: the rule's id.
      subject: display name.
      missing: the unknown facts.
      needs_data: calibration data would decide it.
    """

    rule: str
    subject: str
    missing: tuple[str, ...]
    needs_data: bool


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Everything the rules said about one model.

    Attributes:
      findings: gravest first, then by rule and graph order.
      actions: the findings' actions, in the same order; `precision_planner.planning.policy` resolves them.
      undecided: what stayed open for want of evidence.
      rules: ids of the rules that were asked.
    """

    findings: tuple[Finding, ...]
    actions: tuple[Action, ...]
    undecided: tuple[Undecided, ...] = ()
    rules: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<{len(self.rules)} rules asked: {len(self.findings)} findings, {len(self.undecided)} undecided>"
