"""Rounding against the table of all values, and against numpy's and ml_dtypes' own casts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from precision_planner.numerics import round_to_format, to_storage
from precision_planner.numerics.rounding import BLOCK

from .oracle import STORAGE, all_values, nearest, neighbours, saturated

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 65504, 65519.996, 65520, -65520, 3.4e38, -3.4e38, 1e-45]


def same(got: np.ndarray, want: np.ndarray) -> None:
    """Equal, NaN with NaN, and -0 apart from +0."""
    np.testing.assert_array_equal(got, want)
    number = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(want[number]))


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_every_pattern_is_its_own_rounding(name: str) -> None:
    values = all_values(name)
    for dtype in (np.float32, np.float64):
        for overflow in ("inf", "saturate"):
            with np.errstate(invalid="ignore"):
                same(round_to_format(values.astype(dtype), name, overflow=overflow), values.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_neighbours_and_ties(name: str, dtype: type) -> None:
    x = neighbours(name, dtype)
    same(round_to_format(x, name).astype(np.float64), nearest(x.astype(np.float64), name))
    got = round_to_format(x, name, overflow="saturate")
    same(got.astype(np.float64), saturated(x.astype(np.float64), name))


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_float32_agrees_with_the_types_own_cast(name: str) -> None:
    x = np.concatenate([neighbours(name, np.float32), np.array(SPECIAL, np.float32)])
    with np.errstate(over="ignore", invalid="ignore"):
        want = x.astype(STORAGE[name])
        same(round_to_format(x, name), want.astype(np.float32))
        assert to_storage(x, name).dtype == STORAGE[name]
        same(to_storage(x, name).astype(np.float32), want.astype(np.float32))


@given(hnp.arrays(np.uint64, st.integers(0, 40)), st.sampled_from(["fp16", "bf16"]))
def test_any_float64_bits(bits: np.ndarray, name: str) -> None:
    with np.errstate(invalid="ignore"):
        x = bits.view(np.float64)
        same(round_to_format(x, name), nearest(x, name))
        same(to_storage(x, name).astype(np.float64), nearest(x, name))
        same(to_storage(x, name, overflow="saturate").astype(np.float64), saturated(x, name))


@given(hnp.arrays(np.uint32, st.integers(0, 40)), st.sampled_from(["fp16", "bf16"]))
def test_any_float32_bits(bits: np.ndarray, name: str) -> None:
    with np.errstate(invalid="ignore"):
        x = bits.view(np.float32)
        wide = x.astype(np.float64)
        same(round_to_format(x, name).astype(np.float64), nearest(wide, name))
        same(round_to_format(x, name, overflow="saturate").astype(np.float64), saturated(wide, name))


def test_float64_is_not_rounded_twice() -> None:
    just_above_a_tie = 1 + 2.0**-11 + 2.0**-40  # float32 would round it to the tie, and the tie to 1
    assert round_to_format(np.array([just_above_a_tie]), "fp16")[0] == 1 + 2.0**-10
    assert to_storage(np.array([just_above_a_tie]), "fp16")[0] == 1 + 2.0**-10
    above_bf16_tie = 1 + 2.0**-8 + 2.0**-40
    assert to_storage(np.array([above_bf16_tie]), "bf16").astype(np.float64)[0] == 1 + 2.0**-7


def test_documented_examples() -> None:
    x = np.array([3.14, 1e-12, 70000.0, -3.4e38, 2.0**-25, 65510.0], np.float32)
    assert round_to_format(x, "fp16").tolist() == [3.140625, 0, np.inf, -np.inf, 0, 65504]
    weak = round_to_format(x, "fp16", overflow="saturate").tolist()
    assert weak == [3.140625, 2.0**-24, 65504, -65504, 2.0**-24, 65504]


def test_shape_and_layout_are_kept_and_the_input_is_not_touched() -> None:
    x = np.arange(2 * BLOCK + 6, dtype=np.float32).reshape(2, -1)[:, ::2] * np.float32(1.001)
    before = x.copy()
    got = round_to_format(x, "fp16")
    assert got.shape == x.shape
    np.testing.assert_array_equal(got, nearest(x.astype(np.float64).ravel(), "fp16").reshape(x.shape))
    np.testing.assert_array_equal(x, before)
    assert round_to_format(np.float32([[]]), "fp16").shape == (1, 0)
    assert round_to_format(np.array(3.14), "fp16").shape == ()


def test_storage_from_the_other_format() -> None:
    half = np.array([1.001953125, 65504, 2.0**-24], np.float16)
    assert to_storage(half, "bf16").astype(np.float64).tolist() == [1.0, 65536.0, 2.0**-24]
    brain = np.array([1e38, 1e-38, 1.0]).astype(ml_dtypes.bfloat16)
    assert to_storage(brain, "fp16").tolist() == [np.inf, 0, 1]
    assert to_storage(brain, "fp16", overflow="saturate").tolist() == [65504, 2.0**-24, 1]
    assert to_storage(half, "fp16") is not half


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="float16"):
        round_to_format(np.ones(2, np.float16), "fp16")
    with pytest.raises(TypeError, match="int64"):
        to_storage(np.ones(2, np.int64), "fp16")
    with pytest.raises(ValueError, match="saturate"):
        round_to_format(np.ones(2), "fp16", overflow="clip")  # type: ignore[arg-type]
