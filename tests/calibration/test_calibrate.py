"""Ranges against numpy, and the errors of a reference that is not finite."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from precision_planner.calibration import SQUARES, calibrate
from precision_planner.calibration.ranges import Accumulator
from precision_planner.errors import CalibrationError, InputsError
from precision_planner.model import Model
from tests.simulation.models import FLOAT, INT64, chain, model, scan_behind


def test_ranges_are_numpys_over_all_batches() -> None:
    generator = np.random.default_rng(0)
    batches = [
        {"x": (generator.normal(size=n) * 10.0 ** generator.integers(-9, 4, n)).astype(np.float32)}
        for n in (70_000, 3, 500)
    ]
    batches[1]["x"][0] = 0.0
    found = calibrate(Model.load(chain(FLOAT, 100.0)), batches)[(), "y"]
    values = np.concatenate([batch["x"] for batch in batches]) * np.float32(100)
    size = np.abs(values)
    assert found.amax == size.max()
    assert found.amin == size[size > 0].min()
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.overflow == pytest.approx((size >= 65520).mean())
    assert found.subnormal == pytest.approx(((size > 0) & (size < 2.0**-14)).mean())
    assert found.flushed == pytest.approx(((size > 0) & (size <= 2.0**-25)).mean())
    assert (found.batches, found.elements, found.longest) == (3, values.size, 70_000)
    assert found.headroom() == 65504 / size.max()
    assert not found.synthesised


def test_synthesised_data_is_marked() -> None:
    found = calibrate(Model.load(chain(FLOAT, 1.0)))
    assert found[(), "y"].synthesised
    assert found[(), "y"].batches == 3


def test_squares_inside_a_norm_are_derived() -> None:
    source = model(
        [helper.make_node("LayerNormalization", ["x", "g"], ["y"], axis=-1)],
        {"x": (FLOAT, ["n", 4])},
        {"y": (FLOAT, ["n", 4])},
        {"g": np.ones(4, np.float32)},
    )
    x = np.array([[2500.0, 0, 0, 0]], np.float32)
    found = calibrate(Model.load(source), {"x": x})[(), "y" + SQUARES]
    assert found.amax == pytest.approx((2500 - 625.0) ** 2)
    assert found.derived


def test_a_scan_behind_the_first_block_runs() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = calibrate(Model.load(scan_behind(40)), {"x": x})
    assert found[(), "y"].amax == (x.sum(axis=0) + np.cumsum(x, axis=0)).max()


def test_a_resize_to_computed_sizes_behind_the_first_block_runs() -> None:
    """onnxruntime loads no Resize whose sizes are a list of unknown length: those of DINOv2's and BEiT's positions."""
    nodes = [helper.make_node("Relu", ["x"], ["v0"])]
    nodes += [helper.make_node("Relu", [f"v{at}"], [f"v{at + 1}"]) for at in range(40)]
    nodes.insert(1, helper.make_node("Shape", ["x"], ["shape"]))
    nodes.insert(2, helper.make_node("Mul", ["shape", "twice"], ["sizes"]))
    nodes.append(helper.make_node("Transpose", ["v40"], ["t"], perm=[0, 1, 2, 3]))
    nodes.append(helper.make_node("Resize", ["t", "", "", "sizes"], ["y"], mode="nearest"))
    shape = ["b", 2, 3, 3]
    source = model(nodes, {"x": (FLOAT, shape)}, {"y": (FLOAT, ["b", 2, 6, 6])}, {"twice": np.array([1, 1, 2, 2])})
    x = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)
    found = calibrate(Model.load(source), {"x": x})
    assert found[(), "y"].amax == 17


def test_a_sparse_constant_is_not_fetched() -> None:
    values, indices = helper.make_tensor("v", FLOAT, [2], [2.0, -3.0]), helper.make_tensor("i", INT64, [2], [0, 3])
    nodes = [
        helper.make_node("Constant", [], ["c"], sparse_value=helper.make_sparse_tensor(values, indices, [2, 2])),
        helper.make_node("MatMul", ["x", "c"], ["y"]),
    ]
    source = Model.load(model(nodes, {"x": (FLOAT, [1, 2])}, {"y": (FLOAT, [1, 2])}))
    assert calibrate(source, {"x": np.array([[5.0, 7.0]], np.float32)})[(), "y"].amax == 21.0


def test_integers_are_no_magnitudes() -> None:
    source = model(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        {"ids": (INT64, ["n"])},
        {"y": (FLOAT, ["n", 2])},
        {"table": np.ones((9, 2), np.float32)},
    )
    assert set(calibrate(Model.load(source), {"ids": np.array([8, 7])})) == {((), "y")}


def reciprocal(op: str = "Reciprocal") -> Model:
    nodes = [helper.make_node(op, ["x"], ["r"], name="bad"), helper.make_node("Neg", ["r"], ["y"], name="later")]
    return Model.load(model(nodes, {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])}))


@pytest.mark.parametrize(("op", "value", "what"), [("Reciprocal", 0.0, "infinity"), ("Sqrt", -1.0, "NaN")])
def test_the_first_node_that_is_not_finite_is_named(op: str, value: float, what: str) -> None:
    with pytest.raises(CalibrationError, match=rf"{what} at bad \({op}\)"):
        calibrate(reciprocal(op), {"x": np.array([1.0, value], np.float32)})


@pytest.mark.parametrize(("op", "value"), [("Log", 0.0), ("Sqrt", -1.0)])
def test_what_no_output_shows_is_no_error(op: str, value: float) -> None:
    """T5 takes the log of distance 0 and has a Where discard it."""
    nodes = [
        helper.make_node(op, ["x"], ["l"]),
        helper.make_node("Neg", ["l"], ["n"]),
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("Where", ["positive", "n", "x"], ["y"]),
    ]
    source = model(nodes, {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])}, {"zero": np.zeros(1, np.float32)})
    ranges = calibrate(Model.load(source), {"x": np.array([4.0, value], np.float32)})
    expected = {"Log": np.log(4.0), "Sqrt": 2.0}[op]
    assert ranges[(), "l"].amax == pytest.approx(expected)
    assert ranges[(), "n"].amax == pytest.approx(expected)


def test_inputs_must_be_finite() -> None:
    with pytest.raises(CalibrationError, match=r"input 'x' .* holds NaN"):
        calibrate(reciprocal(), {"x": np.array([np.nan], np.float32)})


def test_an_infinite_mask_is_no_error_and_no_magnitude() -> None:
    source = model(
        [
            helper.make_node("Where", ["m", "zero", "low"], ["mask"]),
            helper.make_node("Add", ["x", "mask"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["y"]),
        ],
        {"x": (FLOAT, [1, 3]), "m": (9, [1, 3])},
        {"y": (FLOAT, [1, 3])},
        {"zero": np.float32(0), "low": np.float32(-np.inf)},
    )
    found = calibrate(
        Model.load(source), {"x": np.array([[1, 2, 3]], np.float32), "m": np.array([[True, True, False]])}
    )
    assert found[(), "scores"].amax == 2
    assert found[(), "scores"].elements == 2


def test_no_batch_is_an_error() -> None:
    with pytest.raises(InputsError, match="gave no batch"):
        calibrate(reciprocal(), [])


def test_an_accumulator_of_zeros() -> None:
    counts = Accumulator()
    counts.add(np.zeros(5, np.float32))
    found = counts.range()
    assert (found.amax, found.amin, found.headroom()) == (0, None, float("inf"))


def masked(factor: float, twice: bool = True) -> Model:
    """y = x + (m * factor) * 2, once more doubled where `twice`."""
    nodes = [
        helper.make_node("Mul", ["m", "factor"], ["mask"]),
        helper.make_node("Add", ["mask", "mask"], ["sum"], "doubling"),
        helper.make_node("Add", ["sum", "sum"] if twice else ["sum", "x"], ["more"], "more"),
        helper.make_node("Add", ["x", "more"], ["y"], "last"),
    ]
    return Model.load(
        model(nodes, {"x": (FLOAT, [2]), "m": (FLOAT, [2])}, {"y": (FLOAT, [2])}, {"factor": np.float32(factor)})
    )


FEEDS = {"x": np.array([1, 2], np.float32), "m": np.array([0, 1], np.float32)}


@pytest.mark.parametrize("factor", [-3.4e38, -2e38])
def test_infinity_that_masks_make_is_meant(factor: float) -> None:
    """-3.4e38 and what is made of it are masks: two of them are -inf, and so is what follows."""
    found = calibrate(masked(factor), FEEDS)
    assert found[(), "mask"].amax == np.float32(-factor)
    assert found[(), "y"].amax == 1, "infinities are no magnitude"


def test_infinity_that_no_mask_explains_is_an_error() -> None:
    source = model(
        [helper.make_node("Exp", ["x"], ["e"], "grows"), helper.make_node("Mul", ["e", "e"], ["y"], "square")],
        {"x": (FLOAT, [1])},
        {"y": (FLOAT, [1])},
        {},
    )
    assert calibrate(Model.load(source), {"x": np.array([40], np.float32)})[(), "y"].amax > 1e34
    with pytest.raises(CalibrationError, match=r"infinity at square \(Mul\)"):
        calibrate(Model.load(source), {"x": np.array([80], np.float32)})


def test_what_is_suspect_stays_so_behind_a_mask() -> None:
    source = model(
        [
            helper.make_node("Reciprocal", ["x"], ["bad"], "bad"),
            helper.make_node("Add", ["bad", "low"], ["y"], "masked"),
        ],
        {"x": (FLOAT, [1])},
        {"y": (FLOAT, [1])},
        {"low": np.float32(-3e38)},
    )
    with pytest.raises(CalibrationError, match=r"infinity at bad \(Reciprocal\)"):
        calibrate(Model.load(source), {"x": np.zeros(1, np.float32)})


@pytest.mark.parametrize(("factor", "x", "meant"), [(-3e38, 10.0, True), (1e30, 1e10, False)])
def test_a_constant_as_large_as_a_mask_explains_an_infinity(factor: float, x: float, meant: bool) -> None:
    node = helper.make_node("Mul", ["x", "c"], ["y"], "product")
    source = Model.load(model([node], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])}, {"c": np.float32(factor)}))
    feeds = {"x": np.array([x], np.float32)}
    if meant:
        assert calibrate(source, feeds)[(), "y"].elements == 0
    else:
        with pytest.raises(CalibrationError, match="infinity at product"):
            calibrate(source, feeds)


def test_an_empty_constant_explains_none() -> None:
    nodes = [
        helper.make_node("Concat", ["x", "none"], ["all"], axis=0),
        helper.make_node("Reciprocal", ["all"], ["y"], "bad"),
    ]
    source = model(nodes, {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])}, {"none": np.zeros(0, np.float32)})
    with pytest.raises(CalibrationError, match="infinity at bad"):
        calibrate(Model.load(source), {"x": np.zeros(1, np.float32)})
