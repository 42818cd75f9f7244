"""Detectors: boxes are matched as sets, by an oracle that tries every assignment."""

from __future__ import annotations

import itertools
import re

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.judging.detections import IOU, Evidence, SetMatcher, iou
from precision_planner.judging.evidence import find_evidence
from precision_planner.model import Model
from precision_planner.model.session import Session

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
INFO = helper.make_tensor_value_info


def model_of(
    nodes: list[onnx.NodeProto], inputs: list, outputs: list, constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "detector", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def detector() -> onnx.ModelProto:
    """Boxes and scores from features by a product each, NonMaxSuppression, and what it selects."""
    nodes = [
        helper.make_node("MatMul", ["features", "w_box"], ["raw_boxes"], "head_box"),
        helper.make_node("MatMul", ["features", "w_score"], ["raw_scores"], "head_score"),
        helper.make_node("Sigmoid", ["raw_scores"], ["scores_nc"]),
        helper.make_node("Transpose", ["scores_nc"], ["scores_cn"], perm=[0, 2, 1]),
        helper.make_node(
            "NonMaxSuppression", ["raw_boxes", "scores_cn", "most", "overlap", "least"], ["selected"], "nms"
        ),
        helper.make_node("Gather", ["selected", "two"], ["places"], axis=1),
        helper.make_node("Gather", ["selected", "one"], ["labels"], axis=1),
        helper.make_node("Squeeze", ["raw_boxes", "zero"], ["flat_boxes"]),
        helper.make_node("Gather", ["flat_boxes", "places"], ["boxes"], axis=0),
        helper.make_node("Squeeze", ["scores_nc", "zero"], ["flat_scores"]),
        helper.make_node("ReduceMax", ["flat_scores"], ["best"], axes=[1], keepdims=0),
        helper.make_node("Gather", ["best", "places"], ["scores"], axis=0),
    ]
    rng = np.random.default_rng(3)
    constants = {
        "w_box": np.eye(6, 4, dtype=np.float32),
        "w_score": np.concatenate([np.zeros((4, 3)), rng.normal(0, 1, (2, 3))]).astype(np.float32),
        "most": np.array(20, np.int64),
        "overlap": np.array(0.5, np.float32),
        "least": np.array(0.3, np.float32),
        "one": np.array(1, np.int64),
        "two": np.array(2, np.int64),
        "zero": np.array([0], np.int64),
    }
    outputs = [INFO("boxes", FLOAT, ["n", 4]), INFO("scores", FLOAT, ["n"]), INFO("labels", INT64, ["n"])]
    return model_of(nodes, [INFO("features", FLOAT, [1, 40, 6])], outputs, constants)


def features(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 400, (40, 2))
    corners = np.concatenate([low, low + rng.uniform(20, 80, (40, 2)), rng.normal(size=(40, 2))], axis=1)
    return {"features": corners[None].astype(np.float32)}


def test_the_graph_tells_a_detector() -> None:
    found = find_evidence(Model.load(detector()))
    assert found.evidence.unordered == {"boxes", "scores", "labels"}
    assert found.evidence.boxes == {"boxes"}
    assert found.before == ("raw_boxes", "scores_cn")
    assert not found.unordered & {"raw_boxes", "scores_nc", "flat_boxes"}


@pytest.mark.parametrize("k", [4, 5, 6, 7])
def test_what_top_k_returns_itself_is_no_box_of_any_width(k: int) -> None:
    nodes = [helper.make_node("TopK", ["x", "k"], ["values", "indices"])]
    outputs = [INFO("values", FLOAT, ["n", k]), INFO("indices", INT64, ["n", k])]
    model = model_of(nodes, [INFO("x", FLOAT, ["n", 9])], outputs, {"k": np.array([k])})
    assert not find_evidence(Model.load(model)).evidence.is_detector
    rng = np.random.default_rng(0)
    with Session(Model.load(model)) as session:
        right = session.run({"x": rng.random((40, 9)).astype(np.float32)})
        other = session.run({"x": rng.random((40, 9)).astype(np.float32)})
    inputs = {"x": np.random.default_rng(0).random((40, 9)).astype(np.float32)}
    found = pp.diff(model, other, inputs, tolerance=["values:sad=1e-2"])
    assert not found.passed
    assert found.outputs["values"].detections is None
    assert pp.diff(model, right, inputs, tolerance=["values:sad=1e-2"]).passed


def test_a_detector_in_fp16_is_compared_as_a_set() -> None:
    found = pp.diff(detector(), detector(), features(), simulate="fp16", layers=True)
    sets = found.outputs["boxes"].detections
    assert sets is not None
    assert sets["matched"] >= 0.9 * sets["reference"] > 10
    assert sets["mean_iou"] > 0.98
    assert set(sets["before"]) == {"raw_boxes", "scores_cn"}
    assert 0 < sets["before"]["raw_boxes"]["rel_l2"] < 1e-3
    assert found.outputs["boxes"].max_abs < 1
    assert "detections of 'boxes' found again" in found.verdict
    assert not {layer.value for layer in found.layers} & {"selected", "places", "boxes", "scores"}


def shuffled(rng: np.random.Generator, count: int, spacing: float = 200.0) -> tuple[dict, dict, np.ndarray]:
    """Detections far apart, the same in another order and slightly moved, and the order."""
    low = np.arange(count)[:, None] * spacing + rng.uniform(0, 20, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(30, 90, (count, 2))], axis=1).astype(np.float32)
    order = rng.permutation(count)
    ours = {
        "boxes": boxes,
        "scores": rng.uniform(0.1, 1, count).astype(np.float32),
        "labels": rng.integers(0, 3, count),
    }
    theirs = {name: value[order] for name, value in ours.items()}
    theirs["boxes"] = theirs["boxes"] + rng.uniform(-1, 1, (count, 4)).astype(np.float32)
    return ours, theirs, order


