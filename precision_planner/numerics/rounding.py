"""Rounding to a 16-bit format, exact and in the type of the input.

A value in the format's normal range is rounded on its bits: add half an ulp, less one if the last kept bit is even,
and cut. Below the normal range the spacing is fixed, and adding and subtracting 1.5 * 2^p rounds to it. Neither way
rounds twice, so a float64 next to a tie is rounded as IEEE 754 asks.
"""

from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np

from precision_planner.numerics.formats import FP16, Format, get_format

__all__ = ["Overflow", "round_to_format", "to_storage"]

Overflow = Literal["inf", "saturate"]
Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 15
"""Elements rounded at a time, so that the temporaries stay in the cache."""


def round_to_format(x: Array, precision: str | Format, *, overflow: Overflow = "inf") -> Array:
    """Round to FP16 or BF16 and back.

    round-to-nearest-even, also for subnormals; NaN stays NaN (its payload does not); inf stays inf; -0 stays -0.

    overflow="inf" is IEEE 754 and ONNX Cast: FP16 |x| >= 65520 becomes inf, |x| <= 2^-25 becomes 0 of the same sign.
    overflow="saturate" is TensorRT's weak conversion of weights: finite |x| > 65504 becomes 65504, 0 < |x| < 2^-24
    becomes 2^-24 (for BF16: its largest finite and smallest subnormal value); inf and 0 stay.

    Args:
      x: float32 or float64, any shape.
      precision: "fp16", "bf16" or a `Format`.
      overflow: what becomes of a magnitude that the format cannot hold.

    Returns:
      A new array of x's type and shape; every value in it is one of the format's.

    Raises:
      TypeError: x is neither float32 nor float64 (a 16-bit array is widened by the caller, which is exact).
      ValueError: overflow is neither "inf" nor "saturate".
    Source: IEEE 754-2019, 4.3.1; saturation as measured on TensorRT 8.6.
    """
    fmt = get_format(precision)
    if overflow not in ("inf", "saturate"):
        raise ValueError(f'overflow is "inf" or "saturate", not {overflow!r}')
    x = np.asarray(x)
    if x.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"round_to_format takes float32 or float64, not {x.dtype}: widen it first")
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty_like(flat)
    for start in range(0, flat.size, BLOCK):
        out[start : start + BLOCK] = _round_block(flat[start : start + BLOCK], fmt, overflow)
    return out.reshape(x.shape)


def to_storage(x: Array, precision: str | Format, *, overflow: Overflow = "inf") -> Array:
    """Round to FP16 or BF16 and store the result in that type.

    The treatment of every special value is `round_to_format`'s.

    Args:
      x: float32, float64, float16 or bfloat16, any shape.
      precision: "fp16", "bf16" or a `Format`.
      overflow: what becomes of a magnitude that the format cannot hold.

    Returns:
      float16, or bfloat16 as ml_dtypes has it; the same shape.

    Raises:
      TypeError: x is not one of these types.
    """
    fmt = get_format(precision)
    x = np.asarray(x)
    storage = np.dtype(np.float16 if fmt is FP16 else ml_dtypes.bfloat16)
    if x.dtype == storage:
        return x.copy()
    if x.dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        x = x.astype(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if overflow == "inf" and x.dtype == np.dtype(np.float32):
            return x.astype(storage)  # one rounding, by the type's own conversion
        return round_to_format(x, fmt, overflow=overflow).astype(np.float32).astype(storage)


def _round_block(x: Array, fmt: Format, overflow: Overflow) -> Array:
    """`round_to_format` of one small contiguous block."""
    single = x.dtype == np.dtype(np.float32)
    real: Any = np.float32 if single else np.float64
    word: Any = np.uint32 if single else np.uint64
    width, fraction = (32, 23) if single else (64, 52)
    drop = word(fraction - fmt.fraction_bits)
    one = word(1)
    bits: Any = x.view(word)
    sign = bits & word(1 << (width - 1))
    magnitude = bits ^ sign
    size = magnitude.view(real)

    rounded = magnitude + ((one << (drop - one)) - one) + ((magnitude >> drop) & one)
    rounded = ((rounded >> drop) << drop).view(real)
    with np.errstate(invalid="ignore", over="ignore"):
        shift = real(1.5 * 2.0**fraction * fmt.smallest_subnormal)
        rounded = np.where(size < real(fmt.smallest_normal), (size + shift) - shift, rounded)
        if overflow == "inf":
            rounded[size >= real(fmt.overflow_from)] = np.inf
        else:
            rounded[size > real(fmt.max_finite)] = fmt.max_finite
            rounded[(size > 0) & (size < real(fmt.smallest_subnormal))] = fmt.smallest_subnormal
            rounded[np.isinf(size)] = np.inf
    rounded[np.isnan(size)] = np.nan
    signed: Array = (rounded.view(word) | sign).view(real)
    return signed
