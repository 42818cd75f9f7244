"""The one judge: outputs, bounds -> what holds, how far from it, and what could not be compared.

Search, plan, rewrite, diff, compat and the verify.py of a plan folder use this very file: Python 3.8 and numpy are all
it needs. `judging.verdict` puts what is found here into words.

What keeps no bound, whatever its numbers: an output that is missing, of another shape, type or length; one with a NaN
or infinity where the reference has a finite value; detections that are lost, beyond what `missed` and `extra` allow;
and an output of which nothing was compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .detections import Evidence, Matched, SetMatcher
from .differences import Pair
from .metrics import (
    BOUNDS,
    DETECTIONS,
    METRICS,
    Measured,
    Metric,
    are_probabilities,
    json_number,
    measure,
    own_metric,
)

OwnMetric = Callable[[Any, Any], float]
"""A user's metric of (reference, candidate); larger is worse."""

LEAST = ("elements", "new_nonfinite", "nonfinite_reference")
"""Metrics without which nothing is judged."""

ALWAYS = ("elements", "new_nonfinite", "nonfinite_reference", "rows", "flipped", "max_abs", "rel_l2", "off", "top1")
"""Metrics that a verdict needs, besides those of the bounds."""

UNIT = 1e-3
"""Rows whose norm is 1 within this are embeddings, and no scores of classes."""


@dataclass(frozen=True)
class Tolerance:
    """A bound on one metric, of one output or (output None) of all.

    Whether it is an upper or a lower one is the metric's to say.
    """

    metric: str
    bound: float
    output: Optional[str] = None

    @property
    def record(self) -> Metric:
        """What is known of the metric; one's own are upper bounds."""
        return BOUNDS.get(self.metric) or own_metric(self.metric, lambda a, b: math.nan)

    def holds(self, value: float) -> bool:
        """Whether a value keeps the bound; NaN keeps none."""
        return self.record.holds(value, self.bound)

    def about(self, output: str) -> bool:
        """Whether it bounds an output; the elements of a sequence are meant with it."""
        return self.output is None or self.output == output or output.startswith(self.output + "[")

    def __str__(self) -> str:
        return "%s%s=%g" % (self.output + ":" if self.output else "", self.metric, self.bound)


@dataclass(frozen=True)
class Problem:
    """An output that cannot be compared.

    Attributes:
      output: its name.
      kind: "missing", "shape", "type" or "sequence".
      text: what is wrong, for people.
    """

    output: str
    kind: str
    text: str


@dataclass(frozen=True)
class Judged:
    """One output, over all batches.

    Attributes:
      name: the output's.
      shape, dtype: of the reference, in the last batch.
      values: the worst of every metric asked for.
      is_classes: its rows are scores of classes (or its elements are labels): `flipped` counts changes of class.
      detections: how its sets of boxes match; None where it is none.
      problem: why it cannot be compared; None where it can.
    """

    name: str
    shape: Tuple[int, ...]
    dtype: str
    values: Measured
    is_classes: bool = False
    detections: Optional[Matched] = None
    problem: Optional[Problem] = None

    @property
    def is_compared(self) -> bool:
        """Whether any element was; an empty match and an empty output prove nothing."""
        return self.problem is None and bool(self.values["elements"])

    @property
    def is_finite(self) -> bool:
        """No element is NaN or infinite that is finite in the reference."""
        return not self.values["new_nonfinite"]

    @property
    def flips(self) -> float:
        """Share of the rows that changed class; 0 where there are no classes."""
        return self.values.number("flipped") / max(1.0, self.values.number("rows")) if self.is_classes else 0.0


@dataclass(frozen=True)
class Failure:
    """A bound that is not kept."""

    output: str
    metric: str
    value: float
    bound: float

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        return {
            "output": self.output,
            "metric": self.metric,
            "value": json_number(self.value),
            "bound": json_number(self.bound),
        }


