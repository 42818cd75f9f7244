"""Differences in units of a 16-bit format's spacing, and every metric of a pair with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision_planner.judging.differences import Pair
from precision_planner.judging.metrics import METRICS, Measured, Metric, measure
from precision_planner.numerics.formats import FP16, Format, get_format

Array = np.ndarray[Any, np.dtype[Any]]


def ulps(reference: Array, candidate: Array, precision: str | Format = FP16) -> tuple[float, float]:
    """(largest, mean) difference in units of the format's spacing at the reference's magnitude.

    Below the smallest normal value the spacing is that of the subnormals. (0, 0) for an empty tensor.
    """
    return _ulps(Pair(reference, candidate), get_format(precision))


def _ulps(pair: Pair, fmt: Format) -> tuple[float, float]:
    if not pair.error.size or not pair.is_number:
        return 0.0, 0.0
    size = np.abs(pair.a)
    _, exponent = np.frexp(np.where(np.isfinite(size), size, fmt.max_finite))
    exponent = np.where(size == 0, fmt.min_exponent, exponent - 1)  # frexp gives 0 the exponent of 0.5
    exponent = np.clip(exponent, fmt.min_exponent, fmt.max_exponent)
    count = pair.error / np.ldexp(1.0, exponent - fmt.fraction_bits)
    return float(count.max()), float(count.mean())


def metrics_of(precision: str | Format = FP16) -> tuple[Metric, ...]:
    """Every metric, the two in units of the candidate's type among them."""
    fmt = get_format(precision)
    return (
        *METRICS.values(),
        Metric("max_ulp", lambda pair: _ulps(pair, fmt)[0], "largest difference", unit="ulp"),
        Metric("mean_ulp", lambda pair: _ulps(pair, fmt)[1], "mean difference", unit="ulp"),
    )


def tensor_metrics(reference: Array, candidate: Array, precision: str | Format = FP16) -> Measured:
    """Every metric of one pair of tensors of the same shape.

    Args:
      reference: what is right.
      candidate: what is judged.
      precision: the candidate's type, for the ULPs.
    """
    return measure(Pair(reference, candidate), metrics_of(precision))
