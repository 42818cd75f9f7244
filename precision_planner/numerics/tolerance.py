"""Tolerances: `[OUTPUT:]METRIC=VALUE` from the command line, dicts from Python."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from precision_planner.errors import ToleranceError
from precision_planner.numerics.metrics import HIGHER_IS_BETTER, METRICS, TensorMetrics, within


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A bound on one metric, of one output or (output None) of all.

    The bound is an upper one, but for `cosine` and `top1`, where it is a lower one.
    """

    metric: str
    bound: float
    output: str | None = None

    def holds(self, value: float) -> bool:
        """Whether a value keeps the bound; NaN keeps none."""
        return within(self.metric, value, self.bound)

    def __str__(self) -> str:
        return f"{self.output + ':' if self.output else ''}{self.metric}={self.bound:g}"


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
    if isinstance(given, Mapping):
        return tuple(_make(key, value, f"{key}={value}") for key, value in given.items())
    return tuple(item if isinstance(item, Tolerance) else _parse(item) for item in given)


def check_outputs(tolerances: Iterable[Tolerance], outputs: Iterable[str], metrics: Iterable[str] = ()) -> None:
    """Refuse a tolerance that names an output which does not exist, or one's own metric that was not given."""
    names = list(outputs)
    known = {*METRICS, *metrics}
    for tolerance in tolerances:
        if tolerance.output is not None and tolerance.output not in names:
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
    if metric in METRICS and metric not in HIGHER_IS_BETTER and bound < 0:
        raise ToleranceError(f"tolerance {text!r}: {metric} is never below 0; give a bound of 0 or more")
    if metric in HIGHER_IS_BETTER and bound > 1:
        raise ToleranceError(f"tolerance {text!r}: {metric} is never above 1; give a share, as in {metric}=0.99")
    return Tolerance(metric, bound, output if colon else None)


def check_metrics(tolerances: Iterable[Tolerance], own: Iterable[str] = ()) -> None:
    """Refuse unknown metrics before anything runs, and own ones that go by the name of one that there is."""
    own = tuple(own)
    taken = sorted({field.name for field in fields(TensorMetrics)}.intersection(own))
    if taken:
        raise ToleranceError(f"the metric {taken[0]} has the name of one that there is; give your function another")
    known = {*METRICS, *own}
    for tolerance in tolerances:
        if tolerance.metric not in known:
            raise ToleranceError(_unknown(tolerance.metric, str(tolerance), known))


def _unknown(metric: str, text: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(metric, list(known), 1)
    hint = f"did you mean {near[0]}?" if near else f"the metrics are {', '.join(sorted(known))}"
    return f"tolerance {text!r}: there is no metric {metric!r}; {hint}"
