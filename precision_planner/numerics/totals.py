"""The running sums of a census: exact counts, float64 sums, added up in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from precision_planner.numerics.formats import BF16, FP16, Format
from precision_planner.numerics.rounding import round_to_format
from precision_planner.numerics.stats import ClassCounts, FormatStats, TensorStats, value_matters_from

__all__ = ["EXPONENT_BIAS", "EXPONENT_BINS", "FormatTotals", "Totals", "add_small", "add_values", "widen"]

EXPONENT_BIAS = 127
EXPONENT_BINS = 256
"""Bin = exponent + 127, float32's exponent field: bin 0 holds all below 2^-126, bin 255 all from 2^128 on."""

NORM_LIMIT = 500
"""Float64 magnitudes are taken as within 2^-500 to 2^500 in norms, so that no square leaves float64."""


@dataclass(slots=True)
class FormatTotals:
    """Sums for one format; `error`, `saturated` and `lost` are sums of squares.

    `inexact` says whether any value in the normal range was rounded; `worst` has, per exponent bin below that range,
    the largest relative error seen there.
    """

    format: Format
    subnormal: int = 0
    underflow: int = 0
    overflow: int = 0
    flushed: int = 0
    to_inf: int = 0
    error: float = 0.0
    saturated: float = 0.0
    lost: float = 0.0
    inexact: bool = False
    worst: np.ndarray[Any, np.dtype[np.float64]] = field(default_factory=lambda: np.zeros(EXPONENT_BINS))

    def merge(self, other: FormatTotals) -> None:
        """Add another's sums to these."""
        for name in ("subnormal", "underflow", "overflow", "flushed", "to_inf", "error", "saturated", "lost"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.inexact = self.inexact or other.inexact
        np.maximum(self.worst, other.worst, out=self.worst)

    def result(self, square: float, rms: float) -> FormatStats:
        """The format's statistics for a tensor with this sum of squares and rms."""
        fmt = self.format

        def ratio(part: float) -> float:
            return math.sqrt(part / square) if square else 0.0

        overflows = self.to_inf > 0
        return FormatStats(
            format=fmt,
            classes=ClassCounts(self.subnormal, self.underflow, self.overflow, self.flushed, self.to_inf),
            rel_error=math.inf if overflows else ratio(self.error),
            rel_error_saturated=ratio(self.saturated),
            max_rel_error=math.inf if overflows else self._worst_that_matters(rms),
            lost_norm=ratio(self.lost),
        )

    def _worst_that_matters(self, rms: float) -> float:
        if not rms:
            return 0.0
        first = max(value_matters_from(rms, self.format) + EXPONENT_BIAS, 0)
        below = float(self.worst[first:].max(initial=0.0))
        return max(below, self.format.unit_roundoff if self.inexact else 0.0)


@dataclass(slots=True)
class Totals:
    """Sums for one tensor, or a part of one. `square` is the sum of squares of the finite values."""

    size: int = 0
    zeros: int = 0
    nan: int = 0
    inf: int = 0
    min_abs: float = math.inf
    max_abs: float = -math.inf
    square: float = 0.0
    exponents: np.ndarray[Any, np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(EXPONENT_BINS, np.int64))
    fp16: FormatTotals = field(default_factory=lambda: FormatTotals(FP16))
    bf16: FormatTotals = field(default_factory=lambda: FormatTotals(BF16))

    def merge(self, other: Totals) -> None:
        """Add another part's sums to these."""
        self.size += other.size
        self.zeros += other.zeros
        self.nan += other.nan
        self.inf += other.inf
        self.min_abs = min(self.min_abs, other.min_abs)
        self.max_abs = max(self.max_abs, other.max_abs)
        self.square += other.square
        self.exponents += other.exponents
        self.fp16.merge(other.fp16)
        self.bf16.merge(other.bf16)

    def result(self, dtype: str) -> TensorStats:
        """The statistics of everything added so far."""
        finite = self.size - self.nan - self.inf
        rms = math.sqrt(self.square / finite) if finite else 0.0
        used = np.flatnonzero(self.exponents)
        exponents = {int(bin_) - EXPONENT_BIAS: int(self.exponents[bin_]) for bin_ in used}
        return TensorStats(
            dtype=dtype,
            size=self.size,
            zeros=self.zeros,
            nan=self.nan,
            inf=self.inf,
            min_abs=self.min_abs if math.isfinite(self.min_abs) else None,
            max_abs=self.max_abs if finite else None,
            rms=rms,
            exponents=exponents,
            fp16=self.fp16.result(self.square, rms),
            bf16=self.bf16.result(self.square, rms),
        )


Values = np.ndarray[Any, np.dtype[np.float64]]
Counts = np.ndarray[Any, np.dtype[np.int64]]


def widen(x: np.ndarray[Any, np.dtype[Any]]) -> Values:
    """The same values in float64, without numpy's warning about signaling NaNs."""
    with np.errstate(invalid="ignore"):
        return x.astype(np.float64)


def add_values(totals: Totals, values: Values, counts: Counts | None = None) -> None:
    """Add float64 values to the sums, each as often as `counts` says: the plain way, for every class of value.

    Args:
      totals: what to add to.
      values: float64, shape [n]; any bits.
      counts: int64, shape [n], >= 0; None counts each value once.
    """
    if counts is None:
        counts = np.ones(values.shape, np.int64)
    size = np.abs(values)
    nan, inf = np.isnan(values), np.isinf(values)
    totals.size += int(counts.sum())
    totals.nan += int(counts[nan].sum())
    totals.inf += int(counts[inf].sum())
    finite = ~(nan | inf)
    size, counts = size[finite], counts[finite]
    present = counts > 0
    size, counts = size[present], counts[present]
    totals.zeros += int(counts[size == 0].sum())
    if size.size:
        totals.max_abs = max(totals.max_abs, float(size.max()))
    some = size > 0
    size, counts = size[some], counts[some]
    if not size.size:
        return
    totals.min_abs = min(totals.min_abs, float(size.min()))
    bins = _bins(size)
    np.add.at(totals.exponents, bins, counts)
    norm = np.clip(size, 2.0**-NORM_LIMIT, 2.0**NORM_LIMIT)
    totals.square += float(np.dot(norm * norm, counts))
    for part in (totals.fp16, totals.bf16):
        _add_to_format(part, size, norm, bins, counts)


def _add_to_format(
    part: FormatTotals, size: Values, norm: Values, bins: np.ndarray[Any, np.dtype[Any]], counts: Counts
) -> None:
    """The part of `add_values` that depends on the format; every size is finite and above zero."""
    fmt = part.format
    normal = (size >= fmt.smallest_normal) & (size < fmt.overflow_from)
    part.subnormal += int(counts[(size >= fmt.smallest_subnormal) & (size < fmt.smallest_normal)].sum())
    part.underflow += int(counts[size < fmt.smallest_subnormal].sum())
    part.overflow += int(counts[size > fmt.max_finite].sum())
    flushed, infinite = size <= fmt.flush_until, size >= fmt.overflow_from
    part.flushed += int(counts[flushed].sum())
    part.to_inf += int(counts[infinite].sum())

    rounded = round_to_format(size, fmt)
    error = np.where(flushed, norm, np.where(infinite, 0.0, np.abs(rounded - size)))
    squares = error * error
    part.error += float(np.dot(squares, counts))
    part.inexact = part.inexact or bool(error[normal].any())
    saturated = np.where(flushed, fmt.smallest_subnormal - size, error)
    saturated = np.where(infinite, norm - fmt.max_finite, saturated)
    part.saturated += float(np.dot(saturated * saturated, counts))
    part.lost += float(np.dot(squares[flushed], counts[flushed]))
    low = size < fmt.smallest_normal
    np.maximum.at(part.worst, bins[low], np.where(flushed, size, error)[low] / size[low])


def add_small(part: FormatTotals, size: Values) -> None:
    """Complete a format's sums for values below its normal range whose rounding error is in `part.error` already.

    Adds what `error` does not know: the part of it that is lost for good, what saturation makes of it, and the
    worst relative error of each exponent.

    Args:
      part: what to add to; its counts are not touched.
      size: float64, shape [n], 0 < size < the format's smallest normal.
    """
    fmt = part.format
    error = np.abs(round_to_format(size, fmt) - size)
    flushed = size[size <= fmt.flush_until]
    if flushed.size:
        lost = float(np.dot(flushed, flushed))
        part.lost += lost
        raised = fmt.smallest_subnormal - flushed
        part.saturated += float(np.dot(raised, raised)) - lost
    np.maximum.at(part.worst, _bins(size), error / size)


def _bins(size: Values) -> np.ndarray[Any, np.dtype[Any]]:
    bins: np.ndarray[Any, np.dtype[Any]] = np.clip(np.frexp(size)[1] - 1 + EXPONENT_BIAS, 0, EXPONENT_BINS - 1)
    return bins
