"""The metrics against float64 numpy, written out here by their definitions in docs/diff.md."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from precision_planner.judging import metrics
from precision_planner.judging.differences import Pair
from precision_planner.judging.metrics import METRICS
from precision_planner.judging.quick import quick_metrics
from precision_planner.judging.ulps import tensor_metrics, ulps

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)


@st.composite
def pairs(draw: st.DrawFn, finite: bool = True) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    numbers = st.floats(-1e6, 1e6, width=32) if finite else st.floats(width=32)
    return tuple(draw(hnp.arrays(np.float32, shape, elements=numbers)) for _ in range(2))  # type: ignore[return-value]


@given(pairs())
def test_finite_metrics_are_their_definitions(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (x.astype(np.float64) for x in pair)
    delta = np.abs(b - a)
    rows = delta.reshape(1, -1) if a.ndim == 0 else delta.reshape(a.shape[0], math.prod(a.shape[1:]))
    found = tensor_metrics(*pair)
    assert found.max_abs == (delta.max() if delta.size else 0)
    assert found.mean_abs == pytest.approx(delta.mean() if delta.size else 0, rel=1e-12)
    assert found.sad == pytest.approx(rows.sum(axis=1).max() if rows.shape[0] else 0, rel=1e-12)
    assert found.sad_mean == pytest.approx(rows.sum(axis=1).mean() if rows.shape[0] else 0, rel=1e-12)
    norm = np.linalg.norm(a.reshape(-1))
    error = np.linalg.norm(delta.reshape(-1))
    expected = 0.0 if error == 0 else error / norm if norm else math.inf
    assert found.rel_l2 == pytest.approx(expected, rel=1e-12)
    if norm and np.linalg.norm(b):
        cosine = float(a.reshape(-1) @ b.reshape(-1)) / norm / np.linalg.norm(b)
        assert found.cosine == pytest.approx(cosine, abs=1e-12)
    if a.ndim and a.size:
        assert found.top1 == np.mean(a.argmax(-1) == b.argmax(-1))
    assert found.nonfinite == 0


@given(pairs(finite=False))
def test_values_without_a_size_follow_the_documented_rules(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.abs(b.astype(np.float64) - a.astype(np.float64))
    delta = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, delta)
    np.testing.assert_equal(metrics.max_abs(a, b), delta.max() if delta.size else 0.0)
    assert metrics.nonfinite(b) == int((~np.isfinite(b)).sum())
    value = metrics.sad(a, b)
    if np.isnan(delta).any():
        assert math.isnan(value)
        assert not metrics.METRICS["sad"].holds(value, 1e30)
    elif np.isinf(delta).any():
        assert math.isinf(value)


@given(pairs())
def test_the_one_pass_metrics_agree(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    found = quick_metrics(a, b)
    assert found.max_abs == pytest.approx(metrics.max_abs(a, b), rel=1e-6)
    assert found.sad == pytest.approx(metrics.sad(a, b), rel=1e-5)
    exact = metrics.rel_l2(a, b)
    if not math.isinf(exact) and metrics.max_abs(a, b) > 1e-15 and np.abs(a).max(initial=0) > 1e-15:
        assert found.rel_l2 == pytest.approx(exact, rel=1e-5)


def test_large_tensors_take_the_same_path_in_blocks() -> None:
    generator = np.random.default_rng(0)
    for shape in [(3, 100_000), (100_000, 3), (300_001,)]:
        a = generator.normal(size=shape).astype(np.float32)
        b = (a + generator.normal(size=shape) * 1e-3).astype(np.float32)
        found, exact = quick_metrics(a, b), tensor_metrics(a, b)
        for name in ("max_abs", "mean_abs", "sad", "rel_l2", "cosine"):
            assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=2e-6), name


def test_one_lost_value_is_counted_and_fails() -> None:
    a, b = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    b[1, 2] = np.nan
    found = tensor_metrics(a, b)
    assert found.nonfinite == 1
    assert math.isnan(found.sad)
    assert math.isnan(found.cosine)
    assert found.top1 == 0.5
    assert found.to_dict()["sad"] == "nan"


def test_masks_that_agree_do_not_count() -> None:
    a = np.array([[1.0, -np.inf]], np.float32)
    found = tensor_metrics(a, a.copy())
    assert (found.sad, found.rel_l2, found.cosine) == (0, 0, 1)


def test_a_clamped_mask_hides_no_other_difference() -> None:
    a = np.array([[1.0, -3.4028235e38]], np.float32)
    b = np.array([[1.5, -65504.0]], np.float32)
    assert quick_metrics(a, b, 65504.0).rel_l2 == pytest.approx(0.5)
    assert quick_metrics(a, np.array([[1.0, np.nan]], np.float32), 65504.0).new_nonfinite == 1


def test_a_mask_of_minus_infinity_that_a_rewrite_made_finite_hides_nothing_either() -> None:
    a = np.array([[1.0, -np.inf]], np.float32)
    b = np.array([[1.5, -65504.0]], np.float32)
    found = quick_metrics(a, b, 65504.0)
    assert (found.rel_l2, found.masked) == (pytest.approx(0.5), 1)


def test_squares_that_float32_cannot_hold_are_not_lost() -> None:
    a = np.full((2, 3), 1e-24, np.float32)
    doubled, gone = quick_metrics(a, 2 * a), quick_metrics(a, np.zeros_like(a))
    assert (doubled.rel_l2, doubled.cosine) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (gone.rel_l2, gone.cosine) == (pytest.approx(1.0), 0.0)
    close = quick_metrics(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32) + a)
    assert (close.rel_l2, close.cosine) == (0.0, 1.0)


def test_ulps_are_of_the_candidates_type() -> None:
    assert ulps(np.array([1.0]), np.array([1.0 + 2.0**-10]), "fp16") == (1, 1)
    assert ulps(np.array([1.0]), np.array([1.0 + 2.0**-10]), "bf16")[0] == 0.125
    assert ulps(np.array([0.0]), np.array([2.0**-24]), "fp16")[0] == 1
    assert ulps(np.array([-3.0]), np.array([-3.0 + 2.0**-9]), "fp16")[0] == 1


def test_kl_of_logits_and_of_probabilities() -> None:
    logits = np.array([[1.0, 2.0, 3.0]])
    p = np.exp(logits) / np.exp(logits).sum()
    q = np.full((1, 3), 1 / 3)
    expected = float((p * np.log(p / q)).sum())
    assert metrics.kl_divergence(p, q)[0] == pytest.approx(expected)  # type: ignore[index]
    assert metrics.kl_divergence(logits, np.zeros((1, 3)))[0] == pytest.approx(expected)  # type: ignore[index]


def test_other_types() -> None:
    big = np.array([2**62, 5], np.int64)
    assert metrics.max_abs(big, big + 1) == 1
    assert metrics.sad(np.array([True, False]), np.array([True, True])) == 1
    assert tensor_metrics(np.array(["a", "b"]), np.array(["a", "c"])).max_abs == 1
    half = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    assert metrics.max_abs(half, half.astype(np.float32)) == 0
    assert tensor_metrics(np.float32(2), np.float32(3)).sad == 1
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.sad(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_a_value_of_everything_or_says_that_it_is_optional(name: str) -> None:
    record = METRICS[name]
    halves = np.full((3, 8), 0.25, np.float16)
    given = [halves, np.float32(1), np.zeros((0, 4), np.float32), np.arange(6), np.array(["a", "b"]), np.array([True])]
    values = [record.of(Pair(np.asarray(x), np.asarray(x))) for x in given]
    assert (None in values) is record.optional
    assert values[0] is not None


@pytest.mark.parametrize("huge", [3e38, 1e30])
def test_a_difference_whose_square_is_beyond_float32_is_measured_all_the_same(huge: float) -> None:
    a = np.ones((2, 8), np.float32)
    b = a.copy()
    b[1, 3] = huge
    found = quick_metrics(a, b)
    right = np.linalg.norm(b.astype(np.float64) - a) / np.linalg.norm(a.astype(np.float64))
    assert found.rel_l2 == pytest.approx(right, rel=1e-6)
    assert found.max_abs == pytest.approx(float(np.float32(huge)), rel=1e-6)
