"""What a cast does to a tensor, in a word and a sentence: noise is told from damage by its size, not by counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from precision_planner.numerics import Format, TensorStats

__all__ = ["VERDICTS", "Assessment", "assess"]

VERDICTS = ("overflow", "lost", "degraded", "not finite", "noise", "clean")
"""Every verdict, the worst first.

overflow: finite values pass the format's largest; the cast makes them infinite, TensorRT's weak typing clips them.
lost: a value that matters becomes zero: an epsilon, or half of the tensor's norm or more.
degraded: the error of the cast is several times what rounding alone costs.
not finite: the tensor holds infinities or NaN already.
noise: values are subnormal or become zero, and their error vanishes beside the rounding of the others.
clean: every value is in the normal range, zero or exact.
"""

DEGRADED_FROM = 4.0
"""Times the unit roundoff: a relative error beyond this is not what rounding costs."""

LOST_FROM = 0.5
"""The share of a tensor's norm beyond which the tensor is lost rather than degraded."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a cast does to a tensor.

    Attributes:
      verdict: one of `VERDICTS`.
      sentence: why, with the numbers.
      cost: the relative L2 error that the cast causes in the tensor, for ranking; inf where a finite value becomes
        infinite or an epsilon becomes zero.
    """

    verdict: str
    sentence: str
    cost: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an infinite cost is None."""
        cost = self.cost if math.isfinite(self.cost) else None
        return {"verdict": self.verdict, "assessment": self.sentence, "cost": cost}


def assess(stats: TensorStats, fmt: Format, role: str) -> Assessment:
    """Assess one tensor.

    Args:
      stats: its census.
      fmt: the format that it is cast to.
      role: what it is read as; an epsilon that vanishes is worse than a weight that does.
    """
    cast, name = stats.cast(fmt), fmt.name.upper()
    classes = cast.classes
    if classes.overflow:
        return Assessment("overflow", _overflow(stats, fmt, role), cast.rel_error if classes.to_inf else math.inf)
    if role == "epsilon" and classes.flushed:
        return Assessment(
            "lost",
            f"the epsilon {stats.min_abs:.3g} becomes 0 in {name}: where the variance is 0 the result is 0/0",
            math.inf,
        )
    if cast.lost_norm >= LOST_FROM:
        share = f"{cast.lost_norm:.0%} of the norm" if cast.lost_norm < 1 else "everything"
        return Assessment(
            "lost", f"{share} becomes 0 in {name} (largest magnitude {stats.max_abs:.3g})", cast.rel_error
        )
    bound = DEGRADED_FROM * fmt.unit_roundoff
    if cast.rel_error > bound or (stats.size == 1 and cast.max_rel_error > bound):
        return Assessment(
            "degraded",
            f"relative error {cast.rel_error:.2g} in {name}, {cast.rel_error / fmt.unit_roundoff:.0f} times what "
            f"rounding costs (largest magnitude {stats.max_abs:.3g})",
            cast.rel_error,
        )
    if stats.nan or stats.inf:
        what = " and ".join(f"{n} {word}" for n, word in ((stats.nan, "NaN"), (stats.inf, "infinite")) if n)
        return Assessment("not finite", f"holds {what} values in FP32 already", cast.rel_error)
    below = classes.subnormal + classes.underflow
    if below:
        return Assessment("noise", _noise(stats, fmt, below), cast.rel_error)
    return Assessment("clean", f"relative error {cast.rel_error:.2g} in {name}", cast.rel_error)


def _overflow(stats: TensorStats, fmt: Format, role: str) -> str:
    classes, name = stats.cast(fmt).classes, fmt.name.upper()
    largest, limit = f"{stats.max_abs:.3g}", f"{fmt.max_finite:.5g}"
    if not classes.to_inf:
        return f"{_values(classes.overflow)} up to {largest} round to {limit}, the largest finite value of {name}"
    if role == "mask":
        return (
            f"the mask value of magnitude {largest} becomes infinite in {name} ({limit} under TensorRT's weak typing): "
            "a row that is masked whole, or 0 times it, is NaN"
        )
    return (
        f"{_values(classes.to_inf)} up to {largest} become infinite in {name}, or {limit} under TensorRT's weak typing"
    )


def _noise(stats: TensorStats, fmt: Format, below: int) -> str:
    cast = stats.cast(fmt)
    nonzero = stats.size - stats.zeros
    gone = (
        f", {cast.classes.flushed} of them become 0 ({cast.lost_norm:.1g} of the norm)" if cast.classes.flushed else ""
    )
    return (
        f"noise: {below / nonzero:.2%} of the values are below the normal range{gone}; relative error "
        f"{cast.rel_error:.2g}, rounding alone may cost {fmt.unit_roundoff:.2g}"
    )


def _values(count: int) -> str:
    return f"{count} value" if count == 1 else f"{count} values"
