"""Every case of every rule."""

from __future__ import annotations

import pytest

from precision_planner.rules import load_rulebook
from precision_planner.rules.engine.cases import run_case
from precision_planner.rules.language.schema import read_cases
from tests.rules.oracle import measure

BOOK = load_rulebook()
CASES = [(rule, case) for rule in BOOK for case in read_cases(rule)]


@pytest.mark.parametrize(("rule", "case"), CASES, ids=[f"{rule.id}: {case.name}" for rule, case in CASES])
def test_case(rule, case):
    assert run_case(rule, case, measure).failures == ()