EVERY = Evidence(
    frozenset({"boxes", "all"}), unordered=frozenset({"boxes", "scores", "labels", "count", "all", "table"})
)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 3))
def test_another_order_is_no_difference(seed: int, count: int, dropped: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs, order = shuffled(rng, count)
    dropped = min(dropped, count - 1)
    theirs = {name: value[dropped:] for name, value in theirs.items()}
    matcher = SetMatcher(EVERY)
    a, b = matcher.align(ours, theirs)
    kept = sorted(order[dropped:].tolist())
    np.testing.assert_array_equal(a["boxes"], ours["boxes"][kept])
    assert np.abs(a["boxes"] - b["boxes"]).max() <= 1
    np.testing.assert_array_equal(a["labels"], b["labels"])
    np.testing.assert_array_equal(a["scores"], b["scores"])
    sets = matcher.found["boxes"].to_dict()
    assert (sets["reference"], sets["candidate"], sets["matched"]) == (count, count - dropped, count - dropped)
    assert (sets["missed"], sets["extra"], sets["max_score_error"]) == (dropped, 0, 0.0)


@pytest.mark.parametrize("form", ["beside", "column", "table"])
def test_scores_are_compared_pair_by_pair(form: str) -> None:
    """Scores in an output of their own, in the fifth column, or one a class, of which the largest counts."""
    ours, theirs, order = shuffled(np.random.default_rng(5), 6)
    moved = np.array([0.0, 0.0, -0.25, 0.0625, 0.0, 0.0], np.float32)
    ours["scores"] = np.linspace(0.5, 0.9, 6, dtype=np.float32)
    theirs["scores"] = (ours["scores"] + moved)[order]
    sides = []
    for side in (ours, theirs):
        if form == "column":
            sides.append({"boxes": np.concatenate([side["boxes"], side["scores"][:, None]], axis=1)})
        elif form == "table":
            sides.append({"boxes": side["boxes"], "table": np.stack([side["scores"] / 2, side["scores"]], axis=1)})
        else:
            sides.append(side)
    matcher = SetMatcher(EVERY)
    matcher.align(*sides)
    sets = matcher.found["boxes"]
    expected = np.sort(np.abs((ours["scores"] + moved).astype(np.float64) - ours["scores"]))
    np.testing.assert_array_equal(np.sort(sets.score_errors), expected)
    assert sets.to_dict()["max_score_error"] == 0.25


def test_boxes_without_scores_have_no_score_error() -> None:
    ours, theirs, _ = shuffled(np.random.default_rng(6), 3)
    matcher = SetMatcher(EVERY)
    matcher.align({"boxes": ours["boxes"]}, {"boxes": theirs["boxes"]})
    assert matcher.found["boxes"].to_dict()["max_score_error"] is None


def test_of_boxes_that_lie_alike_those_with_the_closest_scores_are_a_pair() -> None:
    box = np.array([[0, 0, 10, 10]] * 3, np.float32)
    matcher = SetMatcher(EVERY)
    a, b = matcher.align(
        {"boxes": box, "scores": np.array([0.9, 0.5, 0.1])}, {"boxes": box, "scores": np.array([0.11, 0.88, 0.52])}
    )
    np.testing.assert_array_equal(a["scores"], [0.9, 0.5, 0.1])
    np.testing.assert_array_equal(b["scores"], [0.88, 0.52, 0.11])


def iou_by_pixels(a: np.ndarray, b: np.ndarray) -> float:
    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        return set(itertools.product(range(int(box[0]), int(box[2])), range(int(box[1]), int(box[3]))))

    union = pixels(a) | pixels(b)
    return len(pixels(a) & pixels(b)) / len(union) if union else 0.0


@given(st.lists(st.lists(st.integers(0, 12), min_size=4, max_size=4), min_size=2, max_size=4))
def test_overlap_counts_pixels(boxes: list[list[int]]) -> None:
    array = np.array(boxes, np.float64)
    expected = [[iou_by_pixels(a, b) for b in array] for a in array]
    np.testing.assert_allclose(iou(array, array), expected, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_crowded_boxes_match_as_many_as_any_assignment_allows_within_one(seed: int) -> None:
    """Greedy by overlap, as COCO's evaluation: never worse than half of the best assignment, and each pair valid."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 30, (4, 2))
    boxes = np.concatenate([low, low + 40], axis=1)
    other = boxes[rng.permutation(4)] + rng.uniform(-8, 8, (4, 4))
    scores = rng.uniform(0.1, 1, 4)
    matcher = SetMatcher(EVERY)
    a, b = matcher.align({"boxes": boxes, "scores": scores}, {"boxes": other, "scores": scores})
    overlap = [[iou(x[None], y[None])[0, 0] for y in other] for x in boxes]
    best = max(sum(overlap[i][j] >= IOU for i, j in enumerate(p)) for p in itertools.permutations(range(4)))
    matched = matcher.found["boxes"].to_dict()["matched"]
    assert best / 2 <= matched <= best
    assert all(iou(x[None], y[None])[0, 0] >= IOU for x, y in zip(a["boxes"], b["boxes"], strict=True))


def test_another_class_is_another_object() -> None:
    ours, theirs, _ = shuffled(np.random.default_rng(0), 4)
    theirs["labels"] = theirs["labels"] + 1
    matcher = SetMatcher(EVERY)
    a, _ = matcher.align(ours, theirs)
    assert matcher.found["boxes"].to_dict()["matched"] == 0
    assert a["boxes"].shape == (0, 4)


def test_batches_with_padding_and_a_count() -> None:
    """As efficient NMS plugins give it: [images, most, 4], rows past the count are left over from before."""
    rng = np.random.default_rng(1)
    images = [shuffled(rng, 5) for _ in range(2)]
    pad = {"boxes": np.full((3, 4), 7.0, np.float32), "scores": np.full(3, 0.5, np.float32)}

    def stack(side: int) -> dict[str, np.ndarray]:
        found = {n: np.stack([np.concatenate([image[side][n], pad[n]]) for image in images]) for n in pad}
        return {**found, "count": np.array([[5], [5]])}

    matcher = SetMatcher(EVERY)
    a, b = matcher.align(stack(0), stack(1))
    assert matcher.found["boxes"].to_dict()["matched"] == 10 == matcher.found["boxes"].reference
    assert np.abs(a["boxes"] - b["boxes"]).max() <= 1


def test_centers_and_one_tensor_of_six_columns() -> None:
    ours, theirs, _ = shuffled(np.random.default_rng(2), 5, spacing=90)

    def columns(side: dict[str, np.ndarray]) -> np.ndarray:
        box = side["boxes"]
        center = np.concatenate([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], axis=1)
        return np.concatenate([center, side["scores"][:, None], side["labels"][:, None]], axis=1)[None]

    matcher = SetMatcher(EVERY)
    matcher.align({"all": columns(ours)}, {"all": columns(theirs)})
    assert matcher.found["all"].to_dict()["matched"] == 5


def test_the_indices_of_non_maximum_suppression_are_a_set() -> None:
    rows = np.array([[0, 1, 4], [0, 0, 2], [0, 2, 9]])
    matcher = SetMatcher(Evidence(unordered=frozenset({"s"}), indices=frozenset({"s"})))
    a, b = matcher.align({"s": rows}, {"s": np.array([[0, 2, 9], [0, 1, 4], [0, 0, 3], [0, 0, 5]])})
    np.testing.assert_array_equal(a["s"], rows[[0, 2]])
    np.testing.assert_array_equal(b["s"], rows[[0, 2]])
    sets = matcher.found["s"].to_dict()
    assert (sets["matched"], sets["missed"], sets["extra"], sets["moved"]) == (2, 1, 2, 2)


def test_lost_boxes_make_the_grade() -> None:
    model = detector()
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    weights = next(tensor for tensor in broken.graph.initializer if tensor.name == "w_box")
    weights.CopyFrom(numpy_helper.from_array(np.eye(6, 4, dtype=np.float32) * np.float32(3), "w_box"))
    found = pp.diff(model, broken, features())
    assert found.grade == "garbage"
    assert found.first_divergence is not None
    assert found.first_divergence["value"] == "raw_boxes"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_boxes_that_are_not_finite_are_reported_as_such(bad: float) -> None:
    ours, theirs, _ = shuffled(np.random.default_rng(0), 4)
    theirs["boxes"][1, 2] = bad
    a, b = SetMatcher(EVERY).align(ours, theirs)
    assert not np.isfinite(b["boxes"]).all()
    assert a["boxes"].shape == b["boxes"].shape == (4, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": np.zeros((1, 6, 4), np.float32)},
        {"scores": np.zeros((2, 6, 1), np.float32)},
        {"scores": np.zeros((2, 5), np.float32)},
        {"labels": np.zeros((1, 6), np.int64)},
    ],
)
def test_detections_of_other_shapes_never_pass(changes: dict[str, np.ndarray]) -> None:
    """Of another number of images, of rows that do not belong together: said, as for any output."""
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["scores", "labels"]),
        helper.make_node("Gather", ["table", "labels"], ["boxes"]),
    ]
    outputs = [INFO("boxes", FLOAT, ["n", 6, 4]), INFO("scores", FLOAT, ["n", 6]), INFO("labels", INT64, ["n", 6])]
    constants = {"k": np.array([6]), "table": np.arange(36, dtype=np.float32).reshape(9, 4)}
    model = model_of(nodes, [INFO("x", FLOAT, ["n", 9])], outputs, constants)
    inputs = {"x": np.random.default_rng(0).random((2, 9)).astype(np.float32)}
    with Session(Model.load(model)) as session:
        right = session.run(inputs)
    assert pp.diff(model, right, inputs).grade == "identical"
    found = pp.diff(model, {**right, **changes}, inputs)
    assert (found.grade, found.passed) == ("garbage", False)
    assert re.search(r"has shape \[.+\] in the reference and", found.verdict)
