"""The metrics of an intermediate value in one pass over small blocks: for hundreds of large tensors.

Differences are taken in float32 (each exact to half an ulp of the difference) and summed in float64, so a metric
agrees with `precision_planner.judging.metrics` to about 1e-6 of its value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision_planner.judging import metrics
from precision_planner.judging.metrics import json_number

Array = np.ndarray[Any, np.dtype[Any]]

MASK = 1e30
"""Finite magnitudes past this are masks (float32's smallest value and the like), not data."""

MASKED = 1e3
"""What a mask may become and still mask: exp(-1e3) is 0 in every float type. Rewrites give it headroom."""

TINY = 1e-15
"""Where the largest value or difference is below this, squares in float32 may be lost."""

BLOCK = 1 << 16
"""Elements of a block: three float32 blocks stay in a core's cache."""


@dataclass(frozen=True, slots=True)
class QuickMetrics:
    """What is known of one intermediate value; see `TensorMetrics` for the fields of the same names.

    Attributes:
      ref_amax: the largest finite magnitude in the reference.
      new_nonfinite: elements that are not finite in the candidate alone.
      masked: elements left out, see `quick_metrics`.
      shapes: both shapes where they differ ("[2, 3] and [3, 2]"); every distance is infinite then.
    """

    max_abs: float
    mean_abs: float
    sad: float
    rel_l2: float
    cosine: float
    nonfinite: int
    new_nonfinite: int
    ref_amax: float
    elements: int
    masked: int = 0
    shapes: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinities and NaN as strings."""
        return {name: json_number(getattr(self, name)) for name in self.__slots__}


def quick_metrics(reference: Array, candidate: Array, limit: float = math.inf) -> QuickMetrics:
    """Compare two tensors of one shape.

    Elements that are the same without being finite count as equal. So do masks, which would drown every other
    difference: elements past `MASK` in the reference, or infinite there, that are past `MASKED` (or infinite) in the
    candidate, and elements past `limit` that the candidate clamped to it.

    Args:
      reference: what is right.
      candidate: what is judged.
      limit: the largest finite value of the candidate's type.
    """
    a, b = np.asarray(reference), np.asarray(candidate)
    if a.shape != b.shape:
        inf = math.inf
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        return QuickMetrics(inf, inf, inf, inf, 0.0, 0, 0, _amax(a), int(a.size), 0, shapes)
    if a.dtype.kind in "biu" and b.dtype.kind in "biu" and np.array_equal(a, b):
        return _same(a)
    if a.dtype != np.float32 or b.dtype != np.float32 or not a.size:
        return _exact(a, b, limit)
    rows = a.shape[0] if a.ndim else 1
    flat_a, flat_b = np.ascontiguousarray(a).reshape(rows, -1), np.ascontiguousarray(b).reshape(rows, -1)
    size = flat_a.shape[1]
    row_sums = np.zeros(rows)
    worst = ref_amax = 0.0
    masked = 0
    edge = min(limit, MASK)
    dd = aa = ad = 0.0
    width = min(size, BLOCK)
    step_rows = max(1, BLOCK // max(size, 1))
    scratch = np.empty((min(rows, step_rows), width), np.float32)
    ones = np.ones(width, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for top in range(0, rows, step_rows):
            for left in range(0, size, BLOCK):
                x = flat_a[top : top + step_rows, left : left + BLOCK]
                y = flat_b[top : top + step_rows, left : left + BLOCK]
                amax = max(float(x.max()), -float(x.min()))
                if not math.isfinite(amax):
                    return _exact(a, b, limit)
                ref_amax = max(ref_amax, amax)
                if amax > edge:
                    x, y, count = _unmask(x, y, limit)
                    masked += count
                delta = np.subtract(y, x, out=scratch.reshape(-1)[: x.size].reshape(x.shape))
                line, xs = delta.reshape(-1), x.reshape(-1)
                dd += float(np.dot(line, line))
                aa += float(np.dot(xs, xs))
                ad += float(np.dot(xs, line))
                np.abs(delta, out=delta)
                # a product with ones: BLAS adds up twice as fast as numpy, and as exactly over a block
                row_sums[top : top + step_rows] += delta @ ones[: delta.shape[1]]
                worst = max(worst, float(delta.max()))
    if not (math.isfinite(dd) and math.isfinite(aa)) or 0 < worst < TINY or 0 < ref_amax < TINY:
        return _exact(a, b, limit)
    bb = max(0.0, aa + 2 * ad + dd)
    return QuickMetrics(
        max_abs=worst,
        mean_abs=float(row_sums.sum()) / a.size,
        sad=float(row_sums.max()),
        rel_l2=0.0 if dd == 0 else (math.sqrt(dd) / math.sqrt(aa) if aa else math.inf),
        cosine=(max(-1.0, min(1.0, (aa + ad) / math.sqrt(aa) / math.sqrt(bb))) if aa and bb else float(aa == bb)),
        nonfinite=0,
        new_nonfinite=0,
        ref_amax=ref_amax,
        elements=int(a.size),
        masked=masked,
    )


def _same(a: Array) -> QuickMetrics:
    size = _amax(a)
    return QuickMetrics(0.0, 0.0, 0.0, 0.0, 1.0, 0, 0, size, int(a.size))


def _exact(a: Array, b: Array, limit: float) -> QuickMetrics:
    if a.dtype.kind in "OUS":
        off = metrics.max_abs(a, b)
        return QuickMetrics(off, metrics.mean_abs(a, b), metrics.sad(a, b), off, 1.0 - off, 0, 0, 0.0, int(a.size))
    amax, nonfinite = _amax(a), metrics.nonfinite(b)
    a, b, masked = _unmask(a, b, limit)
    return QuickMetrics(
        max_abs=metrics.max_abs(a, b),
        mean_abs=metrics.mean_abs(a, b),
        sad=metrics.sad(a, b),
        rel_l2=metrics.rel_l2(a, b),
        cosine=metrics.cosine(a, b),
        nonfinite=nonfinite,
        new_nonfinite=_new_nonfinite(a, b),
        ref_amax=amax,
        elements=int(a.size),
        masked=masked,
    )


def _unmask(a: Array, b: Array, limit: float) -> tuple[Array, Array, int]:
    """Both with masks and clamped elements set to 0, and how many those are."""
    x, y = a.astype(_wide(a)), b.astype(_wide(b))
    with np.errstate(invalid="ignore"):
        same_side = np.sign(x) == np.sign(y)
        is_mask = (np.abs(x) > MASK) & (np.abs(y) >= MASKED)
        is_clamped = (np.abs(x) > limit) & np.isfinite(x) & (np.abs(y) <= limit) & (np.abs(y) > 0.5 * limit)
    out = same_side & (is_mask | is_clamped)
    x[out], y[out] = 0.0, 0.0
    return x, y, int(out.sum())


def _wide(x: Array) -> type[np.floating[Any]]:
    """float32 where that holds every value, else float64; 16-bit floats of ml_dtypes included."""
    return np.float32 if x.dtype == np.float32 else np.float64


def _new_nonfinite(a: Array, b: Array) -> int:
    return int((np.isfinite(a.astype(np.float64)) & ~np.isfinite(b.astype(np.float64))).sum())


def _amax(x: Array) -> float:
    values = np.abs(x.astype(np.float64))
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0