@dataclass(frozen=True)
class Judgement:
    """What was found.

    Attributes:
      score: the worst of value/bound over all bounds; within tolerance up to 1. Infinite where an output is not finite
        that is so in the reference, where one cannot be compared, and where nothing was.
      energies: output -> its squared relative L2 error, summed over the batches (absolute where the reference is zero).
        Contributions of independent roundings add up in it, which they do in no tolerance's metric.
      values: "OUTPUT:METRIC" -> its worst value over the batches, of every bound.
      scores: output -> the worst part of its own bounds.
      finite: no output is infinite or NaN that is finite in the reference.
      outputs: by name, in the reference's order.
      failures: the bounds that are not kept.
      batches: how many were compared.
    """

    score: float
    energies: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    finite: bool = True
    outputs: Mapping[str, Judged] = field(default_factory=dict)
    failures: Tuple[Failure, ...] = ()
    batches: int = 0

    @property
    def energy(self) -> float:
        """The energies of all judged outputs."""
        return math.fsum(self.energies.values())

    @property
    def problems(self) -> Tuple[Problem, ...]:
        """What could not be compared."""
        return tuple(output.problem for output in self.outputs.values() if output.problem is not None)

    @property
    def compared(self) -> int:
        """How many elements were compared, of all outputs."""
        return int(sum(output.values.number("elements") for output in self.outputs.values() if output.is_compared))

    @property
    def passed(self) -> bool:
        """Every bound holds, everything could be compared, something was, and nothing was lost to NaN or infinity."""
        return self.score <= 1.0


