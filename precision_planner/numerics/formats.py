"""The two 16-bit formats, to the last constant.

Every number is exact and written as a hexadecimal float; `tests/numerics` derives each one again from the widths
of the fields and from ml_dtypes.
"""

from __future__ import annotations

from dataclasses import dataclass

from precision_planner.errors import SelectorError

__all__ = ["BF16", "FORMATS", "FP16", "Format", "get_format"]


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format with subnormals, infinities and NaN, under round-to-nearest-even.

    Attributes:
      name: the precision's name in plans and on the command line.
      storage: the element type's name in numpy and ml_dtypes.
      exponent_bits: width of the exponent field.
      fraction_bits: width of the fraction field (the significand has one bit more).
      max_finite: the largest finite value.
      overflow_from: the smallest magnitude that rounds to infinity (half an ulp past `max_finite`).
      smallest_normal: the smallest magnitude with a full significand.
      smallest_subnormal: the smallest magnitude above zero.
      flush_until: the largest magnitude that rounds to zero (half of `smallest_subnormal`: a tie, and zero is even).
      unit_roundoff: the largest relative error of rounding a value in the normal range.

    Source: IEEE 754-2019, 3.3, 3.6 and 4.3.1.
    """

    name: str
    storage: str
    exponent_bits: int
    fraction_bits: int
    max_finite: float
    overflow_from: float
    smallest_normal: float
    smallest_subnormal: float
    flush_until: float
    unit_roundoff: float

    @property
    def bits(self) -> int:
        """Width of the whole: sign, exponent and fraction."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def bias(self) -> int:
        """What is added to the exponent before it is stored."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def min_exponent(self) -> int:
        """Exponent of `smallest_normal`: -14 for FP16."""
        return 1 - self.bias

    @property
    def max_exponent(self) -> int:
        """Exponent of `max_finite`: 15 for FP16."""
        return self.bias

    @property
    def min_subnormal_exponent(self) -> int:
        """Exponent of `smallest_subnormal`: -24 for FP16."""
        return self.min_exponent - self.fraction_bits


FP16 = Format(
    name="fp16",
    storage="float16",
    exponent_bits=5,
    fraction_bits=10,
    max_finite=float.fromhex("0x1.ffcp+15"),  # 65504
    overflow_from=float.fromhex("0x1.ffep+15"),  # 65520
    smallest_normal=float.fromhex("0x1p-14"),  # 6.10352e-5
    smallest_subnormal=float.fromhex("0x1p-24"),  # 5.96046e-8
    flush_until=float.fromhex("0x1p-25"),  # 2.98023e-8
    unit_roundoff=float.fromhex("0x1p-11"),  # 4.88e-4
)
"""IEEE 754 binary16: ONNX FLOAT16, TensorRT kHALF."""

BF16 = Format(
    name="bf16",
    storage="bfloat16",
    exponent_bits=8,
    fraction_bits=7,
    max_finite=float.fromhex("0x1.fep+127"),  # 3.38953e38
    overflow_from=float.fromhex("0x1.ffp+127"),  # 3.39617e38
    smallest_normal=float.fromhex("0x1p-126"),  # 1.17549e-38
    smallest_subnormal=float.fromhex("0x1p-133"),  # 9.18355e-41
    flush_until=float.fromhex("0x1p-134"),  # 4.59177e-41
    unit_roundoff=float.fromhex("0x1p-8"),  # 3.91e-3
)
"""bfloat16: float32's exponent with 8 significand bits. ONNX BFLOAT16, TensorRT kBF16."""

FORMATS: dict[str, Format] = {FP16.name: FP16, BF16.name: BF16}


def get_format(precision: str | Format) -> Format:
    """The format of a precision's name.

    Args:
      precision: "fp16" or "bf16", or a `Format`, which is returned as it is.

    Raises:
      SelectorError: no 16-bit format has that name.
    """
    if isinstance(precision, Format):
        return precision
    try:
        return FORMATS[precision]
    except KeyError:
        known = " or ".join(FORMATS)
        raise SelectorError(f"no 16-bit format is called {precision!r}; use {known}") from None
