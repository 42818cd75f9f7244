"""Selectors that name nodes which are computed beforehand: they are in FP32 already."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import precision_planner as pp
from precision_planner.errors import SelectorError
from tests.simulation.models import FLOAT, model

NODES = [
    helper.make_node("MatMul", ["a", "b"], ["keys"], "relative_keys"),
    helper.make_node("Transpose", ["keys"], ["turned"], "turn", perm=[1, 0]),
    helper.make_node("MatMul", ["x", "turned"], ["h"], "scores"),
    helper.make_node("Relu", ["h"], ["y"], "relu"),
]
RNG = np.random.default_rng(0)
WEIGHTS = {"a": RNG.normal(size=(4, 6)).astype(np.float32), "b": RNG.normal(size=(6, 8)).astype(np.float32)}
SOURCE = model(NODES, {"x": (FLOAT, [3, 8])}, {"y": (FLOAT, [3, 4])}, WEIGHTS)
X = {"x": RNG.normal(size=(3, 8)).astype(np.float32)}


def kept(report: dict[str, list[dict[str, str]]]) -> list[str]:
    return [entry["node"] for entry in report["kept_fp32"]]


def test_what_is_kept_beside_them_is_kept() -> None:
    assert kept(pp.rewrite(SOURCE, keep_fp32=["relative_keys"], verify=False).report) == []
    assert kept(pp.rewrite(SOURCE, keep_fp32=["relative_keys,scores"], verify=False).report) == ["scores"]
    assert kept(pp.rewrite(SOURCE, keep_fp32=["MatMul"], verify=False).report) == ["scores"]
    assert kept(pp.rewrite(SOURCE, only_low=["turn,relu"], verify=False).report) == ["scores"]


@pytest.mark.parametrize("tolerance", [None, pytest.param({"rel_l2": 1e-2}, marks=pytest.mark.slow)])
def test_plans_take_them(tolerance: dict[str, float] | None) -> None:
    options = {"keep_fp32": ["relative_keys", "re:^sco"]}
    plan = pp.plan(SOURCE, inputs=X, tolerance=tolerance, policy="auto" if tolerance else "rules", **options).plan
    assert [node.node for node in plan.kept] == ["scores"]


def test_what_names_nothing_at_all_is_still_a_mistake() -> None:
    with pytest.raises(SelectorError, match="matches no node"):
        pp.rewrite(SOURCE, keep_fp32=["relative_values"], verify=False)
    with pytest.raises(SelectorError, match="computed beforehand"):
        pp.rewrite(SOURCE, only_low=["relative_keys"], verify=False)
