"""The metrics of an intermediate value in one pass over small blocks: for hundreds of large tensors.

Differences are taken in float32 (each exact to half an ulp of the difference) and summed in float64, so a metric
agrees with `precision_planner.numerics.metrics` to about 1e-6 of its value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision_planner.numerics.metrics import json_number, tensor_metrics

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 16
"""Elements of a block: three float32 blocks stay in a core's cache."""


@dataclass(frozen=True, slots=True)
class QuickMetrics:
    """What is known of one intermediate value; see `TensorMetrics` for the fields of the same names.

    Attributes:
      ref_amax: the largest finite magnitude in the reference.
      amax: the largest finite magnitude in the candidate.
      new_nonfinite: elements that are not finite in the candidate alone.
    """

    max_abs: float
    mean_abs: float
    sad: float
    rel_l2: float
    cosine: float
    nonfinite: int
    new_nonfinite: int
    ref_amax: float
    amax: float
    elements: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinities and NaN as strings."""
        return {name: json_number(getattr(self, name)) for name in self.__slots__}


def quick_metrics(reference: Array, candidate: Array) -> QuickMetrics:
    """Compare two tensors of one shape.

    Elements that are the same without being finite (masks of -inf) count as equal. Where anything else is not
    finite, the exact metrics are taken.
    """
    a, b = np.asarray(reference), np.asarray(candidate)
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {list(a.shape)} and {list(b.shape)}")
    if a.dtype != np.float32 or b.dtype != np.float32 or not a.size:
        return _exact(a, b)
    rows = a.shape[0] if a.ndim else 1
    flat_a, flat_b = np.ascontiguousarray(a).reshape(rows, -1), np.ascontiguousarray(b).reshape(rows, -1)
    size = flat_a.shape[1]
    row_sums = np.zeros(rows)
    worst = amax = ref_amax = 0.0
    dd = aa = bb = ab = 0.0
    step_rows = max(1, BLOCK // max(size, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        for top in range(0, rows, step_rows):
            for left in range(0, size, BLOCK):
                x = flat_a[top : top + step_rows, left : left + BLOCK]
                y = flat_b[top : top + step_rows, left : left + BLOCK]
                delta = np.subtract(y, x)
                line, xs, ys = delta.reshape(-1), x.reshape(-1), y.reshape(-1)
                square = float(np.dot(line, line))
                dd += square
                aa += float(np.dot(xs, xs))
                bb += float(np.dot(ys, ys))
                ab += float(np.dot(xs, ys))
                np.abs(delta, out=delta)
                row_sums[top : top + step_rows] += delta.sum(axis=1, dtype=np.float64)
                worst = max(worst, float(delta.max()))
                ref_amax = max(ref_amax, float(x.max()), -float(x.min()))
                amax = max(amax, float(y.max()), -float(y.min()))
    if not (math.isfinite(dd) and math.isfinite(aa) and math.isfinite(bb)):
        return _exact(a, b)
    norm = math.sqrt(aa)
    return QuickMetrics(
        max_abs=worst,
        mean_abs=float(row_sums.sum()) / a.size,
        sad=float(row_sums.max()),
        rel_l2=0.0 if dd == 0 else (math.sqrt(dd) / norm if norm else math.inf),
        cosine=(min(1.0, ab / math.sqrt(aa) / math.sqrt(bb)) if aa and bb else float(aa == bb)),
        nonfinite=0,
        new_nonfinite=0,
        ref_amax=ref_amax,
        amax=amax,
        elements=int(a.size),
    )


def _exact(a: Array, b: Array) -> QuickMetrics:
    found = tensor_metrics(a, b)
    numeric = a.dtype.kind not in "OUS"
    return QuickMetrics(
        max_abs=found.max_abs,
        mean_abs=found.mean_abs,
        sad=found.sad,
        rel_l2=found.rel_l2,
        cosine=found.cosine,
        nonfinite=found.nonfinite,
        new_nonfinite=_new_nonfinite(a, b) if numeric else 0,
        ref_amax=_amax(a) if numeric else 0.0,
        amax=_amax(b) if numeric else 0.0,
        elements=int(a.size),
    )


def _new_nonfinite(a: Array, b: Array) -> int:
    return int((np.isfinite(a.astype(np.float64)) & ~np.isfinite(b.astype(np.float64))).sum())


def _amax(x: Array) -> float:
    values = np.abs(x.astype(np.float64))
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0
