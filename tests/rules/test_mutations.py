"""No condition of a rule stands for nothing: drop it, or turn its comparison round, and a case goes red.

Every clause of `when`, `escalate` and an action's `when` is dropped (from its group, or as a whole), every comparison
is replaced by its opposite, and the form and the targets are opened.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from precision_planner.rules import load_rulebook
from precision_planner.rules.engine.cases import _failures, case_evidence
from precision_planner.rules.engine.evaluate import evaluate
from precision_planner.rules.language.clauses import COMPARISONS, All, Any_, Compare, Not
from precision_planner.rules.language.rule import RuleBook, TargetSpec
from precision_planner.rules.language.schema import read_cases
from tests.rules.oracle import measure

BOOK = load_rulebook()


def variants(clause):
    """(what was done, the clause after it); None for a clause that is gone."""
    match clause:
        case Compare():
            opposite = COMPARISONS[clause.comparison].opposite
            yield f"{clause} -> {opposite}", replace(clause, comparison=opposite)
        case All() | Any_():
            for number, part in enumerate(clause.parts):
                rest = clause.parts[:number] + clause.parts[number + 1 :]
                if rest:
                    yield f"without {part}", type(clause)(rest)
                for what, changed in variants(part):
                    yield what, type(clause)((*clause.parts[:number], changed, *clause.parts[number + 1 :]))
        case Not():
            yield f"{clause} -> {clause.part}", clause.part
            for what, changed in variants(clause.part):
                yield what, Not(changed)


def mutants(rule):
    if rule.when is not None:
        yield "without when", replace(rule, when=None)
        for what, clause in variants(rule.when):
            yield f"when: {what}", replace(rule, when=clause)
    for number, escalation in enumerate(rule.escalate):
        rest = rule.escalate[:number] + rule.escalate[number + 1 :]
        yield f"without escalation to {escalation.severity}", replace(rule, escalate=rest)
        for what, clause in variants(escalation.when):
            changed = (*rule.escalate[:number], replace(escalation, when=clause), *rule.escalate[number + 1 :])
            yield f"escalate: {what}", replace(rule, escalate=changed)
    for number, action in enumerate(rule.actions):
        if action.when is not None:
            for what, clause in [("without when", None), *variants(action.when)]:
                changed = (*rule.actions[:number], replace(action, when=clause), *rule.actions[number + 1 :])
                yield f"action: {what}", replace(rule, actions=changed)
    if rule.match.form:
        yield "match: any form", replace(rule, match=replace(rule.match, form=""))
    if rule.targets:
        yield "any target", replace(rule, targets=TargetSpec())


MUTANTS = [(rule, what, mutant) for rule in BOOK for what, mutant in mutants(rule)]


@pytest.fixture(scope="module")
def evidence():
    """(rule id, case) -> evidence: the graphs are built and measured once."""
    return {
        (rule.id, case.name): (case, case_evidence(rule, case, measure)) for rule in BOOK for case in read_cases(rule)
    }


def red(rule, evidence):
    for (rule_id, _), (case, facts) in evidence.items():
        if rule_id == rule.id:
            evaluation = evaluate(RuleBook((rule,)), facts, policy=rule.policies[0])
            if _failures(case, evaluation):
                return True
    return False


@pytest.mark.parametrize(("rule", "what", "mutant"), MUTANTS, ids=[f"{r.id}: {what}" for r, what, _ in MUTANTS])
def test_a_changed_condition_makes_a_case_fail(rule, what, mutant, evidence):
    assert red(mutant, evidence), f"{rule.id}: no case notices: {what}"


def test_the_rules_themselves_are_green(evidence):
    assert [rule.id for rule in BOOK if red(rule, evidence)] == []
