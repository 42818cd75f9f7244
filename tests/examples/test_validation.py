"""The validation against TensorRT 8.6: its verdicts, its recipes of weights, its lowering, its table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from evidence.tensorrt86.validation import __main__ as report
from evidence.tensorrt86.validation import metrics, seeded
from evidence.tensorrt86.validation.lowering import lower
from evidence.tensorrt86.validation.misread import misread
from evidence.tensorrt86.validation.table import WAYS, Row, rows_of, summary
from precision_planner.judging import verdict as planner
from precision_planner.judging.detections import Evidence
from precision_planner.judging.judge import judge

GRADES = {"identical": "fine", "fine": "fine", "degraded": "degraded", "garbage": "garbage", "nonfinite": "non-finite"}
"""The planner's grade -> the validation's, which has no word for no error at all."""


def graded(expected: np.ndarray, actual: np.ndarray) -> str:
    found = judge([{"y": expected}], [{"y": actual}], evidence=Evidence(classes={"y": False}))
    return GRADES[planner.grade_of(found)]


def measured(expected: np.ndarray, actual: np.ndarray) -> dict:
    """Without changes of class, which the planner counts only where there are classes."""
    return {**metrics.compare(expected, actual), "flipped": 0}


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(1, 4), (8, 3), (40, 2), (2, 5, 7), (3, 4, 2, 2), (6,)]),
    noise=st.sampled_from([0.0, 1e-4, 0.0099, 0.0101, 0.03, 0.099, 0.101, 1.0]),
    tie=st.sampled_from([1.0, 1e-3]),
    special=st.sampled_from([None, "same", "new"]),
)
@example(0, (8, 3), 0.03, 1.0, "new")
def test_a_verdict_is_the_planners_grade(
    seed: int, shape: tuple[int, ...], noise: float, tie: float, special: str | None
) -> None:
    rng = np.random.default_rng(seed)
    # rows whose elements lie close together flip at a small error
    expected = (1 + tie * rng.standard_normal(shape)).astype(np.float32)
    error = rng.standard_normal(shape)
    error *= noise * np.linalg.norm(expected.astype(np.float64)) / np.linalg.norm(error)
    actual = (expected + error).astype(np.float32)
    if special == "same":
        expected.flat[0] = -np.inf
    if special in ("same", "new"):
        actual.flat[0] = -np.inf
    assert metrics.verdict({"y": measured(expected, actual)}) == graded(expected, actual)


def test_a_value_that_is_infinite_in_the_reference_alone_is_told_apart() -> None:
    """A mask that was made finite: the validation calls it garbage, the planner grades what FP32 holds finite."""
    expected, actual = np.ones((2, 4), np.float32), np.ones((2, 4), np.float32)
    expected[0, 0], actual[0, 0] = -np.inf, -30000.0
    assert metrics.verdict({"y": measured(expected, actual)}) == "garbage"
    assert graded(expected, actual) == "fine"


def test_every_verdict_comes_up() -> None:
    one = np.ones((4, 8), np.float32)
    one[:, 0] = 2
    wrong = {"fine": one + 0.001, "degraded": one * 1.05, "garbage": one * 1.5, "non-finite": one * np.nan}
    for name, array in wrong.items():
        assert metrics.verdict({"y": measured(one, array), "z": measured(one, one)}) == name
        assert graded(one, array) == name


def test_the_bounds_are_the_planners() -> None:
    assert (metrics.FINE, metrics.GARBAGE, metrics.GARBAGE_FLIPS) == (
        planner.FINE, planner.GARBAGE, planner.GARBAGE_FLIPS
    )  # fmt: skip


def weights(**arrays: np.ndarray) -> onnx.ModelProto:
    """A model that holds some initializers; what it computes is of no interest."""
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, next(iter(arrays.values())).shape)
    node = helper.make_node("Identity", [next(iter(arrays))], ["y"])
    return helper.make_model(helper.make_graph([node], "g", [], [y], tensors))


def arrays_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(64, 64), (16, 8, 5, 5), (300, 40)]),
    mean=st.floats(-0.5, 0.5),
    std=st.sampled_from([1e-3, 0.02, 1.0]),
)
def test_random_weights_come_back_with_their_mean_and_deviation(
    seed: int, shape: tuple[int, ...], mean: float, std: float
) -> None:
    array = np.random.default_rng(seed).normal(mean * std, std, shape).astype(np.float32)
    small = np.random.default_rng(seed).standard_normal(7).astype(np.float32)
    model = weights(w=array, b=small)
    recipes = seeded.strip(model)
    assert set(recipes) == {"w"}
    assert len(model.SerializeToString()) < 1000
    back = arrays_of(seeded.restore(model, recipes))
    assert back["w"].shape == shape
    # the mean of n numbers of deviation s is off by s / sqrt(n), their deviation by s / sqrt(2 n)
    bound = 6 * std / math.sqrt(array.size)
    assert abs(back["w"].mean(dtype=np.float64) - array.mean(dtype=np.float64)) < bound
    assert abs(back["w"].std(dtype=np.float64) - array.std(dtype=np.float64)) < bound
    np.testing.assert_array_equal(back["b"], small)


def test_two_exports_of_a_module_get_the_same_weights() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((64, 48)).astype(np.float32) for _ in range(2))
    first, second = weights(**{"a.weight": a, "b.weight": b}), weights(**{"onnx::MatMul_1": a.T, "onnx::MatMul_2": b.T})
    one = list(arrays_of(seeded.restore(first, seeded.strip(first))).values())
    two = list(arrays_of(seeded.restore(second, seeded.strip(second))).values())
    assert abs(np.corrcoef(one[0].ravel(), one[1].ravel())[0, 1]) < 0.1
    for x, y in zip(one, two, strict=True):
        # as many numbers of one generator, laid out by either shape
        np.testing.assert_allclose(np.sort(x, axis=None), np.sort(y, axis=None), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "array",
    [
        np.tril(np.ones((64, 64), np.float32)),
        np.outer(np.arange(64), 1 / np.arange(1, 65)).astype(np.float32),
        np.repeat(np.random.default_rng(0).standard_normal((64, 16)), 4, axis=1).astype(np.float32),
        np.where(np.arange(4096).reshape(64, 64) % 700 == 0, 300, np.random.default_rng(0).standard_normal((64, 64))),
    ],
    ids=["mask", "table", "repeated", "outliers"],
)
def test_what_is_not_random_is_kept_as_it_is(array: np.ndarray) -> None:
    model = weights(w=array.astype(np.float32))
    assert seeded.strip(model) == {}
    np.testing.assert_array_equal(arrays_of(model)["w"], array.astype(np.float32))


def opset_18(nodes: list[onnx.NodeProto], rank: int = 3, reads: int = 3, **constants: list[Any]) -> onnx.ModelProto:
    """x -> y of so many axes (x: `reads`), with int64 constants."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * reads)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return cast(np.ndarray, session.run(None, {"x": x})[0])


X = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)


@pytest.mark.parametrize("axes", [[0], [-1], [1, 2]])
@pytest.mark.parametrize("held", ["initializer", "Constant"])
def test_a_reduction_keeps_its_axes(axes: list[int], held: str) -> None:
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1, noop_with_empty_axes=0)]
    if held == "Constant":
        nodes.insert(0, helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array(axes))))
    model = lower(opset_18(nodes, **({"axes": axes} if held == "initializer" else {})))
    assert [o.version for o in model.opset_import] == [17]
    assert [len(node.input) for node in model.graph.node if node.op_type == "ReduceMean"] == [1]
    np.testing.assert_allclose(
        run(model, X), X.mean(tuple(axes), keepdims=True, dtype=np.float64), rtol=1e-5, atol=1e-6
    )


def test_a_split_keeps_its_parts() -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=2, num_outputs=2),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ]
    np.testing.assert_array_equal(run(lower(opset_18(nodes)), X), X[..., :3] - X[..., 3:])


def test_a_sum_keeps_its_axes_as_an_input() -> None:
    model = lower(opset_18([helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)], 2, axes=[1]))
    assert len(model.graph.node[0].input) == 2
    np.testing.assert_allclose(run(model, X), X.sum(1, dtype=np.float64), rtol=1e-5, atol=1e-6)


def test_a_resize_is_the_same() -> None:
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode="nearest", nearest_mode="floor", antialias=0,
        coordinate_transformation_mode="asymmetric", keep_aspect_ratio_policy="stretch",
    )  # fmt: skip
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    found = run(lower(opset_18([node], 4, 4, sizes=[1, 1, 8, 8])), x)
    np.testing.assert_array_equal(found, x.repeat(2, 2).repeat(2, 3))


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=1),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], axes=[2, 3]),
        helper.make_node("Pad", ["x", "sizes", "", "sizes"], ["y"]),
    ],
    ids=["antialias", "axes", "pad"],
)
def test_what_17_cannot_say_is_an_error(node: onnx.NodeProto) -> None:
    with pytest.raises(ValueError, match="no opset 17 form"):
        lower(opset_18([node], sizes=[8, 8]))


