"""Quantiles of draws: they cover what they say (by numpy's own draws), and follow each metric's bad side."""

from __future__ import annotations

import math

import numpy as np
import pytest

from precision_planner.judging.judge import judge
from precision_planner.judging.metrics import METRICS
from precision_planner.judging.quantiles import DRAWS, SHARE, quantile, quantiles, upper


@pytest.mark.parametrize("count", [2, DRAWS, 15])
def test_a_further_draw_lies_below_as_often_as_is_said(count: int) -> None:
    made = np.exp(np.random.default_rng(0).normal(0.0, 0.3, (4000, count + 1)))
    covered = np.mean([upper(row[:count]) >= row[count] for row in made])
    assert covered == pytest.approx(SHARE, abs=0.012)


def test_draws_without_an_error_are_taken_as_they_are() -> None:
    assert upper([0.0, 0.0, 0.0]) == 0.0
    # m + t s sqrt(1 + 1/n), with Student's t of 2 degrees of freedom at 0.95
    assert upper([0.0, 1.0, 2.0]) == pytest.approx(1.0 + 2.920 * math.sqrt(4 / 3))


def test_one_draw_that_is_lost_loses_the_quantile() -> None:
    assert upper([0.1, math.inf, 0.1]) == math.inf
    assert quantile([0.1, math.nan, 0.1], METRICS["sad"]) == math.inf
    with pytest.raises(ValueError, match="1 draws"):
        upper([0.1])


def test_the_bad_side_is_the_metrics_own() -> None:
    assert quantile([0.01, 0.012, 0.011], METRICS["sad"]) > 0.012
    assert quantile([0.999, 0.9985, 0.9991], METRICS["cosine"]) < 0.9985
    assert quantile([1.0, 1.0, 1.0], METRICS["top1"]) == 1.0
    assert quantile([0, 0, 0], METRICS["nonfinite"]) == 0
    assert quantile([1, 2, 1], METRICS["nonfinite"]) == math.ceil(quantile([1.0, 2.0, 1.0], METRICS["sad"]))


def test_quantiles_of_judgements_have_every_metric_that_a_bound_may_name() -> None:
    random = np.random.default_rng(0)
    right = {"y": random.standard_normal((4, 8))}
    draws = [judge([right], [{"y": right["y"] + random.normal(0, 1e-3, (4, 8))}]) for _ in range(3)]
    full = quantiles(draws)
    assert full["y"]["rel_l2"] > max(float(draw.outputs["y"].values["rel_l2"]) for draw in draws)
    lost = judge([right], [{"y": right["y"][:2]}])
    assert quantiles([*draws[:2], lost])["y"]["rel_l2"] == math.inf
