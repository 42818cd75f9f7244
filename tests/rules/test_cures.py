"""What each class does to a graph in 16 bits, and what the rule's action makes of it.

Judged twice: by an evaluator of our own in float64 that knows only ONNX's definitions (`oracle`), and by the project's
simulation on the types that the conversion would write.
"""

from __future__ import annotations

import numpy as np
import pytest

from precision_planner.planning.cures import check_cure, simulated
from precision_planner.rules import load_rulebook
from precision_planner.rules.language.schema import read_cases
from tests.rules import oracle

BOOK = load_rulebook()
SHOWN = [(rule, case) for rule in BOOK for case in read_cases(rule) if case.symptom is not None]
NAMES = [f"{rule.id}: {case.name}" for rule, case in SHOWN]


KEPT_BY_TYPES = {"IX001", "QD001", "SH001"}
"""Indices, shapes and quantization stay in FP32 by the types themselves, whatever a rule says."""


def by_oracle(model, inputs, low, decisions):
    fp32 = [node for node, decision in decisions.items() if decision.precision == "fp32"]
    bf16 = [node for node, decision in decisions.items() if decision.precision == "bf16"]
    return oracle.outputs(model, oracle.run(model, inputs, low=low, fp32=fp32, bf16=bf16))


@pytest.mark.parametrize(("rule", "case"), SHOWN, ids=NAMES)
def test_the_graph_fails_and_the_action_cures_it(rule, case):
    result = check_cure(rule, case, oracle.measure, by_oracle)
    assert result is not None
    assert result.failures == ()
    if result.changed is not None:
        # the rewrite itself keeps the function: float64 before and after
        assert result.changed < 2e-7


@pytest.mark.parametrize(("rule", "case"), SHOWN, ids=NAMES)
def test_the_simulation_of_the_typed_graph_says_the_same(rule, case):
    result = check_cure(rule, case, oracle.measure, simulated)
    assert result is not None
    if rule.id in KEPT_BY_TYPES and result.before < 0.0005:
        # no symptom to see: the conversion would not write the fault in the first place
        assert all("the error is" in failure for failure in result.failures)
    else:
        assert result.failures == ()


def test_an_error_that_is_not_finite_is_infinite():
    good, bad = {"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, np.nan])}
    from precision_planner.planning.cures import relative_error

    assert relative_error(good, bad) == float("inf")
    assert relative_error({"y": np.array([np.inf, 2.0])}, {"y": np.array([np.nan, 1.0])}) == 0.5
