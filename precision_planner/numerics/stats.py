"""What the census says about one tensor, as values.

The exponent of a value is floor(log2 |value|): 0 for 1.5, -14 for FP16's smallest normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from precision_planner.numerics.formats import BF16, FP16, Format

__all__ = ["ClassCounts", "FormatStats", "TensorStats", "value_matters_from"]


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """How many values fall in each class of a format.

    `subnormal`, `underflow` and `overflow` use TensorRT's thresholds on finite values and are disjoint;
    `flushed` and `to_inf` are what round-to-nearest-even does and overlap them: they differ from underflow and
    overflow only in (2^-25, 2^-24) and (65504, 65520).

    Attributes:
      subnormal: smallest subnormal <= |x| < smallest normal (FP16: [2^-24, 2^-14)).
      underflow: 0 < |x| < smallest subnormal (FP16: 2^-24).
      overflow: largest finite < |x| < inf (FP16: > 65504).
      flushed: 0 < |x| <= half the smallest subnormal (FP16: 2^-25); becomes 0.
      to_inf: |x| >= half an ulp past the largest finite (FP16: 65520), finite; becomes infinite.
    """

    subnormal: int = 0
    underflow: int = 0
    overflow: int = 0
    flushed: int = 0
    to_inf: int = 0

    def to_dict(self) -> dict[str, int]:
        """JSON-ready."""
        return {
            "subnormal": self.subnormal,
            "underflow": self.underflow,
            "overflow": self.overflow,
            "flushed": self.flushed,
            "to_inf": self.to_inf,
        }


@dataclass(frozen=True, slots=True)
class FormatStats:
    """What casting a tensor to one format does to it. Norms are L2 norms over the finite values.

    Attributes:
      format: the format.
      classes: the class counts.
      rel_error: norm(cast(x) - x) / norm(x) under round-to-nearest-even; inf if a finite value becomes infinite,
        0 for a tensor without a non-zero finite value.
      rel_error_saturated: the same under TensorRT's weak conversion (`round_to_format(overflow="saturate")`).
      max_rel_error: the largest |cast(x) - x| / |x| of a value that matters (see `value_matters_from`) under
        round-to-nearest-even. Values in the normal range count with the format's bound (FP16: 2^-11) unless
        all of them are exact; everything below is measured. inf if a finite value becomes infinite.
      lost_norm: norm of the values that become 0 / norm(x): the share of the tensor that is gone.
    """

    format: Format
    classes: ClassCounts
    rel_error: float
    rel_error_saturated: float
    max_rel_error: float
    lost_norm: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an infinite error is None (null)."""
        return {
            **self.classes.to_dict(),
            "rel_error": _number(self.rel_error),
            "rel_error_saturated": _number(self.rel_error_saturated),
            "max_rel_error": _number(self.max_rel_error),
            "lost_norm": _number(self.lost_norm),
        }


@dataclass(frozen=True, slots=True)
class TensorStats:
    """The census of one tensor.

    Attributes:
      dtype: element type, as numpy and ml_dtypes name it.
      size: number of elements; zeros + nan + inf + (sum of exponents) = size.
      zeros: +0 and -0.
      nan: NaN of any payload.
      inf: infinities of both signs.
      min_abs: the smallest finite magnitude above zero; None if there is none.
      max_abs: the largest finite magnitude; None if no value is finite.
      rms: root mean square of the finite values, zeros included.
      exponents: exponent -> how many finite non-zero values have it, ascending. The key -127 also holds everything
        smaller, and 128 everything larger, than float32's normal range.
      fp16: what FP16 does to it.
      bf16: what BF16 does to it.
    """

    dtype: str
    size: int
    zeros: int
    nan: int
    inf: int
    min_abs: float | None
    max_abs: float | None
    rms: float
    exponents: dict[int, int] = field(hash=False)
    fp16: FormatStats
    bf16: FormatStats

    def __repr__(self) -> str:
        counts = self.to_dict(FP16)
        lost = "FP16: " + ", ".join(f"{counts[name]} {name}" for name in ("subnormal", "underflow", "overflow"))
        return f"<TensorStats of {self.size} {self.dtype}: |x| {self.min_abs} to {self.max_abs}; {lost}>"

    def cast(self, fmt: Format) -> FormatStats:
        """What `fmt` does to the tensor."""
        return {FP16.name: self.fp16, BF16.name: self.bf16}[fmt.name]

    def to_dict(self, fmt: Format = FP16) -> dict[str, Any]:
        """JSON-ready: the classes and errors of `fmt` flat, as `analyze --json` has them."""
        return {
            "dtype": self.dtype,
            "size": self.size,
            "zeros": self.zeros,
            "nan": self.nan,
            "inf": self.inf,
            "min_abs": self.min_abs,
            "max_abs": self.max_abs,
            "rms": self.rms,
            **self.cast(fmt).to_dict(),
            "exponents": {str(exponent): count for exponent, count in self.exponents.items()},
        }


def value_matters_from(rms: float, fmt: Format) -> int:
    """The smallest exponent of a value that matters in a tensor of that rms.

    A value below rms * 2^-(p+1), p the fraction bits, costs less when it vanishes altogether than a typical value
    costs by being rounded (FP16: 11 binades under the rms). Such values are noise whatever becomes of them.

    Args:
      rms: root mean square of the tensor, above zero.
      fmt: the format.
    """
    return math.frexp(rms)[1] - 1 - (fmt.fraction_bits + 1)


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None