class Judge:
    """Judges outputs batch by batch; holds none of them.

    Args:
      bounds: the tolerance; may be empty.
      own: one's own metrics by name.
      evidence: which outputs hold boxes or classes, as far as it is known.
      metrics: what is measured; None measures what a verdict needs and the bounds name.
    """

    def __init__(
        self,
        bounds: Iterable[Tolerance] = (),
        own: Optional[Mapping[str, OwnMetric]] = None,
        evidence: Optional[Evidence] = None,
        metrics: Optional[Iterable[Metric]] = None,
    ) -> None:
        self.bounds = tuple(bounds)
        mine = [own_metric(name, function) for name, function in (own or {}).items()]
        named = {bound.metric for bound in self.bounds}
        chosen = (
            [METRICS[name] for name in METRICS if name in named.union(ALWAYS)] if metrics is None else list(metrics)
        )
        self._metrics = [*chosen, *mine]
        self._records = {metric.name: metric for metric in self._metrics}
        boxes = [b.output for b in self.bounds if b.metric in DETECTIONS and b.output is not None]
        self.evidence = (evidence or Evidence()).naming(boxes)
        self.matcher = SetMatcher(self.evidence)
        self._seen: Dict[str, Measured] = {}
        self._facts: Dict[str, Tuple[Tuple[int, ...], str]] = {}
        self._classes: Dict[str, bool] = {}
        self._energies: Dict[str, float] = {}
        self._problems: Dict[str, Problem] = {}
        self._lost_in_problems = False
        self._batches = 0

    def add(self, expected: Mapping[str, Any], given: Mapping[str, Any]) -> Dict[str, Tuple[Pair, Measured]]:
        """Judge one batch.

        Args:
          expected: the reference's outputs: arrays, sequences of them (or of maps), None.
          given: the candidate's.

        Returns:
          What could be compared, with its metrics, by output: detections in the reference's order, sequences element by
          element.

        Raises:
          TypeError: an output of the reference has no metrics: complex numbers, records.
        """
        ours, theirs = self.matcher.align(expected, given)
        pairs: Dict[str, Tuple[Pair, Measured]] = {}
        for name, a, b in _flat(ours, theirs):
            found = compared(name, a, b)
            if isinstance(found, Problem):
                self._note_problem(found, a, b)
                continue
            measured = measure(found, self._metrics)
            pairs[name] = (found, measured)
            self._seen[name] = self._seen[name].merged(measured) if name in self._seen else measured
            self._facts[name] = (found.reference.shape, str(found.reference.dtype))
            if "flipped" in measured and found.reference.size and not self._classes.get(name):
                self._classes[name] = self._has_classes(name, found)
            self._energies[name] = self._energies.get(name, 0.0) + _energy(found)
        self._batches += 1
        return pairs

    def result(self) -> Judgement:
        """Everything judged so far."""
        outputs = {name: self._judged(name) for name in dict.fromkeys([*self._seen, *self._problems])}
        finite = all(output.is_finite for output in outputs.values()) and not self._lost_in_problems
        failures: List[Failure] = []
        values: Dict[str, float] = {}
        scores: Dict[str, float] = {}
        sets = [name for name, output in outputs.items() if output.detections is not None]
        for bound in self._all_bounds(outputs):
            about = [name for name in outputs if bound.about(name)]
            if bound.metric in DETECTIONS and (bound.output is None or any(name in sets for name in about)):
                about = [name for name in about if name in sets] or about[:1]
            for name in about:
                output = outputs[name]
                if bound.output is None and self._is_empty(output):
                    continue  # an output that is empty on both sides says nothing about the others
                value = _value(bound.metric, output)
                values["%s:%s" % (name, bound.metric)] = value
                part = bound.record.ratio(value, bound.bound)
                scores[name] = max(scores.get(name, 0.0), part)
                if not bound.holds(value):
                    failures.append(Failure(name, bound.metric, value, bound.bound))
        energies = {
            name: math.inf
            if output.problem is not None
            else self._energies[name] + (0.0 if output.detections is None else output.detections.lost_share)
            for name, output in outputs.items()
            if any(bound.about(name) for bound in self.bounds)
        }
        found = Judgement(0.0, energies, values, scores, finite, outputs, tuple(failures), self._batches)
        lost = not finite or bool(found.problems) or not found.compared
        return replace(found, score=math.inf if lost else max(scores.values(), default=0.0))

    def _is_empty(self, output: Judged) -> bool:
        """Whether an output that holds no detections is empty on both sides."""
        return output.problem is None and not output.values["elements"] and output.name not in self.matcher.groups

    def _all_bounds(self, outputs: Mapping[str, Judged]) -> List[Tolerance]:
        """The bounds given, and where one is about detections: that none is lost, unless it is said how many may be."""
        bounds: List[Tolerance] = []
        for name, output in outputs.items():
            rows = [other for other, boxes in self.matcher.groups.items() if boxes == name]
            if output.detections is None or not any(bound.about(row) for bound in self.bounds for row in rows):
                continue
            for metric in ("missed", "extra"):
                if not any(bound.metric == metric and bound.about(name) for bound in self.bounds):
                    bounds.append(Tolerance(metric, 0.0, name))
        return [*bounds, *self.bounds]

    def _judged(self, name: str) -> Judged:
        shape, dtype = self._facts.get(name, ((), ""))
        values = self._seen.get(name)
        if values is None:
            values = Measured(
                {key: 0 if record.merge == "sum" else math.nan for key, record in self._records.items()}, self._records
            )
        detections = self.matcher.found.get(name)
        group = self.matcher.found.get(self.matcher.groups.get(name, ""))
        if group is not None and not group.matched and (group.reference or group.candidate):
            # a distance over an empty match is no distance
            values = Measured(
                {k: v if self._records[k].merge == "sum" else math.nan for k, v in values.items()}, self._records
            )
        return Judged(name, shape, dtype, values, self._classes.get(name, False), detections, self._problems.get(name))

    def _note_problem(self, found: Problem, a: Any, b: Any) -> None:
        self._problems.setdefault(found.output, found)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            self._facts[found.output] = (a.shape, str(a.dtype))
            if a.dtype.kind in "fV" and b.dtype.kind in "fV" and _all_finite(a) and not _all_finite(b):
                self._lost_in_problems = True

    def _has_classes(self, name: str, pair: Pair) -> bool:
        """Whether the rows of an output are scores of classes, so that another largest element is another answer.

        Known from the graph where it says so; else probabilities are, as are the rows of a matrix unless they are unit
        vectors, and whatever calls itself logits. Labels (wide integers, booleans, strings) are classes themselves.
        """
        x = pair.reference
        if name in self.matcher.groups:
            return False
        if not pair.is_float:
            return x.dtype.kind in "bOUS" or x.dtype.itemsize >= 4  # narrow integers are pixels, or quantized values
        if x.ndim == 0 or x.shape[-1] < 2:
            return False
        if x.ndim > 3:
            return False  # maps, and attention: their last axis is a place
        if name in self.evidence.classes:
            return self.evidence.classes[name]
        rows = pair.a.reshape(-1, x.shape[-1])
        if not np.isfinite(rows).all():
            rows = rows[np.isfinite(rows).all(axis=1)]
        if len(rows) and are_probabilities(rows):
            return True
        if any(word in name.lower() for word in ("logit", "prob", "class")):
            return True
        if x.ndim != 2:
            return False
        return not (len(rows) and bool((np.abs(np.linalg.norm(rows, axis=1) - 1) < UNIT).all()))


