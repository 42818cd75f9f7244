"""Gathers what a judgement leaves out, batch by batch: the mean, the distribution of the error."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from precision_planner.diffing.result import OutputDiff
from precision_planner.judging.differences import Pair
from precision_planner.judging.judge import Judged
from precision_planner.judging.metrics import Measured

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "p100": 100.0}
DECADES = range(-12, 7)
"""Exponents of ten that bound the histogram's bins; smaller and larger errors fall into the outermost."""

FLIPPED_ROWS = 100
"""So many changed rows are listed; all are counted."""

AVERAGED = ("max_abs", "mean_abs", "sad", "rel_l2", "cosine", "top1")
"""Metrics whose mean over the batches is told, too."""


class OutputCollector:
    """How the errors of one output are distributed over the batches. Holds no array but the histogram's counts."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(AVERAGED, 0.0)
        self._row_sum, self._rows = 0.0, 0
        self._batches = 0
        self._worst = -1.0
        self._percentiles: dict[str, float] = {}
        self._counts = np.zeros(len(DECADES) + 1, np.int64)
        self._zero = self._nonfinite = 0
        self._flipped: list[dict[str, Any]] = []

    def add(self, pair: Pair, found: Measured) -> None:
        """Take in one batch."""
        error = pair.error.reshape(-1)
        worst = found.number("max_abs")
        worst = math.inf if math.isnan(worst) else worst
        if worst > self._worst:
            self._worst, self._percentiles = worst, _percentiles(error)
        self._count(error)
        self._list_flipped(pair.reference, pair.candidate)
        for name in AVERAGED:
            self._sums[name] += found.number(name)
        rows = max(1, pair.reference.shape[0] if pair.reference.ndim else 1)
        self._row_sum += found.number("sad_mean") * rows
        self._rows += rows
        self._batches += 1

    def result(self, judged: Judged, own: Collection[str] = ()) -> OutputDiff:
        """The output as it was judged, with everything gathered here."""
        mean = {name: total / max(1, self._batches) for name, total in self._sums.items()}
        mean["sad_row"] = self._row_sum / max(1, self._rows)
        return OutputDiff(
            judged=judged,
            own={name: judged.values.number(name) for name in own},
            mean=mean,
            percentiles=self._percentiles or dict.fromkeys(PERCENTILES, 0.0),
            histogram={
                "edges": list(DECADES),
                "counts": self._counts.tolist(),
                "zero": self._zero,
                "nonfinite": self._nonfinite,
            },
            flipped_rows=tuple(self._flipped) if judged.is_classes else (),
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