def test_a_misread_transpose_is_the_bytes_in_another_shape() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 6])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 6, 4]) for name in ("y", "z")]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="t", perm=[0, 2, 1]),
        helper.make_node("Neg", ["t"], ["y"], name="wrong"),
        helper.make_node("Neg", ["t"], ["z"], name="right"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    changed = misread(model, {"wrong"})
    onnx.checker.check_model(changed, full_check=True)
    session = ort.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
    wrong, right = session.run(["y", "z"], {"x": X})
    np.testing.assert_array_equal(wrong, -X.reshape(2, 6, 4))
    np.testing.assert_array_equal(right, -X.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="reads no Transpose"):
        misread(model, {"t"})


def line(kind: str = "fp16", error: float | None = 1e-3, **more: Any) -> str:
    """A line of results.jsonl; NaN as the GPU machine writes it."""
    one = {"rel_l2": error, "sad": 0.1, "max_abs": 0.1, "rows": 1, "flipped": 0, "nonfinite": 0}
    found = {"id": f"m.{kind}", "case": "m", "kind": kind, "outputs": {"y": one | {"nonfinite_reference": 0}}}
    return json.dumps(found | more) + "\n"


def merged(tmp_path: Path, *runs: str) -> dict[str, Any]:
    found: dict[str, Any] = {"cases": {}, "engines": {}, "parts": {}}
    paths = [tmp_path / f"{number}.jsonl" for number in range(len(runs))]
    for path, text in zip(paths, runs, strict=True):
        path.write_text(text)
    report.merge(found, tmp_path, paths)
    return found


def test_a_failure_replaces_no_measurement_and_a_later_measurement_does(tmp_path: Path) -> None:
    failed = json.dumps({"id": "m.fp16", "case": "m", "kind": "fp16", "error": "over its limit"}) + "\n"
    found = merged(tmp_path, failed, line(error=1e-3), line(error=2e-3), failed)
    assert [engine["outputs"]["y"]["rel_l2"] for engine in found["engines"].values()] == [2e-3]
    assert [engine["error"] for engine in merged(tmp_path, failed)["engines"].values()] == ["over its limit"]


def test_a_nan_is_kept_as_null(tmp_path: Path) -> None:
    found = merged(tmp_path, line(error=math.nan))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["engines"]["m.fp16.L3"]["outputs"]["y"]["rel_l2"] is None


def row(predicted: float, measured: float, verdicts: tuple[str, str] = ("fine", "fine")) -> Row:
    return Row("m", "e 17", "fp16", 3, {"fp16-sums": predicted}, measured, verdicts, None)


def test_what_counts_as_close() -> None:
    assert row(3e-3, 1e-3).close("fp16-sums")
    assert not row(3.1e-3, 1e-3).close("fp16-sums")
    assert not row(0.32e-3, 1e-3).close("fp16-sums")
    assert row(math.nan, math.nan).close("fp16-sums")
    assert not row(math.nan, 1e-3).close("fp16-sums")
    assert not row(1e-3, math.nan).close("fp16-sums")
    assert not row(1e-3, 1e-6).used
    assert row(1e-3, math.nan).used


def test_the_documentation_has_the_table_of_the_results() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text(encoding="utf-8")
    assert report.report(json.loads(report.RESULTS.read_text())) in text, (
        "put into docs/simulation.md what `python -m evidence.tensorrt86.validation` prints"
    )


def engine(kind: str, level: int, error: float | None) -> dict[str, Any]:
    """An engine of results.json; not built where there is no error."""
    about: dict[str, Any] = {"case": "m", "kind": kind, "level": level}
    return about | ({"error": "slow"} if error is None else json.loads(line(kind, error)))


def test_a_model_counts_once_by_its_highest_level() -> None:
    outputs = json.loads(line(error=1e-3))["outputs"]
    case = {"exporter": "e", "opset": 17, "predicted": {way: {"outputs": outputs} for way in WAYS}}
    engines = [engine("fp16", 0, 0.5), engine("half", 3, None), engine("fp16", 1, 1e-3), engine("half", 1, 0.5)]
    found = {"cases": {"m": case}, "engines": dict(enumerate([*engines, engine("fp16", 2, None)]))}
    rows = rows_of(found)
    assert [(row.level, row.kind) for row in rows] == [(1, "fp16"), (1, "half"), (0, "fp16")]
    lines = summary(rows, found)
    assert lines[0].startswith("`--fp16` or forced half: 1 models, verdict right in 1,")
    assert lines[2].startswith("forced half: 1 models, verdict right in 0,")
    assert "Missed: m at level 0, m at level 1." in lines
    assert "Tried, but not built in the time there was: m (forced half at level 3, `--fp16` at level 2)." in lines


def test_engines_with_the_error_of_misread_planes_are_told_from_others() -> None:
    outputs = json.loads(line(error=1e-3))["outputs"]
    case = {"exporter": "e", "opset": 17, "predicted": {way: {"outputs": outputs} for way in WAYS}}
    engines = dict(enumerate([engine("fp16", 3, 0.8645), engine("half", 3, 0.5), engine("fp16", 1, 1e-3)]))
    found: dict[str, Any] = {"cases": {"m": case}, "engines": engines}
    for misread_error, count in (({"m": 0.8644}, 1), ({"m": 0.7}, 0), ({}, 0)):
        lines = summary(rows_of(found), found | {"misread": misread_error})
        (said,) = (one for one in lines if "misread planes" in one)
        assert said.startswith(f"Of the 2 engines missed {count} have")
        assert said.endswith(f"otherwise: {2 - count}.")
