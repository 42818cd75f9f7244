"""A rule, as it was read from its file: values without behavior."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from precision_planner.rules.facts.node_sets import NodeSet
from precision_planner.rules.facts.subjects import MatchSpec
from precision_planner.rules.language.clauses import Clause
from precision_planner.targets import TARGETS, Target

__all__ = [
    "ACTION_KINDS",
    "REWRITE_KINDS",
    "SEVERITIES",
    "ActionSpec",
    "Case",
    "Escalation",
    "Rule",
    "RuleBook",
    "TargetSpec",
]

SEVERITIES = ("error", "warning", "info")
"""From the gravest down."""
REWRITE_KINDS = ("fuse", "clamp", "replace", "raise_epsilon", "reorder", "rescale")
"""Actions that change the graph; all but `fuse` name a repair."""
ACTION_KINDS = (*REWRITE_KINDS, "keep_fp32", "keep_bf16", "run_low", "warn")


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """Which build targets a rule is about; what is not said is not asked.

    Attributes:
      builds: globs on names; one of them has to match.
      typing: "weak" or "strong".
      runtimes: names of runtimes, as `precision_planner.targets.RUNTIMES` has them.
    """

    builds: tuple[str, ...] = ()
    typing: str = ""
    runtimes: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = [f"{self.typing}ly typed" if self.typing else "", ", ".join(self.builds)]
        ran = f"of {' and '.join(self.runtimes)}" if self.runtimes else ""
        return " ".join(filter(None, (*said, "targets", ran)))

    def __bool__(self) -> bool:
        return bool(self.builds or self.typing or self.runtimes)

    @property
    def names(self) -> tuple[str, ...]:
        """The targets that it is about; () where it is about all."""
        return tuple(name for name, target in TARGETS.items() if self.includes(target)) if self else ()

    def includes(self, target: Target) -> bool:
        """Whether the rule is about a target."""
        return (
            (not self.builds or any(fnmatchcase(target.name, glob) for glob in self.builds))
            and self.typing in ("", target.typing)
            and (not self.runtimes or target.runtime in self.runtimes)
        )


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """One alternative of a rule's action.

    Attributes:
      kind: one of `ACTION_KINDS`.
      nodes: what it covers.
      repair: for rewrites but `fuse`, the name of the repair.
      parameters: of the repair.
      keep_as: for keep_fp32, "compute", "island", or "" for what costs least.
      when: this alternative is taken only where the clause is true; None: always.
    """

    kind: str
    nodes: tuple[NodeSet, ...] = (NodeSet("subject"),)
    repair: str = ""
    parameters: dict[str, Any] = field(default_factory=dict, hash=False)
    keep_as: str = ""
    when: Clause | None = None


@dataclass(frozen=True, slots=True)
class Escalation:
    """Another severity where a clause is true."""

    severity: str
    when: Clause


@dataclass(frozen=True, slots=True)
class Case:
    """One proof of a rule: a graph, and what the rule must say about it.

    Attributes:
      name: what it shows.
      kind: "fires", "near_miss" or "extreme".
      model: ONNX text, or "" if a builder makes the graph.
      builder: name of a builder, or "".
      parameters: of the builder.
      inputs: input name -> how its values are made; None: no calibration data.
      target: the build target.
      precision: "fp16" or "bf16".
      options: further evidence, as `Evidence` takes it (synthesized, accumulation, headroom).
      fires: True, False, or None for "undecided: a fact is missing".
      severity: expected, "" for any.
      count: expected number of findings, None for at least one.
      action: expected kind of action, "" for any.
      nodes: expected nodes of the action (display names), None for any.
      symptom: how the graph fails in the low precision; None if the case does not show it.
      cure: what the action makes of it.
      line: in the rule's file.
    """

    name: str
    kind: str
    model: str = ""
    builder: str = ""
    parameters: dict[str, Any] = field(default_factory=dict, hash=False)
    inputs: dict[str, Any] | None = field(default=None, hash=False)
    target: str = ""
    precision: str = "fp16"
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    fires: bool | None = True
    severity: str = ""
    count: int | None = None
    action: str = ""
    nodes: tuple[str, ...] | None = None
    symptom: dict[str, Any] | None = field(default=None, hash=False)
    cure: dict[str, Any] | None = field(default=None, hash=False)
    line: int = 0


@dataclass(frozen=True)
class Rule:
    """A rule of the book.

    Attributes:
      id: two or three capitals and three digits; never reused.
      title: in the imperative.
      why: two to four sentences.
      references: URLs.
      severity: where it fires, unless `escalate` says otherwise.
      tags: the categories that it belongs to; selectors take them.
      classes: the failure classes of docs/rules/index.md that it is about.
      policies: the policies under which it speaks.
      precisions: the precisions that it is about.
      targets: the build targets that it is about.
      match: what it looks at.
      when: the condition; None fires on every subject.
      escalate: other severities, the first whose clause is true wins.
      evidence: facts reported besides those of `when`.
      message: text with `{fact}` in it.
      actions: alternatives in order of preference.
      path: its file.
      line: of its id.
    """

    id: str
    title: str
    why: str
    references: tuple[str, ...]
    severity: str
    tags: tuple[str, ...]
    classes: tuple[int, ...]
    policies: tuple[str, ...]
    precisions: tuple[str, ...]
    targets: TargetSpec
    match: MatchSpec
    when: Clause | None
    escalate: tuple[Escalation, ...]
    evidence: tuple[str, ...]
    message: str
    actions: tuple[ActionSpec, ...]
    path: Path
    line: int = 1


@dataclass(frozen=True)
class RuleBook:
    """Rules by id, in alphabetical order."""

    rules: tuple[Rule, ...]

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def __contains__(self, rule_id: object) -> bool:
        return any(rule.id == rule_id for rule in self.rules)

    def get(self, rule_id: str) -> Rule | None:
        """The rule of that id (in any case), None if there is none."""
        wanted = rule_id.upper()
        return next((rule for rule in self.rules if rule.id == wanted), None)

    def tagged(self, tag: str) -> tuple[Rule, ...]:
        """The rules with a tag."""
        return tuple(rule for rule in self.rules if tag in rule.tags)

    @property
    def tags(self) -> tuple[str, ...]:
        """Every tag, sorted."""
        return tuple(sorted({tag for rule in self.rules for tag in rule.tags}))

    def merged(self, others: Iterable[Rule]) -> RuleBook:
        """This book and further rules."""
        return RuleBook(tuple(sorted((*self.rules, *others), key=lambda rule: rule.id)))
