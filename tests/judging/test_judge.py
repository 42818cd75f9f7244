"""Bounds, what keeps none, and the score that the search climbs by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from precision_planner.errors import ToleranceError
from precision_planner.judging.detections import Evidence
from precision_planner.judging.judge import Judgement, Tolerance, judge
from precision_planner.judging.tolerance import check_detections, check_outputs, parse_tolerances, tightened
from precision_planner.judging.verdict import grade_of, sentence_of

REFERENCE = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


def of(candidate: np.ndarray, *bounds: str) -> Judgement:
    return judge([{"y": REFERENCE}], [{"y": candidate}], parse_tolerances(list(bounds)))


def test_the_score_is_the_worst_part_of_a_bound() -> None:
    found = of(REFERENCE + np.float32(0.25), "sad=1", "max_abs=0.5", "top1=0.5")
    assert found.score == 0.5
    assert found.values == {"y:sad": 0.5, "y:max_abs": 0.25, "y:top1": 1.0}
    assert found.passed
    assert found.energy == pytest.approx(4 * 0.25**2 / 30)


def test_past_a_bound_the_score_is_above_one() -> None:
    assert of(REFERENCE + np.float32(1), "sad=1").score == 2.0
    flipped = of(REFERENCE[:, ::-1].copy(), "top1=0.5")
    assert flipped.score == 2.0
    assert not flipped.passed


@pytest.mark.parametrize("bound", ["top1=0", "max_abs=inf", "mine=1"])
def test_what_became_infinite_never_passes(bound: str) -> None:
    candidate = REFERENCE.copy()
    candidate[0, 0] = np.nan
    found = judge([{"y": REFERENCE}], [{"y": candidate}], parse_tolerances([bound]), {"mine": lambda a, b: 0.0})
    assert found.score == found.energy == math.inf
    assert not found.finite
    assert [failure.metric for failure in found.failures] == [bound.partition("=")[0]]
    assert not judge([{"y": REFERENCE}], [{"y": candidate}]).passed, "nor without a tolerance"
    assert judge([{"y": candidate}], [{"y": candidate}], parse_tolerances(["max_abs=0"])).passed, "FP32 has it too"


def test_only_the_outputs_of_the_bounds_count() -> None:
    found = judge(
        [{"y": REFERENCE, "z": REFERENCE}], [{"y": REFERENCE, "z": REFERENCE * 2}], [Tolerance("sad", 1, "y")]
    )
    assert (found.score, found.energy) == (0.0, 0.0)


def test_a_metric_of_ones_own() -> None:
    own = {"furthest": lambda a, b: float(np.abs(a - b).max())}
    found = judge([{"y": REFERENCE}], [{"y": REFERENCE + np.float32(1)}], [Tolerance("furthest", 0.5)], own)
    assert found.score == 2.0


def test_a_cosine_counts_by_its_root_and_a_bound_without_room_by_itself() -> None:
    bent = REFERENCE + np.float32([[0.1, -0.1], [0.1, -0.1]])
    a, b = REFERENCE.astype(np.float64).reshape(-1), bent.astype(np.float64).reshape(-1)
    angle = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert of(bent, f"cosine={1 - 4 * angle}").score == pytest.approx(0.5, rel=1e-3)
    assert of(bent, "max_abs=0").score == math.inf
    assert of(REFERENCE.copy(), "max_abs=0").score == 0.0


def test_zeros_in_the_reference_are_no_overflow() -> None:
    zeros = np.zeros((2, 2), np.float32)
    found = judge([{"y": zeros}], [{"y": zeros + np.float32(0.5)}], parse_tolerances(["max_abs=1"]))
    assert found.finite
    assert (found.score, found.energy) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("reference", "candidate", "kind"),
    [
        (REFERENCE, REFERENCE[:1], "shape"),
        (REFERENCE, REFERENCE[None], "shape"),
        (REFERENCE, REFERENCE.astype(np.int64), "type"),
        (REFERENCE > 2, (REFERENCE > 2).astype(np.float32), "type"),
        (REFERENCE, REFERENCE.astype(str), "type"),
        ([REFERENCE], REFERENCE, "sequence"),
        ([REFERENCE], [REFERENCE, REFERENCE], "sequence"),
        (REFERENCE, None, "sequence"),
    ],
)
def test_what_cannot_be_compared_is_a_result_that_never_passes(reference: object, candidate: object, kind: str) -> None:
    found = judge([{"y": reference}], [{"y": candidate}], parse_tolerances(["top1=0", "max_abs=inf"]))
    assert (found.passed, found.score, grade_of(found)) == (False, math.inf, "garbage")
    assert [problem.kind for problem in found.problems] == [kind]
    assert "output 'y'" in sentence_of(found, "garbage")
    without = judge([{"y": reference}], [{"y": candidate}])
    assert not without.passed


def test_a_missing_output_never_passes() -> None:
    found = judge([{"y": REFERENCE, "z": REFERENCE}], [{"y": REFERENCE}], [Tolerance("sad", 1, "y")])
    assert not found.passed
    assert [problem.kind for problem in found.problems] == ["missing"]


def test_floats_and_integers_of_another_width_are_compared() -> None:
    ours = {"y": REFERENCE, "n": np.array([1, 2])}
    theirs = {"y": REFERENCE.astype(np.float16), "n": np.array([1, 2], np.int32)}
    assert judge([ours], [theirs], parse_tolerances(["max_abs=0"])).passed


def test_nothing_compared_never_passes() -> None:
    empty = np.zeros((0, 4), np.float32)
    for bounds in ([], ["max_abs=1"], ["y:max_abs=1"]):
        found = judge([{"y": empty}], [{"y": empty}], parse_tolerances(bounds))
        assert (found.passed, grade_of(found)) == (False, "not judged")
    assert not judge([], [], parse_tolerances(["max_abs=1"])).passed
    beside = judge([{"y": empty, "z": REFERENCE}], [{"y": empty, "z": REFERENCE + 1}], parse_tolerances(["max_abs=2"]))
    assert beside.passed, "an empty output says nothing about the others"
    assert "'y' is empty and was not compared" in sentence_of(beside, grade_of(beside))
    named = judge([{"y": empty, "z": REFERENCE}], [{"y": empty, "z": REFERENCE}], parse_tolerances(["y:max_abs=2"]))
    assert not named.passed


def test_integers_are_exact_past_2_to_the_53() -> None:
    big = np.array([2**62 + 1, -(2**62), 2**53], np.int64)
    for other in (big + 1, big - 1):
        assert of_integers(big, other, "max_abs=0.5").failures[0].value == 1
    assert of_integers(big, big.copy(), "max_abs=0").passed
    ends = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max])
    assert of_integers(ends, ends[::-1].copy(), "max_abs=1").failures[0].value == 2.0**64
    far = np.array([2**64 - 1], np.uint64)
    assert of_integers(far, far - np.uint64(1), "max_abs=0.5").failures[0].value == 1
    assert of_integers(np.array([2**63], np.uint64), np.array([2**63 - 1], np.int64), "sad=0.5").failures[0].value == 1


def of_integers(reference: np.ndarray, candidate: np.ndarray, bound: str) -> Judgement:
    return judge([{"y": reference}], [{"y": candidate}], parse_tolerances([bound]))


def test_classes_change_only_where_there_are_classes() -> None:
    rng = np.random.default_rng(0)
    near, other = (1000 + 0.5 * rng.standard_normal((40, 11)) for _ in range(2))
    flipped = judge([{"y": near}], [{"y": other}])
    assert grade_of(flipped) == "garbage", "a tenth of the rows in another class is never fine"
    assert "rows of 'y' changed class" in sentence_of(flipped, "garbage")
    for shape in ((40, 11, 3), (4, 10, 11, 1), (440,), (2, 2, 10, 11)):
        image = judge(
            [{"y": near.reshape(shape) if np.prod(shape) == near.size else np.resize(near, shape)}],
            [{"y": other.reshape(shape) if np.prod(shape) == near.size else np.resize(other, shape)}],
        )
        assert grade_of(image) == "fine"
        assert "class" not in sentence_of(image, "fine")
    unit = near - 1000
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert not judge([{"y": unit}], [{"y": unit + 1e-5}]).outputs["y"].is_classes
    told = judge([{"y": near}], [{"y": other}], evidence=Evidence(classes={"y": False}))
    assert grade_of(told) == "fine"


def test_a_tenth_of_the_rows_is_never_fine_even_one() -> None:
    reference = np.array([[1000.0, 1000.1]])
    found = judge([{"y": reference}], [{"y": reference[:, ::-1].copy()}])
    assert grade_of(found) == "degraded"


def test_the_worst_output_speaks_and_says_so() -> None:
    ours = {"a": np.ones((3, 4, 4)), "b": np.ones((3, 4, 4))}
    found = judge([ours], [{"a": ours["a"] + 1e-4, "b": ours["b"] + 1e-3}])
    assert sentence_of(found, "fine").startswith("'b' (the worst of 2 outputs) off by")


def test_bounds_must_fit() -> None:
    with pytest.raises(ToleranceError, match="names no output"):
        check_outputs([Tolerance("sad", 1.0, "x")], ["y"])
    with pytest.raises(ToleranceError, match="name the output that does, as in boxes:missed=0"):
        check_detections([Tolerance("missed", 0.0)], False)
    check_detections([Tolerance("missed", 0.0, "y")], False)
    check_outputs([Tolerance("sad", 1.0, "seq")], ["seq[0]", "seq[1]"])


def test_the_99th_percentile_is_an_elements_own() -> None:
    error = np.arange(1, 201, dtype=np.float64)
    found = judge([{"y": np.zeros(200)}], [{"y": error}], parse_tolerances(["p99_abs=198"]))
    assert found.values["y:p99_abs"] == 198.0 == np.sort(error)[math.ceil(0.99 * 200) - 1]
    assert found.passed
    assert not judge([{"y": np.zeros(200)}], [{"y": error}], parse_tolerances(["p99_abs=197"])).passed


def test_a_margin_tightens_measures_and_leaves_counts() -> None:
    assert tightened(Tolerance("sad", 2.0), 2.0).bound == 1.0
    assert tightened(Tolerance("cosine", 0.9), 2.0).bound == pytest.approx(0.95)
    assert tightened(Tolerance("missed", 2.0), 2.0).bound == 2.0


def box_outputs(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = np.arange(count)[:, None] * 200 + rng.uniform(0, 20, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(30, 90, (count, 2))], axis=1).astype(np.float32)
    return {"boxes": boxes, "scores": rng.uniform(0.1, 1, count).astype(np.float32)}


BOXES = Evidence(frozenset({"boxes"}), unordered=frozenset({"boxes", "scores"}))


@pytest.mark.parametrize("bound", ["max_abs=1e9", "scores:max_abs=1e9", "boxes:cosine=0", "min_iou=0.1", "missed=29"])
def test_no_bound_is_kept_by_an_empty_match(bound: str) -> None:
    ours = box_outputs(30)
    theirs = {"boxes": ours["boxes"] + np.float32(1e6), "scores": ours["scores"]}
    for lost in (theirs, {name: value[:0] for name, value in ours.items()}):
        assert not judge([ours], [lost], parse_tolerances([bound]), evidence=BOXES).passed


def test_lost_boxes_keep_no_bound_unless_it_is_said_how_many_may_be() -> None:
    ours = box_outputs(30)
    theirs = {name: value[:28][::-1] for name, value in ours.items()}
    bounds = ["max_abs=1"]
    found = judge([ours], [theirs], parse_tolerances(bounds), evidence=BOXES)
    assert [(failure.output, failure.metric, failure.value) for failure in found.failures] == [("boxes", "missed", 2)]
    assert 1 < found.score < math.inf, "the search can climb"
    assert judge([ours], [theirs], parse_tolerances([*bounds, "missed=2"]), evidence=BOXES).passed
    assert not judge([ours], [theirs], parse_tolerances([*bounds, "missed=1"]), evidence=BOXES).passed
    more = judge([theirs], [ours], parse_tolerances(bounds), evidence=BOXES)
    assert [(failure.metric, failure.value) for failure in more.failures] == [("extra", 2)]


def test_each_box_is_matched_once() -> None:
    ours = box_outputs(3)
    twice = {name: np.concatenate([value, value[:1]]) for name, value in ours.items()}
    found = judge([ours], [twice], parse_tolerances(["missed=0"]), evidence=BOXES)
    seen = found.outputs["boxes"].detections
    assert seen is not None
    assert (seen.matched, seen.missed, seen.extra) == (3, 0, 1)


def test_the_user_can_say_which_output_holds_boxes() -> None:
    ours = box_outputs(10)
    theirs = {name: value[::-1].copy() for name, value in ours.items()}
    assert not judge([ours], [theirs], parse_tolerances(["boxes:max_abs=1"])).passed
    assert judge([ours], [theirs], parse_tolerances(["boxes:max_abs=1", "boxes:missed=0"])).passed
    assert not judge([{"y": REFERENCE}], [{"y": REFERENCE}], parse_tolerances(["y:missed=0"])).passed, "no boxes there"


def test_boxes_where_there_were_none_are_counted() -> None:
    ours = box_outputs(3)
    nothing = {name: value[:0] for name, value in ours.items()}
    found = judge([nothing], [ours], parse_tolerances(["boxes:extra=2"]), evidence=BOXES)
    assert [(failure.metric, failure.value) for failure in found.failures] == [("extra", 3)]
