"""From a few draws to what a device will hardly exceed: an upper quantile of each metric.

A draw is a simulation whose roundings fall by chance (`precision_planner.simulation.draws`). Of n draws with mean m and
standard deviation s a further one lies below

    m + t s sqrt(1 + 1/n)

with the probability `SHARE`, t being that quantile of Student's distribution of n - 1 degrees of freedom. That holds
for normal values; an error's logarithm is nearer to normal than the error, so it is taken of that, unless a draw has
no error.
Source: ISO 16269-8:2004, prediction intervals, 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from precision_planner.judging.judge import Judged, Judgement
from precision_planner.judging.metrics import BOUNDS, DETECTIONS, METRICS, Metric, own_metric

__all__ = ["DRAWS", "SHARE", "TOLD", "quantile", "quantiles", "upper"]

DRAWS = 5
"""Draws of a plan."""

SHARE = 0.95
"""Of further draws that lie below the quantile."""

_STUDENT = (math.inf, 6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761)
"""The 0.95 quantile of Student's distribution, by degrees of freedom."""

TOLD = (*(name for name in BOUNDS if name in METRICS), "sad_mean", "nonfinite")
"""Metrics of a tensor of which a plan says quantiles, as it says predictions."""


def upper(distances: Sequence[float]) -> float:
    """What a further distance stays below with the probability `SHARE`; infinite where one is not finite.

    Args:
      distances: of the draws, 0 or more; 2 to 15 of them.

    Raises:
      ValueError: another number of them.
    """
    count = len(distances)
    if not 2 <= count <= len(_STUDENT):
        raise ValueError(f"{count} draws; from 2 to {len(_STUDENT)} give a quantile")
    values = np.asarray(distances, np.float64)
    if not np.isfinite(values).all():
        return math.inf
    factor = _STUDENT[count - 1] * math.sqrt(1 + 1 / count)
    if values.min() > 0.0:
        logs = np.log(values)
        with np.errstate(over="ignore"):
            return float(np.exp(logs.mean() + factor * logs.std(ddof=1)))
    return float(values.mean() + factor * values.std(ddof=1))


def quantile(values: Sequence[float], record: Metric) -> float:
    """The quantile of a metric on its bad side.

    A count's is a whole number, and a share's no less than 0.
    """
    best = record.most if record.better == "high" and record.most is not None else 0.0
    distances = [abs(best - value) if record.better == "high" else value for value in map(float, values)]
    found = upper([math.inf if math.isnan(distance) else distance for distance in distances])
    if record.count:
        found = math.ceil(found - 1e-9) if math.isfinite(found) else found
    return found if record.better == "low" else max(best - found, record.least or -1.0)


def quantiles(draws: Sequence[Judgement], own: Iterable[str] = ()) -> dict[str, dict[str, float]]:
    """Output -> metric -> quantile over the judgements of draws; what has no value in one of them is left out.

    Args:
      draws: judged alike.
      own: names of one's own metrics.
    """
    records: dict[str, Metric] = {name: METRICS[name] for name in TOLD} | dict(DETECTIONS)
    records |= {name: own_metric(name, lambda a, b: math.nan) for name in own}
    found: dict[str, dict[str, float]] = {}
    for name in draws[0].outputs if draws else ():
        judged = [draw.outputs[name] for draw in draws if name in draw.outputs]
        if len(judged) < len(draws):
            continue
        for metric, record in records.items():
            values = [_value(output, metric) for output in judged]
            known = [value for value in values if value is not None]
            if len(known) == len(draws):
                found.setdefault(name, {})[metric] = quantile(known, record)
    return found


def _value(output: Judged, metric: str) -> float | None:
    if metric in DETECTIONS:
        return None if output.detections is None else float(output.detections.value(metric))
    if output.problem is not None:
        return math.nan
    value = output.values[metric] if metric in output.values and output.is_compared else None
    return None if value is None else float(value)
