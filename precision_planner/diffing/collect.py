"""Gathers an output's metrics batch by batch: the worst, the mean, the distribution of the error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from precision_planner.diffing.result import OutputDiff
from precision_planner.errors import ToleranceError
from precision_planner.numerics.metrics import TensorMetrics, difference, tensor_metrics

OwnMetric = Callable[[np.ndarray, np.ndarray], float]

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "p100": 100.0}
DECADES = range(-12, 7)
"""Exponents of ten that bound the histogram's bins; smaller and larger errors fall into the outermost."""

FLIPPED_ROWS = 100
"""So many changed rows are listed; all are counted."""

_LOWEST_IS_WORST = frozenset({"cosine", "top1", "sqnr_db", "top5"})
_SUMMED = frozenset({"nonfinite", "nonfinite_reference", "new_nonfinite", "rows", "flipped", "elements"})
_AVERAGED = ("max_abs", "mean_abs", "sad", "rel_l2", "cosine", "top1")


class OutputCollector:
    """Metrics of one output over the batches. Holds no array but the histogram's counts."""

    def __init__(self, name: str, precision: str, own: Mapping[str, OwnMetric]) -> None:
        self._name, self._precision, self._own = name, precision, own
        self._worst: TensorMetrics | None = None
        self._sums = dict.fromkeys(_AVERAGED, 0.0)
        self._row_sum, self._rows = 0.0, 0
        self._batches = 0
        self._percentiles: dict[str, float] = {}
        self._counts = np.zeros(len(DECADES) + 1, np.int64)
        self._zero = self._nonfinite = 0
        self._flipped: list[dict[str, Any]] = []
        self._own_worst: dict[str, float] = {}
        self._shape: tuple[int, ...] = ()
        self._dtype = ""

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> TensorMetrics:
        """Compare one batch."""
        found = tensor_metrics(reference, candidate, self._precision)
        error = np.abs(difference(reference, candidate)).reshape(-1)
        if self._worst is None or not found.max_abs <= self._worst.max_abs:
            self._percentiles = _percentiles(error)
        self._count(error)
        self._list_flipped(reference, candidate)
        self._worst = found if self._worst is None else _merge(self._worst, found)
        for name in _AVERAGED:
            self._sums[name] += found.get(name)
        rows = max(1, reference.shape[0] if reference.ndim else 1)
        self._row_sum += found.sad_mean * rows
        self._rows += rows
        for name, function in self._own.items():
            value = _own_value(name, function, reference, candidate)
            before = self._own_worst.get(name)
            self._own_worst[name] = value if before is None or math.isnan(value) else max(before, value)
        self._batches += 1
        self._shape, self._dtype = reference.shape, str(reference.dtype)
        return found

    def result(self) -> OutputDiff:
        """Everything gathered."""
        assert self._worst is not None, "no batch was compared"
        mean = {name: total / self._batches for name, total in self._sums.items()}
        mean["sad_row"] = self._row_sum / max(1, self._rows)
        return OutputDiff(
            name=self._name,
            shape=self._shape,
            dtype=self._dtype,
            metrics=self._worst,
            mean=mean,
            percentiles=self._percentiles,
            histogram={
                "edges": list(DECADES),
                "counts": self._counts.tolist(),
                "zero": self._zero,
                "nonfinite": self._nonfinite,
            },
            flipped_rows=tuple(self._flipped),
            own=self._own_worst,
        )

    def _count(self, error: np.ndarray) -> None:
        finite = error[np.isfinite(error)]
        positive = finite[finite > 0]
        self._zero += int(finite.size - positive.size)
        self._nonfinite += int(error.size - finite.size)
        bins = np.searchsorted(np.array([10.0**e for e in DECADES]), positive, side="right")
        self._counts += np.bincount(bins, minlength=len(DECADES) + 1)

    def _list_flipped(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        if reference.ndim == 0 or reference.dtype.kind not in "fV" or not reference.size:
            return
        a = reference.reshape(-1, reference.shape[-1]).astype(np.float64)
        b = candidate.reshape(-1, reference.shape[-1]).astype(np.float64)
        before, after = a.argmax(axis=-1), b.argmax(axis=-1)
        moved = (before != after) | (np.isnan(b).any(axis=-1) & ~np.isnan(a).any(axis=-1))
        for row in np.flatnonzero(moved)[: max(0, FLIPPED_ROWS - len(self._flipped))]:
            lost = bool(np.isnan(b[row]).any())
            self._flipped.append(
                {
                    "batch": self._batches,
                    "row": int(row),
                    "reference": int(before[row]),
                    "candidate": None if lost else int(after[row]),
                }
            )


def _own_value(name: str, function: OwnMetric, reference: np.ndarray, candidate: np.ndarray) -> float:
    try:
        return float(function(reference, candidate))
    except (Exception, SystemExit) as error:  # the user's own code: whatever it raises is theirs to mend
        raise ToleranceError(
            f"the metric {name} failed: {type(error).__name__}: {error}; it takes two arrays and returns one number"
        ) from error


def _percentiles(error: np.ndarray) -> dict[str, float]:
    if not error.size:
        return dict.fromkeys(PERCENTILES, 0.0)
    if not np.isfinite(error).all():
        # an error without a size is larger than any other
        error = np.where(np.isnan(error), np.inf, error)
        ordered = np.sort(error)
        return {
            name: float(ordered[min(error.size - 1, math.ceil(p / 100 * error.size) - 1)])
            for name, p in PERCENTILES.items()
        }
    return dict(zip(PERCENTILES, map(float, np.percentile(error, list(PERCENTILES.values()))), strict=True))


def _merge(a: TensorMetrics, b: TensorMetrics) -> TensorMetrics:
    """The worst of two batches, field by field; counts add up, and shares are over all rows."""
    merged: dict[str, Any] = {}
    for item in fields(TensorMetrics):
        x, y = getattr(a, item.name), getattr(b, item.name)
        if item.name in _SUMMED:
            merged[item.name] = x + y
        elif x is None or y is None:
            merged[item.name] = x if y is None else y
        elif math.isnan(x) or math.isnan(y):
            merged[item.name] = math.nan
        else:
            merged[item.name] = min(x, y) if item.name in _LOWEST_IS_WORST else max(x, y)
    return TensorMetrics(**merged)
