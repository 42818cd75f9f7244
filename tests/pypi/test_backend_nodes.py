"""ONNX's own node cases through `rewrite`: each verdict is that of an evaluation of every node alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
import onnx.backend.test.case.node as node_cases
import pytest

import precision_planner as pp
from evidence.exporters.evaluator import answers, evaluate, verdict
from precision_planner.errors import PlannerError

pytestmark = pytest.mark.slow
PARTS = 12


@cache
def cases() -> dict[str, Any]:
    """Case by name; made by onnx, which warns of what it divides by zero on purpose."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in node_cases.collect_testcases(None)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(PARTS))
def test_rewritten_cases_are_judged_rightly(part: int) -> None:
    judged, wrong = 0, []
    for name in sorted(cases())[part::PARTS]:
        case = cases()[name]
        model = case.model
        if not any(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in model.graph.input):
            continue
        feeds = dict(zip([value.name for value in model.graph.input], case.data_sets[0][0], strict=False))
        try:
            expected = answers(model, feeds)
        except Exception:  # onnxruntime lacks the operator, at that version or at all: there is nothing to hold it to
            continue
        try:
            result = pp.rewrite(model, inputs=feeds)
        except PlannerError:  # nothing in it can be FP16
            continue
        try:
            right = verdict(expected, evaluate(result.model, feeds))
        except Exception:  # a loop, a sequence, a shape that only a constant gives: not what is evaluated here
            continue
        judged += 1
        if result.verdict is None or result.verdict.grade != right:
            wrong.append(f"{name}: {right}, not {result.verdict}")
    assert not wrong
    assert judged >= 40
