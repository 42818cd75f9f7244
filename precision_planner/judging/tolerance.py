"""Tolerances: `[OUTPUT:]METRIC=VALUE` from the command line, dicts from Python."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any

from precision_planner.errors import ToleranceError
from precision_planner.judging.judge import OwnMetric, Tolerance
from precision_planner.judging.metrics import BOUNDS, DETECTIONS, METRICS


def parse_tolerances(given: Mapping[str, float] | Iterable[str | Tolerance] | None) -> tuple[Tolerance, ...]:
    """Read tolerances.

    Args:
      given: ``["sad=1e-3", "logits:cosine=0.999"]``, or ``{"sad": 1e-3, "logits:cosine": 0.999}``, or None.

    Raises:
      ToleranceError: no METRIC=VALUE, an unknown metric, or a value that is no finite number.
    """
    if given is None:
        return ()
    if isinstance(given, (str, Tolerance)):
        given = [given]
    if isinstance(given, (int, float)):
        raise ToleranceError(
            f"tolerance {given!r} says no metric; write {{'max_abs': {given!r}}} or 'max_abs={given!r}'"
        )
    if isinstance(given, Mapping):
        return tuple(_make(key, value, f"{key}={value}") for key, value in given.items())
    return tuple(item if isinstance(item, Tolerance) else _parse(item) for item in given)


def check_outputs(tolerances: Iterable[Tolerance], outputs: Iterable[str], metrics: Iterable[str] = ()) -> None:
    """Refuse a tolerance that names an output which does not exist, or one's own metric that was not given."""
    names = list(outputs)
    known = {*BOUNDS, *metrics}
    for tolerance in tolerances:
        if tolerance.output is not None and not any(map(tolerance.about, names)):
            raise ToleranceError(f"tolerance {tolerance} names no output; the outputs are {', '.join(names) or 'none'}")
        if tolerance.metric not in known:
            raise ToleranceError(_unknown(tolerance.metric, str(tolerance), known))


def _parse(text: str) -> Tolerance:
    left, equals, right = text.rpartition("=")
    if not equals or not left:
        raise ToleranceError(f"tolerance {text!r} is not [OUTPUT:]METRIC=VALUE, as in sad=1e-3 or logits:top1=0.99")
    return _make(left.strip(), right.strip(), text)


def _make(name: str, value: object, text: str) -> Tolerance:
    # an output's name may hold colons itself ("StatefulPartitionedCall:0"); a metric's does not
    output, colon, metric = name.rpartition(":")
    try:
        bound = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ToleranceError(f"tolerance {text!r}: {value!r} is not a number; give one as in {metric}=1e-3") from None
    if math.isnan(bound):
        raise ToleranceError(f"tolerance {text!r}: nothing is within NaN; give a number")
    if not metric.isidentifier():
        raise ToleranceError(f"tolerance {text!r} is not [OUTPUT:]METRIC=VALUE, as in sad=1e-3 or logits:top1=0.99")
    record = BOUNDS.get(metric)
    if record is not None and record.least is not None and bound < record.least:
        raise ToleranceError(f"tolerance {text!r}: {metric} is never below 0; give a bound of 0 or more")
    if record is not None and record.most is not None and bound > record.most:
        raise ToleranceError(f"tolerance {text!r}: {metric} is never above 1; give a share, as in {metric}=0.99")
    return Tolerance(metric, bound, output if colon else None)


def check_metrics(tolerances: Iterable[Tolerance], own: Iterable[str] = ()) -> None:
    """Refuse unknown metrics before anything runs, and own ones that go by the name of one that there is."""
    own = tuple(own)
    taken = sorted({*METRICS, *DETECTIONS}.intersection(own))
    if taken:
        raise ToleranceError(f"the metric {taken[0]} has the name of one that there is; give your function another")
    known = {*BOUNDS, *own}
    for tolerance in tolerances:
        if tolerance.metric not in known:
            raise ToleranceError(_unknown(tolerance.metric, str(tolerance), known))


def check_detections(tolerances: Iterable[Tolerance], is_detector: bool) -> None:
    """Refuse bounds on detections where no output is known to hold any."""
    for tolerance in tolerances:
        if tolerance.metric in DETECTIONS and tolerance.output is None and not is_detector:
            raise ToleranceError(
                f"tolerance {tolerance} is about boxes, and no output is known to hold any; name the output that does, "
                f"as in boxes:{tolerance}"
            )


def tightened(tolerance: Tolerance, margin: float) -> Tolerance:
    """A bound that a prediction must keep for the result to keep the one given; counts stay as they are."""
    record = tolerance.record
    if record.count:
        return tolerance
    if record.better == "high":
        return replace(tolerance, bound=1.0 - (1.0 - tolerance.bound) / margin)
    return replace(tolerance, bound=tolerance.bound - abs(tolerance.bound) * (1.0 - 1.0 / margin))


def bounds_told() -> str:
    """The metrics that a tolerance may name, for help."""
    upper = ", ".join(name for name, record in BOUNDS.items() if record.better == "low")
    lower = ", ".join(name for name, record in BOUNDS.items() if record.better == "high")
    return f"{upper} (upper bounds), {lower} (lower)"


def guarded(metrics: Mapping[str, OwnMetric] | None) -> dict[str, OwnMetric]:
    """One's own metrics, whose failures are their authors' mistakes: ToleranceError in one line."""
    return {name: _guarded(name, function) for name, function in (metrics or {}).items()}


def _guarded(name: str, function: OwnMetric) -> OwnMetric:
    @wraps(function)
    def guarded(reference: Any, candidate: Any) -> float:
        try:
            return float(function(reference, candidate))
        except (Exception, SystemExit) as error:  # the user's own code: whatever it raises is theirs to mend
            raise ToleranceError(
                f"the metric {name} failed: {type(error).__name__}: {error}; it takes two arrays and returns one number"
            ) from error

    return guarded


def _unknown(metric: str, text: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(metric, list(known), 1)
    hint = f"did you mean {near[0]}?" if near else f"the metrics are {', '.join(sorted(known))}"
    return f"tolerance {text!r}: there is no metric {metric!r}; {hint}"
