"""Rounding to a 16-bit format, exact and in the type of the input.

For a value of size 2^p, or that of the format's smallest normal number if it is smaller, 1.5 * 2^(p + d) is added and
taken away, with d the bits by which the format's fraction is shorter: the sum has no room for more than the format's
bits, and the processor rounds it to the nearest, ties to even. Nothing is rounded twice, so a float64 next to a tie is
rounded as IEEE 754 asks, and subnormal values need no case of their own.
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
        _round_block(flat[start : start + BLOCK], out[start : start + BLOCK], fmt, overflow)
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


def _round_block(x: Array, out: Array, fmt: Format, overflow: Overflow) -> None:
    """`round_to_format` of one small contiguous block, written to `out`."""
    real, word, fraction, exponent, sign = _LAYOUTS[x.dtype.name]
    bits, rounded = x.view(word), out.view(word)
    power = np.empty_like(x)
    np.bitwise_and(bits, exponent, out=power.view(word))  # 2^p of each value; infinity for NaN, too
    top = float(power.max(initial=0.0))
    np.maximum(power, real(fmt.smallest_normal), out=power)
    raised = real(1.5 * 2.0 ** (fraction - fmt.fraction_bits))
    with np.errstate(invalid="ignore", over="ignore"):
        np.multiply(power, raised, out=power)
        np.add(x, power, out=out)
        np.subtract(out, power, out=out)
    np.bitwise_and(bits, sign, out=power.view(word))
    np.bitwise_or(rounded, power.view(word), out=rounded)  # where -x became 0
    if overflow == "saturate":
        _lift(x, out, fmt)
    if 2 * top > fmt.max_finite:
        _mend_large(x, out, fmt, overflow)


def _lift(x: Array, out: Array, fmt: Format) -> None:
    """Make the smallest subnormal of what is smaller than that and not 0."""
    least = x.dtype.type(fmt.smallest_subnormal)
    lost = (np.abs(x) < least) & (x != 0)
    if lost.any():
        out[lost] = np.copysign(least, x[lost])


def _mend_large(x: Array, out: Array, fmt: Format, overflow: Overflow) -> None:
    """Round again what the number added may have been too large for, and see to overflow and infinities.

    NaNs are NaNs already: an infinity was added and taken away.
    """
    size = np.abs(x)
    large = (size >= 2.0**64) & (size < fmt.overflow_from)
    if large.any():
        scaled = x[large] * x.dtype.type(2.0**-64)  # exact
        rounded = np.empty_like(scaled)
        _round_block(scaled, rounded, fmt, "inf")
        out[large] = rounded * x.dtype.type(2.0**64)
    if overflow == "inf":
        past = size >= fmt.overflow_from
        out[past] = np.copysign(np.inf, x[past])
    else:
        past = size > fmt.max_finite
        out[past] = np.copysign(np.where(np.isinf(size[past]), np.inf, fmt.max_finite), x[past])


_LAYOUTS: dict[str, tuple[Any, Any, int, Any, Any]] = {
    "float32": (np.float32, np.uint32, 23, np.uint32(0xFF << 23), np.uint32(1 << 31)),
    "float64": (np.float64, np.uint64, 52, np.uint64(0x7FF << 52), np.uint64(1 << 63)),
}
"""Type -> (it, its bits' type, bits of its fraction, mask of its exponent, its sign)."""
