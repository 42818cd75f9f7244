"""Asks every rule about every subject it selects, and says what it found.

Order of work: subjects by `match`, the clause in three-valued logic, the severity, the first alternative of the action
that can be taken here. A rule that raises is a bug, and is raised again with the rule and the subject named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from precision_planner.errors import PlannerError, SelectorError
from precision_planner.rules.engine.alternatives import first_possible
from precision_planner.rules.engine.findings import Action, Evaluation, Finding, Undecided
from precision_planner.rules.facts.evidence import FactSource, Subject, format_constants
from precision_planner.rules.facts.model_facts import ModelFacts
from precision_planner.rules.facts.registry import needs_data
from precision_planner.rules.facts.subjects import Subjects
from precision_planner.rules.language.clauses import facts_of
from precision_planner.rules.language.rule import SEVERITIES, Rule, RuleBook
from precision_planner.targets import get_target

__all__ = ["RuleFailedError", "chosen_rules", "evaluate"]

_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_.]+)\}")


class RuleFailedError(RuntimeError):
    """A rule raised; the message names the rule and the subject. A bug, not a mistake of the user's."""


def evaluate(
    rulebook: RuleBook,
    source: FactSource,
    *,
    only: Collection[str] = (),
    disable: Collection[str] = (),
    policy: str = "auto",
    without: Collection[str] = (),
) -> Evaluation:
    """Ask the rules about a model.

    Args:
      rulebook: the rules.
      source: the graph and what was measured on it.
      only: ids or tags; empty means all.
      disable: ids or tags.
      policy: "auto", "rules" or "torch-amp": a rule speaks only under its own policies.
      without: repairs that are not proposed; the alternatives behind them are taken.

    Raises:
      SelectorError: `only` or `disable` names no rule and no tag.
      RuleFailedError: a rule raised.
    """
    rules = [
        rule
        for rule in chosen_rules(rulebook, only=only, disable=disable)
        if policy in rule.policies
        and source.precision in rule.precisions
        and rule.targets.includes(get_target(source.target))
    ]
    facts = ModelFacts(source, without)
    subjects = Subjects(facts)
    constants = format_constants(source)
    findings: list[Finding] = []
    undecided: list[Undecided] = []
    for rule in rules:
        for subject in subjects.select(rule.match):
            try:
                _ask(rule, subject, facts, constants, findings, undecided)
            except PlannerError:
                raise
            except Exception as error:
                raise RuleFailedError(f"rule {rule.id} on {subject.name}: {type(error).__name__}: {error}") from error
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Evaluation(
        tuple(findings),
        tuple(finding.proposal for finding in findings),
        tuple(undecided),
        tuple(rule.id for rule in rules),
    )


def chosen_rules(rulebook: RuleBook, *, only: Collection[str] = (), disable: Collection[str] = ()) -> list[Rule]:
    """The rules that `--only` and `--disable` leave.

    Raises:
      SelectorError: a name is neither an id nor a tag.
    """
    kept = _named(rulebook, only, "--only") if only else set(rulebook)
    dropped = _named(rulebook, disable, "--disable")
    return [rule for rule in rulebook if rule in kept and rule not in dropped]


def _named(rulebook: RuleBook, names: Iterable[str], option: str) -> set[Rule]:
    import difflib

    found: set[Rule] = set()
    for name in names:
        rule = rulebook.get(name)
        rules = (rule,) if rule is not None else rulebook.tagged(name)
        if not rules:
            near = difflib.get_close_matches(name.upper(), [known.id for known in rulebook], 2)
            near += difflib.get_close_matches(name.lower(), rulebook.tags, 2)
            hint = f"did you mean {' or '.join(near)}?" if near else "'planner rules' lists them"
            raise SelectorError(f"{option} {name}: no rule has that id or tag; {hint}")
        found.update(rules)
    return found


def _ask(
    rule: Rule,
    subject: Subject,
    facts: ModelFacts,
    constants: dict[str, float],
    findings: list[Finding],
    undecided: list[Undecided],
) -> None:
    def lookup(name: str) -> Any:
        return facts.lookup(subject, name)

    truth = True if rule.when is None else rule.when.evaluate(lookup, constants)
    if truth is None:
        missing = tuple(dict.fromkeys(name for name in facts_of(rule.when) if lookup(name) is None))
        wanting = facts.source.ranges is None and any(needs_data(subject.kind, name) for name in missing)
        undecided.append(Undecided(rule.id, subject.name, missing, wanting))
        return
    if not truth:
        return
    severity = rule.severity
    asked = list(facts_of(rule.when))
    for escalation in rule.escalate:
        asked.extend(facts_of(escalation.when))
        if escalation.when.evaluate(lookup, constants):
            severity = escalation.severity
            break
    names = dict.fromkeys([*asked, *rule.evidence])
    evidence = {name: value for name in names if (value := lookup(name)) is not None}
    message = _fill(rule.message, subject, lookup)
    # the decision rests on the data where the condition does, whatever else is reported beside it
    measured = facts.source.ranges is not None and any(
        needs_data(subject.kind, name) and not _is_constant(facts, subject, name) for name in facts_of(rule.when)
    )
    chosen, nodes, skipped = first_possible(rule, subject, facts, constants)
    action = Action(
        kind=chosen.kind,
        nodes=nodes,
        rule=rule.id,
        reason=f"{message} (rule {rule.id})",
        severity=severity,
        repair=chosen.repair,
        parameters=chosen.parameters,
        keep_as=chosen.keep_as,
        match=subject.match,
        scope=subject.scope.path,
        value=subject.value,
        evidence=evidence,
        measured=measured,
        synthesized=measured and facts.source.synthesized,
        skipped=skipped,
    )
    described: dict[str, Any] = {"kind": chosen.kind, "nodes": [facts.source.index.display(node) for node in nodes]}
    if chosen.repair:
        described |= {"repair": chosen.repair, "parameters": chosen.parameters}
    if skipped:
        described["skipped"] = [{"kind": kind, "reason": reason} for kind, reason in skipped]
    findings.append(
        Finding(
            rule=rule.id,
            severity=severity,
            subject=subject.name,
            message=message,
            evidence=evidence,
            action=described,
            nodes=nodes,
            proposal=action,
            kind=subject.kind,
            confidence="certain" if not measured else "low" if facts.source.synthesized else "measured",
        )
    )


def _is_constant(facts: ModelFacts, subject: Subject, name: str) -> bool:
    """Whether a fact of a value was read off a constant, not measured."""
    role = name.rpartition(".")[0]
    values = facts.role_values(subject, role) if role else None
    return bool(values) and all(facts.constant_tensor(subject.scope, value) is not None for value in values or ())


def _fill(template: str, subject: Subject, lookup: Any) -> str:
    """Put facts into a message; an unknown one reads `unknown`."""

    def value(found: re.Match[str]) -> str:
        name = found.group(1)
        fact = subject.name if name == "subject" else lookup(name)
        match fact:
            case None:
                return "unknown"
            case bool():
                return "yes" if fact else "no"
            case float():
                return f"{fact:.4g}"
            case frozenset():
                return ", ".join(sorted(fact)) or "none"
            case _:
                return str(fact)

    return _PLACEHOLDER.sub(value, template)