def judge(
    references: Sequence[Mapping[str, Any]],
    candidates: Sequence[Mapping[str, Any]],
    bounds: Iterable[Tolerance] = (),
    own: Optional[Mapping[str, OwnMetric]] = None,
    evidence: Optional[Evidence] = None,
    *,
    lean: bool = False,
) -> Judgement:
    """Judge a candidate's outputs, batch by batch, by those of the FP32 model.

    Args:
      references: the FP32 model's outputs, batch by batch.
      candidates: the candidate's.
      bounds: the tolerance.
      own: one's own metrics by name.
      evidence: which outputs hold boxes or classes.
      lean: measure only what the bounds name: enough for a search, but not for a grade.

    Raises:
      ValueError: not the same number of batches.
    """
    if len(references) != len(candidates):
        raise ValueError("%d batches of references and %d of candidates" % (len(references), len(candidates)))
    bounds = tuple(bounds)
    named = {bound.metric for bound in bounds}
    least = [record for name, record in METRICS.items() if name in named.union(LEAST)]
    one = Judge(bounds, own, evidence, least if lean else None)
    for expected, given in zip(references, candidates):
        one.add(expected, given)
    return one.result()


def compared(name: str, a: Any, b: Any) -> Any:
    """A `Pair`, or the `Problem` that keeps two values of an output from being compared.

    Raises:
      TypeError: the reference's has no metrics.
    """
    if b is _MISSING:
        return Problem(name, "missing", "output '%s' is missing in the candidate" % name)
    if _kind(a) != _kind(b):
        return Problem(
            name, "sequence", "output '%s' is %s in the reference and %s in the candidate" % (name, _kind(a), _kind(b))
        )
    a, b = np.asarray(a), np.asarray(b)
    for array in (a, b):
        if array.dtype.kind not in "fiubVOUS" or array.dtype.type is np.void:
            raise TypeError(
                "output '%s' holds %s, which has no metrics; save real numbers or strings" % (name, array.dtype)
            )
    if _family(a) != _family(b):
        return Problem(
            name, "type", "output '%s' is %s in the reference and %s in the candidate" % (name, a.dtype, b.dtype)
        )
    if a.shape != b.shape:
        return Problem(
            name,
            "shape",
            "output '%s' has shape %s in the reference and %s in the candidate" % (name, list(a.shape), list(b.shape)),
        )
    return Pair(a, b)


class _Missing:
    """What the candidate does not have at all."""


_MISSING = _Missing()


def _flat(expected: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """(name, reference's, candidate's) value; sequences of one length element by element, maps as rows."""
    for name in expected:
        a, b = _as_rows(expected[name]), _as_rows(given.get(name, _MISSING))
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for number, (x, y) in enumerate(zip(a, b)):
                yield "%s[%d]" % (name, number), np.asarray(x), np.asarray(y)
        elif not (a is None and b is None):
            yield name, a, b


def _as_rows(value: Any) -> Any:
    """A sequence of maps (of class to probability) as one row a map, in the order of the keys; all else as it is."""
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        return value
    keys = sorted({key for entry in value for key in entry})
    return np.array([[entry.get(key, np.nan) for key in keys] for entry in value])


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    return "a sequence of %d" % len(value) if isinstance(value, list) else "an array"


def _family(x: Any) -> str:
    """Types of one family are compared: floats of any width, integers of any, strings, booleans."""
    kind = x.dtype.kind
    return "float" if kind in "fV" else "integer" if kind in "iu" else "text" if kind in "OUS" else "boolean"


def _all_finite(x: Any) -> bool:
    return bool(np.isfinite(x.astype(np.float64)).all())


def _value(metric: str, output: Judged) -> float:
    """The value that a bound is held against: NaN, which keeps none, for what was lost or not compared."""
    if output.problem is not None or not output.is_finite:
        return math.nan
    if metric in DETECTIONS:
        if output.detections is None or not (output.detections.reference or output.detections.candidate):
            return math.nan
        return output.detections.value(metric)
    return output.values.number(metric) if output.is_compared else math.nan


def _energy(pair: Pair) -> float:
    if not pair.is_float:
        return 0.0
    finite = np.isfinite(pair.a)
    if not np.isfinite(pair.b[finite]).all():
        return math.inf
    size = float(np.square(pair.a[finite]).sum())
    error = float(np.square(pair.b[finite] - pair.a[finite]).sum())
    return error / size if size else error
