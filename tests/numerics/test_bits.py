"""One value's bits, against numpy and ml_dtypes over every pattern, and by exact fractions beyond them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precision_planner.errors import InputsError
from precision_planner.numerics import decode, get_format, value_bits

from .oracle import STORAGE, all_values, nearest, neighbours, saturated


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_decode_every_pattern(name: str) -> None:
    np.testing.assert_array_equal([decode(bits, name) for bits in range(1 << 16)], all_values(name))


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_encode_values_and_ties(name: str) -> None:
    points = neighbours(name, np.float64)[::31]
    want = nearest(points, name).astype(STORAGE[name]).view(np.uint16)
    assert [value_bits(float(x), name).bits for x in points] == want.tolist()


@given(st.floats(width=64), st.sampled_from(["fp16", "bf16"]))
def test_any_float(x: float, name: str) -> None:
    got = value_bits(x, name)
    assert got.decoded == nearest(np.array([x]), name)[0] or math.isnan(x)
    assert got.saturated == saturated(np.array([x]), name)[0] or math.isnan(x)
    fmt = get_format(name)
    assert got.bits == got.sign << 15 | got.exponent << fmt.fraction_bits | got.fraction
    if got.error is not None and math.isfinite(x):
        assert got.error == float(Fraction(got.decoded) - Fraction(x))


def test_pi_as_the_documentation_has_it() -> None:
    got = value_bits("3.14", "fp16")
    assert (got.hex, got.decoded) == ("0x4248", 3.140625)
    assert got.fields == ("0", "10000", "1001001000")
    assert got.exponent_value == 1
    assert got.error == float(Fraction("3.140625") - Fraction("3.14"))
    assert got.relative_error == pytest.approx(0.000625 / 3.14)
    assert (got.kind, got.outcome, got.census, got.tie) == ("normal", "rounded", "normal", False)
    assert value_bits("3.14", "bf16").hex == "0x4049"


@pytest.mark.parametrize(
    ("text", "bits", "kind", "outcome", "census"),
    [
        ("1e-12", 0x0000, "zero", "flushed to zero", "underflow"),
        ("-1e-12", 0x8000, "zero", "flushed to zero", "underflow"),
        ("70000", 0x7C00, "infinite", "overflowed to infinity", "overflow"),
        ("65504", 0x7BFF, "normal", "exact", "normal"),
        ("65519.99", 0x7BFF, "normal", "rounded", "overflow"),
        ("65520", 0x7C00, "infinite", "overflowed to infinity", "overflow"),
        ("0x1p-24", 0x0001, "subnormal", "exact", "subnormal"),
        ("0x1p-25", 0x0000, "zero", "flushed to zero", "underflow"),
        ("0x1.8p-25", 0x0001, "subnormal", "rounded", "underflow"),
        ("6e-5", 0x03EF, "subnormal", "rounded", "subnormal"),
        ("0", 0x0000, "zero", "exact", "zero"),
        ("-0.0", 0x8000, "zero", "exact", "zero"),
        ("inf", 0x7C00, "infinite", "exact", "infinite"),
        ("-inf", 0xFC00, "infinite", "exact", "infinite"),
        ("nan", 0x7E00, "nan", "exact", "nan"),
        ("1e-999999999999", 0x0000, "zero", "flushed to zero", "underflow"),
        ("-1e999999999999", 0xFC00, "infinite", "overflowed to infinity", "overflow"),
    ],
)
def test_every_class(text: str, bits: int, kind: str, outcome: str, census: str) -> None:
    got = value_bits(text, "fp16")
    assert (got.bits, got.kind, got.outcome, got.census) == (bits, kind, outcome, census)


def test_text_is_read_exactly_and_not_through_float64() -> None:
    assert value_bits("2049", "fp16").decoded == 2048
    assert value_bits("2049", "fp16").tie
    above = value_bits("2049.00000000000000000000001", "fp16")  # float64 reads 2049
    assert above.decoded == 2050
    assert not above.tie


def test_saturated() -> None:
    assert value_bits("-3.4e38", "fp16").saturated == -65504
    assert value_bits("1e-30", "fp16").saturated == 2.0**-24
    assert value_bits("3.14", "fp16").saturated == 3.140625


@pytest.mark.parametrize("text", ["", "abc", "1.2.3", "--1", "0xzz", "1e", "+-3"])
def test_what_is_not_a_number(text: str) -> None:
    with pytest.raises(InputsError, match="is not a number"):
        value_bits(text, "fp16")


def test_json() -> None:
    got = value_bits("-inf", "bf16").to_dict()
    assert got["decoded"] == "-inf"
    assert got["hex"] == "0xff80"
    assert got["error"] == 0.0
