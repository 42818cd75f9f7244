"""TF32 operands: truncation bit by bit, and which products truncate; numpy's masked bits are the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from precision_planner.errors import ConversionError
from precision_planner.model import GraphIndex, Model
from precision_planner.model.session import Session
from precision_planner.simulation import prepare
from precision_planner.simulation.plans import element_types, with_tf32
from precision_planner.simulation.rounding import RoundingPlan, apply_rounding, round_weights
from precision_planner.simulation.schemas import TF32, TF32_TRUNCATED
from precision_planner.simulation.simulate import open_simulation
from tests.simulation.models import FLOAT, model

KEPT = 0xFFFFE000


def masked(x: np.ndarray) -> np.ndarray:
    """The float32 whose lower 13 bits are zero."""
    return (np.asarray(x, np.float32).view(np.uint32) & np.uint32(KEPT)).view(np.float32)


@pytest.fixture(scope="module")
def truncation():
    """A function that truncates an array by the nodes of a simulation."""
    graph = model([helper.make_node("Identity", ["x"], ["y"])], {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])})
    rounded = apply_rounding(Model.load(graph), RoundingPlan(edges={((), 0, 0): TF32_TRUNCATED}))
    with Session(rounded) as session:
        yield lambda x: session.run({"x": x})["y"]


def assert_truncated(found: np.ndarray, x: np.ndarray) -> None:
    nan = np.isnan(x)
    assert np.isnan(found[nan]).all()
    np.testing.assert_array_equal(found[~nan].view(np.uint32), masked(x)[~nan].view(np.uint32))


def interesting() -> np.ndarray:
    """Of every sign and exponent: values that are kept, ties, the ends, their neighbors, and some at random."""
    rng = np.random.default_rng(0)
    kept = np.arange(0, 1 << 23, 1 << 13)
    fractions = np.concatenate([kept, kept + (1 << 12), rng.integers(0, 1 << 23, 256)])
    fractions = np.unique(np.concatenate([fractions + step for step in (-1, 0, 1)]) % (1 << 23))
    heads = np.arange(1 << 9) << 23  # sign and exponent, those of infinity and NaN among them
    return (heads[:, None] + fractions).astype(np.uint32).view(np.float32).reshape(-1)


@pytest.mark.slow
def test_truncation_masks_bits_at_every_exponent(truncation) -> None:
    x = interesting()
    assert {0, 0x80000000, 0x7F800000, 0xFF800000, 1, 0x80000001} <= set(x.view(np.uint32).tolist())
    assert_truncated(truncation(x), x)
    assert_truncated(round_weights(x, TF32_TRUNCATED, "saturate"), x)


def test_every_subnormal_of_the_lowest_steps_and_many_zeros(truncation) -> None:
    """Long runs of one kind, for kernels go through several elements at once."""
    for sign in (0, 0x80000000):
        tiny = (np.arange(1 << 15) + sign).astype(np.uint32).view(np.float32)
        assert_truncated(truncation(tiny), tiny)
        zeros = np.full(1003, sign, np.uint32).view(np.float32)
        assert_truncated(truncation(zeros), zeros)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_truncation_masks_the_bits_of_anything(truncation, bits: list[int]) -> None:
    x = np.array(bits, np.uint32).view(np.float32)
    assert_truncated(truncation(x), x)


def kinds(source, tf32) -> dict[tuple[str, int], int]:
    """(output of a product, operand) -> what its operand is rounded to."""
    loaded = Model.load(source)
    index = GraphIndex(loaded.proto)
    plan = with_tf32(RoundingPlan(), index, element_types(loaded, index), tf32)
    return {(index.by_path[path].nodes[at].output[0], slot): kind for (path, at, slot), kind in plan.edges.items()}


def products(opset: int = 13):
    """A product with a weight, with a transposed weight, with what a caller may override, of two computed values."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["weight"]),
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("MatMul", ["x", "wt"], ["transposed"]),
        helper.make_node("MatMul", ["x", "given"], ["override"]),
        helper.make_node("MatMul", ["weight", "transposed"], ["both"]),
    ]
    names = ("weight", "transposed", "override", "both")
    made = model(
        nodes,
        {"x": (FLOAT, [32, 32]), "given": (FLOAT, [32, 32])},
        {name: (FLOAT, [32, 32]) for name in names},
        {name: rng.standard_normal((32, 32)).astype(np.float32) for name in ("w", "given")},
    )
    made.opset_import[0].version = opset
    return made


