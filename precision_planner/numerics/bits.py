"""One value, taken apart: what FP16 or BF16 makes of it, bit by bit and without any rounding on the way.

The value is kept as a fraction, so "2049.0000000000000000001" is known to lie above the tie at 2049, which float64
does not see.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from precision_planner.errors import InputsError
from precision_planner.numerics.formats import Format, get_format

__all__ = ["ValueBits", "decode", "encode", "value_bits"]

TINY_DECADE = -400
"""Decimal exponents beyond this (and past its mirror image) change nothing for a 16-bit format: see `_parse`."""


@dataclass(frozen=True, slots=True)
class ValueBits:
    """A value in a 16-bit format.

    Attributes:
      text: the value as it was given.
      format: "fp16" or "bf16".
      bits: the 16 bits as an integer.
      sign: 0 or 1.
      exponent: the exponent field as stored; `exponent_value` is what it stands for (None for infinity and NaN).
      fraction: the fraction field as stored.
      decoded: the value that the bits stand for.
      error: decoded - value; None where either is infinite or NaN and they are not the same.
      relative_error: |error| / |value|; None where error is, and for a value of zero.
      kind: what the bits hold: "zero", "subnormal", "normal", "infinite" or "nan".
      outcome: what happened: "exact", "rounded", "flushed to zero", "overflowed to infinity".
      census: the census class by TensorRT's thresholds: "zero", "underflow" (0 < |x| < smallest subnormal),
        "subnormal", "normal", "overflow" (finite, past the largest finite value), "infinite" or "nan".
      tie: the value lay half way between two neighbours and went to the even one.
      saturated: the value TensorRT's weak conversion of weights stores instead.
    """

    text: str
    format: str
    bits: int
    sign: int
    exponent: int
    exponent_value: int | None
    fraction: int
    decoded: float
    error: float | None
    relative_error: float | None
    kind: str
    outcome: str
    census: str
    tie: bool
    saturated: float

    @property
    def hex(self) -> str:
        """The 16 bits as 0x4248."""
        return f"0x{self.bits:04x}"

    @property
    def fields(self) -> tuple[str, str, str]:
        """Sign, exponent and fraction as strings of 0 and 1."""
        fmt = get_format(self.format)
        return (
            str(self.sign),
            format(self.exponent, f"0{fmt.exponent_bits}b"),
            format(self.fraction, f"0{fmt.fraction_bits}b"),
        )

    def _repr_html_(self) -> str:
        sign, exponent, fraction = self.fields
        return (
            f"<code>{self.format} {self.hex}&nbsp; <span style='color:#b55a5a'>{sign}</span> "
            f"<span style='color:#3b6fb6'>{exponent}</span> <span style='color:#6a9f58'>{fraction}</span>"
            f"&nbsp; = {self.decoded:.9g}</code> {self.kind}, {self.outcome}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinities and NaN as the strings "inf", "-inf" and "nan"."""
        out = {**asdict(self), "hex": self.hex}
        return {
            key: str(item) if isinstance(item, float) and not math.isfinite(item) else item for key, item in out.items()
        }


def value_bits(value: str | float, precision: str | Format) -> ValueBits:
    """Take a value apart in FP16 or BF16.

    Args:
      value: a number, or its text: decimal of any length ("1e-12"), hexadecimal ("0x1.8p-3"), "inf", "-inf", "nan".
      precision: "fp16", "bf16" or a `Format`.

    Raises:
      InputsError: the text is not a number.
    """
    fmt = get_format(precision)
    if isinstance(value, str):
        text = value
        sign, exact = _parse(text)
    else:
        text = repr(float(value))
        size = abs(float(value))
        sign, exact = int(math.copysign(1.0, value) < 0), Fraction(size) if math.isfinite(size) else size
    pattern, tie = encode(exact, fmt)
    bits = sign << (fmt.bits - 1) | pattern
    decoded = decode(bits, fmt)
    exponent, fraction = pattern >> fmt.fraction_bits, pattern & ((1 << fmt.fraction_bits) - 1)
    special = exponent == (1 << fmt.exponent_bits) - 1
    error, relative = _errors(sign, exact, decoded)
    return ValueBits(
        text=text,
        format=fmt.name,
        bits=bits,
        sign=sign,
        exponent=exponent,
        exponent_value=None if special else max(exponent, 1) - fmt.bias,
        fraction=fraction,
        decoded=decoded,
        error=error,
        relative_error=relative,
        kind=_kind(exponent, fraction, special),
        outcome=_outcome(exact, decoded),
        census=_census_class(exact, fmt),
        tie=tie,
        saturated=math.copysign(_saturated(exact, abs(decoded), fmt), -1.0 if sign else 1.0),
    )


