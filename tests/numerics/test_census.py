"""The census against float64 brute force, over every class of bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precision_planner.numerics import TensorStats, census, count_classes, get_format
from precision_planner.numerics.float32_kernel import BLOCK, TASK

from . import oracle

NAMES = ["fp16", "bf16"]


def check(stats: TensorStats, x: np.ndarray) -> None:
    """Every number of a census is the oracle's."""
    assert stats.size == x.size
    assert stats.dtype == x.dtype.name
    for name in NAMES:
        part = stats.cast(get_format(name))
        got = {
            **asdict(part.classes),
            **{key: getattr(stats, key) for key in ("zeros", "nan", "inf", "min_abs", "max_abs")},
        }
        assert got == asdict(oracle.count(x, name)), name
        want = oracle.errors(x, name)
        for key, value in want.items():
            assert getattr(part, key) == pytest.approx(value, rel=2e-6, abs=1e-12), (name, key)
    check_exponents(stats, x)


def check_exponents(stats: TensorStats, x: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):
        size = np.abs(x.astype(np.float64)).ravel()
    size = size[np.isfinite(size) & (size > 0)]
    exponent = np.clip(np.floor(np.log2(size)), -127, 128)
    # log2 of the last value below a power of two rounds up to it: compare instead
    exponent -= (size < 2.0**exponent) & (exponent > -127)
    values, counts = np.unique(exponent, return_counts=True)
    assert stats.exponents == dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True))
    assert list(stats.exponents) == sorted(stats.exponents)
    assert stats.zeros + stats.nan + stats.inf + sum(stats.exponents.values()) == stats.size


def pieces(x: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    start = 0
    for size in sizes:
        yield x[start : start + size]
        start += size
    yield x[start:]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_value_and_tie_and_what_lies_beside_it(name: str, dtype: type) -> None:
    x = oracle.neighbours(name, dtype)
    check(census(x), x)
    check(census(np.append(x, dtype(np.nan))), np.append(x, dtype(np.nan)))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2.0**-14, 1.0, 65503.0, 65519.0])
def test_every_value_that_the_fast_way_takes(limit: float) -> None:
    x = oracle.neighbours("fp16", np.float32)
    x = x[np.abs(x) < limit]
    check(census(x), x)
    rng = np.random.default_rng(0)
    mixed = np.concatenate([x, rng.standard_normal(3 * BLOCK).astype(np.float32)])
    rng.shuffle(mixed)
    check(census(mixed), mixed)


@pytest.mark.parametrize("name", NAMES)
def test_sixteen_bit_tensors(name: str) -> None:
    storage = oracle.STORAGE[name]
    x = np.arange(1 << 16, dtype=np.uint16).view(storage)
    check(census(x), x)
    few = np.array([1.0, 2.0**-20, 0.0, 1e-30], np.float32).astype(storage).repeat(30)
    check(census(few), few)
    assert census(few).cast(get_format(name)).rel_error == 0


SPECIAL = np.array(
    [0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1e-38, 2.0**-25, 2.0**-24, 65504, 65510, 65520, 3.4e38], np.float32
)


@st.composite
def float32_arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays around the block and task sizes: normal weights of any scale, with all kinds of bits strewn in."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([0, 1, 2, 63, 65, 4097, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7]))
    scale = np.float32(2.0) ** np.float32(draw(st.integers(-40, 12)))
    x = rng.standard_normal(size).astype(np.float32) * scale
    for pool in draw(st.lists(st.sampled_from(["zeros", "special", "bits", "subnormal", "ones"]), max_size=3)):
        where = rng.random(size) < draw(st.sampled_from([0.0001, 0.01, 0.6]))
        n = int(where.sum())
        x[where] = {
            "zeros": lambda n: np.zeros(n, np.float32),
            "special": lambda n: rng.choice(SPECIAL, n),
            "bits": lambda n: rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32),
            "subnormal": lambda n: rng.integers(0, 2**20, n, dtype=np.uint32).view(np.float32),
            "ones": lambda n: np.ones(n, np.float32),
        }[pool](n)
    return x