def test_only_products_of_two_computed_values_truncate() -> None:
    found = kinds(products(), "truncated")
    truncating = {name for (name, _), kind in found.items() if kind == TF32_TRUNCATED}
    assert truncating == {"override", "both"}
    assert len(found) == 8
    assert set(kinds(products(), True).values()) == set(kinds(products(), "nearest").values()) == {TF32}
    assert not kinds(products(), False)
    assert set(kinds(products(8), "truncated").values()) == {TF32}  # Where came with opset 9


def test_a_body_sees_the_constants_around_it() -> None:
    inner = [
        helper.make_node("MatMul", ["h", "w"], ["a"]),
        helper.make_node("MatMul", ["h", "a"], ["b"]),
    ]
    outputs = [helper.make_tensor_value_info("b", FLOAT, [4, 4])]
    body = helper.make_graph(inner, "body", [], outputs)
    other = helper.make_graph([helper.make_node("Identity", ["h"], ["c"])], "other", [],
                              [helper.make_tensor_value_info("c", FLOAT, [4, 4])])  # fmt: skip
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=other),
    ]
    weights = {"w": np.eye(4, dtype=np.float32), "yes": np.array(True)}
    made = model(nodes, {"x": (FLOAT, [4, 4])}, {"y": (FLOAT, [4, 4])}, weights)
    assert kinds(made, "truncated") == {
        ("a", 0): TF32, ("a", 1): TF32, ("b", 0): TF32_TRUNCATED, ("b", 1): TF32_TRUNCATED
    }  # fmt: skip


def test_a_simulated_product_is_that_of_truncated_operands() -> None:
    """Against numpy: bits masked, sums in float64; sums of 64 differ by FP32's rounding."""
    rng = np.random.default_rng(2)
    x, y = (rng.uniform(0.5, 2.0, (64, 64)).astype(np.float32) for _ in range(2))
    source = model(
        [helper.make_node("MatMul", ["x", "y"], ["z"])],
        {"x": (FLOAT, [64, 64]), "y": (FLOAT, [64, 64])},
        {"z": (FLOAT, [64, 64])},
    )
    results = {}
    for tf32 in ("nearest", "truncated"):
        with open_simulation(prepare(source, keep_fp32=["MatMul"], precision="fp16", tf32=tf32)) as session:
            results[tf32] = session.run({"x": x, "y": y})["z"].astype(np.float64)
    expected = masked(x).astype(np.float64) @ masked(y).astype(np.float64)
    np.testing.assert_allclose(results["truncated"], expected, rtol=1e-6)
    exact = x.astype(np.float64) @ y.astype(np.float64)
    # the bias of truncation: half a unit of each operand, all in one direction
    assert np.all(results["truncated"] < exact)
    assert np.abs(results["nearest"] - exact).max() < np.abs(results["truncated"] - exact).min()


def test_one_value_may_be_read_rounded_and_truncated() -> None:
    x = np.array([[1 + 2.0**-11 + 2.0**-12]], np.float32)
    nodes = [helper.make_node("MatMul", ["x", "x"], ["a"]), helper.make_node("MatMul", ["x", "one"], ["b"])]
    source = model(
        nodes,
        {"x": (FLOAT, [1, 1])},
        {"a": (FLOAT, [1, 1]), "b": (FLOAT, [1, 1])},
        {"one": np.ones((1, 1), np.float32)},
    )
    with open_simulation(prepare(source, keep_fp32=["MatMul"], precision="fp16", tf32="truncated")) as session:
        found = session.run({"x": x})
    assert (found["a"].item(), found["b"].item()) == (1.0, 1 + 2.0**-10)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ConversionError, match="tf32 'up' is unknown; use nearest or truncated"):
        prepare(products(), tf32="up")  # type: ignore[arg-type]


def test_the_types_are_no_tensor_types() -> None:
    assert not {TF32, TF32_TRUNCATED} & set(TensorProto.DataType.values())
