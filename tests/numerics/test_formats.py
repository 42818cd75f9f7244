"""The constants of the formats, derived again from the field widths and from ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from precision_planner.errors import SelectorError
from precision_planner.numerics import BF16, FP16, Format, get_format

INFO = [(FP16, np.finfo(np.float16)), (BF16, ml_dtypes.finfo(ml_dtypes.bfloat16))]


@pytest.mark.parametrize(("fmt", "info"), INFO, ids=["fp16", "bf16"])
def test_constants_are_those_of_the_type(fmt: Format, info: np.finfo) -> None:
    assert fmt.max_finite == float(info.max)
    assert fmt.smallest_normal == float(info.smallest_normal)
    assert fmt.smallest_subnormal == float(info.smallest_subnormal)
    assert fmt.fraction_bits == info.nmant
    assert fmt.exponent_bits == info.nexp
    assert fmt.bits == info.bits == 16
    assert (fmt.min_exponent, fmt.max_exponent + 1) == (info.minexp, info.maxexp)


@pytest.mark.parametrize("fmt", [FP16, BF16], ids=lambda f: f.name)
def test_constants_follow_from_the_field_widths(fmt: Format) -> None:
    p, e = fmt.fraction_bits, fmt.exponent_bits
    bias = 2 ** (e - 1) - 1
    ulp_at_top = 2.0 ** (bias - p)
    assert fmt.bias == bias
    assert fmt.max_finite == (2 - 2.0**-p) * 2.0**bias
    assert fmt.overflow_from == fmt.max_finite + ulp_at_top / 2
    assert fmt.smallest_normal == 2.0 ** (1 - bias)
    assert fmt.smallest_subnormal == 2.0 ** (1 - bias - p)
    assert fmt.min_subnormal_exponent == 1 - bias - p
    assert fmt.flush_until == fmt.smallest_subnormal / 2
    assert fmt.unit_roundoff == 2.0 ** -(p + 1)


def test_the_thresholds_are_where_the_cast_turns() -> None:
    for fmt, storage in ((FP16, np.float16), (BF16, ml_dtypes.bfloat16)):
        at = np.array([fmt.overflow_from, fmt.flush_until], np.float32)
        inside = np.nextafter(at, np.float32([0, 1]))
        with np.errstate(over="ignore"):
            assert at.astype(storage).astype(np.float32).tolist() == [np.inf, 0.0]
            assert inside.astype(storage).astype(np.float64).tolist() == [fmt.max_finite, fmt.smallest_subnormal]


def test_get_format() -> None:
    assert get_format("fp16") is FP16
    assert get_format(BF16) is BF16
    with pytest.raises(SelectorError, match="fp16 or bf16"):
        get_format("fp8")