@pytest.mark.slow
@settings(max_examples=25)
@given(float32_arrays(), st.lists(st.integers(0, 70000), max_size=2))
def test_any_float32_in_any_pieces(x: np.ndarray, sizes: list[int]) -> None:
    check(census(pieces(x, sizes), x.dtype), x)
    want = oracle.count(x, "fp16")
    got = count_classes(pieces(x, sizes))
    assert asdict(want) == {
        "zeros": got.zeros,
        **{key: getattr(got.fp16, key) for key in ("subnormal", "underflow", "overflow", "flushed", "to_inf")},
        "nan": got.nan,
        "inf": got.inf,
        "min_abs": got.min_abs if math.isfinite(got.min_abs) else None,
        "max_abs": got.max_abs if got.max_abs >= 0 else None,
    }


@given(st.lists(st.floats(width=64), max_size=30), st.integers(0, 2))
def test_any_float64(values: list[float], repeat: int) -> None:
    x = np.array(values * (1 + 40 * repeat), np.float64)
    big = np.isfinite(x) & (np.abs(x) > 1e150)
    x[big] = np.copysign(1e150, x[big])  # the oracle's norm squares without care
    small = (x != 0) & (np.abs(x) < 1e-150)
    x[small] = np.copysign(1e-150, x[small])
    check(census(x), x)


def test_float64_extremes_do_not_leave_float64() -> None:
    stats = census(np.array([1.7e308, 1.0]))
    assert stats.max_abs == 1.7e308
    assert stats.fp16.rel_error == math.inf
    assert stats.fp16.rel_error_saturated == pytest.approx(1.0)
    stats = census(np.array([5e-324, 0.0]))
    assert (stats.fp16.rel_error, stats.fp16.lost_norm, stats.min_abs) == (1.0, 1.0, 5e-324)


@pytest.mark.slow
def test_a_tensor_of_several_tasks() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(TASK + 12345).astype(np.float32) * np.float32(0.03)
    x[TASK + 5] = 7e4
    x[17] = -np.inf
    check(census(x), x)


def test_unaligned_bytes_of_a_file() -> None:
    x = np.random.default_rng(4).standard_normal(3 * BLOCK).astype(np.float32)
    raw = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32)
    assert not raw.flags.aligned
    assert census(raw) == census(x)
    assert count_classes(raw).min_abs == count_classes(x).min_abs == census(x).min_abs


def test_normal_weights_are_noise_in_numbers() -> None:
    x = np.random.default_rng(0).normal(0, 0.03, 1 << 20).astype(np.float32)
    stats = census(x)
    assert stats.fp16.classes.subnormal / stats.size == pytest.approx(0.0016, abs=0.0002)
    assert stats.fp16.rel_error < 2.0**-11
    assert stats.fp16.lost_norm < 1e-8


def test_empty_and_zero_tensors() -> None:
    for x in (np.zeros((0, 3), np.float32), np.zeros((4, 5000), np.float32), np.float32([np.nan] * 9)):
        check(census(x), x)
    assert census([], np.dtype(np.float32)).size == 0
    with pytest.raises(TypeError, match="dtype"):
        census([])


def test_other_types_are_refused() -> None:
    for dtype in (np.int32, ml_dtypes.float8_e4m3fn):
        with pytest.raises(TypeError, match="census takes"):
            census(np.ones(3, dtype))
    with pytest.raises(TypeError, match="float64"):
        count_classes(np.ones(3, np.float64))


def test_json_has_no_infinity() -> None:
    stats = census(np.array([7e4, 1.0], np.float32))
    as_json = stats.to_dict()
    assert as_json["rel_error"] is None
    assert as_json["rel_error_saturated"] == pytest.approx((7e4 - 65504) / 7e4, rel=1e-6)
    assert as_json["to_inf"] == as_json["overflow"] == 1
    assert as_json["exponents"] == {"0": 1, "16": 1}
    assert stats.to_dict(get_format("bf16"))["rel_error"] < 2.0**-8
