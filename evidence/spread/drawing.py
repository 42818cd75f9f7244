"""What a model is predicted to do: rounded to nearest, and by chance in each of some draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precision_planner.judging import metrics
from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.simulation import prepare
from precision_planner.simulation.draws import draw_feeds

Arrays = Mapping[str, np.ndarray]
Errors = dict[str, float]

DRAWS = 10
"""Twice what a plan takes: the quantile is of the first five, the others show what it is worth."""

METRICS = ("rel_l2", "max_abs", "sad", "sad_mean")


def errors(right: np.ndarray, found: np.ndarray) -> Errors:
    """The metrics of one output; infinite where something finite was lost."""
    pair = metrics.Pair(np.asarray(right, np.float64), np.asarray(found))
    lost = np.isfinite(pair.a) & ~np.isfinite(pair.b)
    if lost.any():
        return dict.fromkeys(METRICS, float("inf"))
    return {name: float(metrics.METRICS[name].of(pair) or 0.0) for name in METRICS}


def predicted(
    model: Any, feeds: Sequence[Arrays], right: Sequence[Arrays], *, draws: int = DRAWS, **how: Any
) -> dict[str, Any]:
    """Errors of every output on every run: {"nearest": errors, "draws": [errors of each]}, the worst run's.

    Args:
      model: in FP32, or typed.
      feeds: the runs' inputs.
      right: the runs' outputs that are judged, by name.
      draws: how many.
      how: options of `precision_planner.simulation.prepare`.
    """
    source = Model.load(model)
    names = list(right[0])
    nearest = prepare(source, **how)
    with Session(nearest.model, names) as session:
        first = [session.run(nearest.feeds(feed)) for feed in feeds]
    chance = prepare(source, draws=True, **how)
    drawn = []
    with Session(chance.model, names) as session:
        for draw in range(1, draws + 1):
            drawn.append([session.run({**chance.feeds(feed), **draw_feeds(draw)}) for feed in feeds])
    return {"nearest": worst(right, first), "draws": [worst(right, outputs) for outputs in drawn]}


def worst(right: Sequence[Arrays], found: Sequence[Arrays]) -> Errors:
    """Every metric's worst over outputs and runs."""
    each = [errors(one[name], other[name]) for one, other in zip(right, found, strict=True) for name in one]
    return {name: max(entry[name] for entry in each) for name in METRICS}