def encode(magnitude: Fraction | float, fmt: Format) -> tuple[int, bool]:
    """The bits of a magnitude, by round-to-nearest-even, and whether it was a tie.

    Args:
      magnitude: a fraction >= 0, or the float inf or nan.
      fmt: the format.

    Returns:
      (pattern without the sign bit, tie). NaN gives the quiet NaN with an otherwise empty fraction.
    """
    infinity = ((1 << fmt.exponent_bits) - 1) << fmt.fraction_bits
    if isinstance(magnitude, float):
        return (infinity | 1 << (fmt.fraction_bits - 1) if math.isnan(magnitude) else infinity), False
    if magnitude == 0:
        return 0, False
    exponent = max(_floor_log2(magnitude), fmt.min_exponent)
    units = magnitude / Fraction(2) ** (exponent - fmt.fraction_bits)  # how many ulps
    below = units.numerator // units.denominator
    rest = units - below
    tie = rest == Fraction(1, 2)
    count = below + (rest > Fraction(1, 2) or (tie and below % 2 == 1))
    # counting ulps from the bottom of the binade, the carry into the next binade is the right bits by itself
    pattern = ((exponent - fmt.min_exponent) << fmt.fraction_bits) + count
    return min(pattern, infinity), tie


def decode(bits: int, precision: str | Format) -> float:
    """The value of a 16-bit pattern, exact.

    Args:
      bits: 0 to 0xffff.
      precision: "fp16", "bf16" or a `Format`.
    """
    fmt = get_format(precision)
    sign = -1.0 if bits >> (fmt.bits - 1) else 1.0
    exponent = bits >> fmt.fraction_bits & ((1 << fmt.exponent_bits) - 1)
    fraction = bits & ((1 << fmt.fraction_bits) - 1)
    if exponent == (1 << fmt.exponent_bits) - 1:
        return math.nan if fraction else sign * math.inf
    hidden = 1 << fmt.fraction_bits if exponent else 0
    return sign * math.ldexp(hidden + fraction, max(exponent, 1) - fmt.bias - fmt.fraction_bits)


def _parse(text: str) -> tuple[int, Fraction | float]:
    """(sign bit, magnitude): an exact fraction, or the float inf or nan."""
    clean = text.strip().replace("_", "").lower()
    sign = 1 if clean.startswith("-") else 0
    body = clean[1:] if clean[:1] in ("+", "-") else clean
    try:
        if body[:1] in ("+", "-"):
            raise ValueError("two signs")
        if body.startswith("0x"):
            return sign, Fraction(float.fromhex(body))
        number = Decimal(body)
    except (InvalidOperation, ValueError, OverflowError):
        raise InputsError(
            f"{text!r} is not a number; give decimals (1e-12), hexadecimal floats (0x1.8p-3), inf or nan"
        ) from None
    if number.is_nan():
        return sign, math.nan
    if number.is_infinite():
        return sign, math.inf
    if number and abs(number.adjusted()) > -TINY_DECADE:  # 1e-999999999 would be a fraction of a gigabyte
        return sign, Fraction(10) ** int(math.copysign(-TINY_DECADE, number.adjusted()))
    return sign, Fraction(number)


def _floor_log2(x: Fraction) -> int:
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if Fraction(2) ** guess <= x else guess - 1


def _errors(sign: int, exact: Fraction | float, decoded: float) -> tuple[float | None, float | None]:
    if isinstance(exact, float):
        return (0.0 if math.isinf(exact) else None), None
    if not math.isfinite(decoded):
        return None, None
    difference = Fraction(abs(decoded)) - exact
    relative = float(abs(difference) / exact) if exact else None
    return float(-difference if sign else difference), relative


def _kind(exponent: int, fraction: int, special: bool) -> str:
    if special:
        return "nan" if fraction else "infinite"
    if exponent:
        return "normal"
    return "subnormal" if fraction else "zero"


def _outcome(exact: Fraction | float, decoded: float) -> str:
    if isinstance(exact, float):
        return "exact"
    if math.isinf(decoded):
        return "overflowed to infinity"
    if decoded == 0 and exact:
        return "flushed to zero"
    return "exact" if Fraction(abs(decoded)) == exact else "rounded"


def _census_class(exact: Fraction | float, fmt: Format) -> str:
    if isinstance(exact, float):
        return "nan" if math.isnan(exact) else "infinite"
    if not exact:
        return "zero"
    if exact < Fraction(fmt.smallest_subnormal):
        return "underflow"
    if exact < Fraction(fmt.smallest_normal):
        return "subnormal"
    return "overflow" if exact > Fraction(fmt.max_finite) else "normal"


def _saturated(exact: Fraction | float, decoded: float, fmt: Format) -> float:
    census = _census_class(exact, fmt)
    return {"underflow": fmt.smallest_subnormal, "overflow": fmt.max_finite}.get(census, decoded)
