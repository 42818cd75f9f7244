"""How far a candidate's tensor is from the reference's: one record a metric, computed in float64.

This very file goes into plan folders: Python 3.8 and numpy are all it needs. A metric is added by adding its `Metric`
to `METRICS`; bounds, merging over batches, JSON, schema, help and tables follow from the record.

What two values differ by that are NaN or infinite is said in `differences`; one that is NaN or infinite itself makes a
bound fail. An empty tensor has no differences: 0 for every distance, 1 for `cosine` and `top1`. The judge takes it for
no proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Union

import numpy as np

from .differences import Array, Pair, finite, log_softmax, norm, rows64

Value = Union[float, int, None]

PROBABILITY_SUM_TOLERANCE = 1e-2
"""Rows that are not negative and sum to 1 within this are probabilities (FP16 sums of many classes drift)."""


JUST_BEYOND = 1.0 + 2.0**-52
"""The score of a bound that is missed by less than float64 can say."""


def _max_abs(pair: Pair) -> float:
    return float(pair.error.max()) if pair.error.size else 0.0


def _mean_abs(pair: Pair) -> float:
    return float(pair.error.mean()) if pair.error.size else 0.0


def _p99_abs(pair: Pair) -> float:
    error = pair.error.reshape(-1)
    if not error.size:
        return 0.0
    if np.isnan(error).any():
        return math.nan
    # the smallest error that 99 % of the elements do not exceed: an element's own, so that infinities do not mix
    return float(np.partition(error, math.ceil(0.99 * error.size) - 1)[math.ceil(0.99 * error.size) - 1])


def _sad(pair: Pair) -> float:
    return float(pair.row_sums.max()) if pair.row_sums.size else 0.0


def _sad_mean(pair: Pair) -> float:
    return float(pair.row_sums.mean()) if pair.row_sums.size else 0.0


def _rel_l2(pair: Pair) -> float:
    if not pair.is_number:
        return float(pair.delta.any())
    error = norm(pair.delta)
    if error == 0:
        return 0.0
    size = norm(np.where(np.isfinite(pair.a), pair.a, 0.0))
    return error / size if size else (math.nan if math.isnan(error) else math.inf)


def _off(pair: Pair) -> float:
    finite = pair.finite[0]
    if not pair.is_number or bool(finite.all()):
        return _rel_l2(pair)
    return _rel_l2(Pair(pair.a[finite], pair.b[finite]))


def _cosine(pair: Pair) -> float:
    if not pair.is_number:
        return 1.0 - float(pair.delta.any())
    delta, a, b = pair.delta.reshape(-1), pair.a.reshape(-1), pair.b.reshape(-1)
    agreed = ~np.isfinite(a) & (delta == 0)
    a, b = np.where(agreed, 0.0, a), np.where(agreed, 0.0, b)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    na, nb = norm(a), norm(b)
    if na == 0 or nb == 0:
        return 1.0 if na == nb else 0.0
    return float(np.clip(np.dot(a / na, b / nb), -1.0, 1.0))


def _top1(pair: Pair) -> float:
    return float(pair.agreement.mean()) if pair.agreement.size else 1.0


def _sqnr_db(pair: Pair) -> float:
    ratio = _rel_l2(pair)
    if math.isnan(ratio):
        return math.nan
    return math.inf if ratio == 0 else (-math.inf if math.isinf(ratio) else -20 * math.log10(ratio))


def _top5(pair: Pair) -> Optional[float]:
    return top_k_overlap(pair.reference, pair.candidate)


def _kl_mean(pair: Pair) -> Optional[float]:
    found = kl_divergence(pair.reference, pair.candidate)
    return None if found is None else found[0]


def _kl_max(pair: Pair) -> Optional[float]:
    found = kl_divergence(pair.reference, pair.candidate)
    return None if found is None else found[1]


@dataclass(frozen=True)
class Metric:
    """One metric: all that anything needs to know of it.

    Attributes:
      name: its key in JSON and in a tolerance.
      of: computes it from a pair of tensors.
      title: what it is, for help, tables and the schema.
      better: "low" or "high": on which side a bound lies, and which batch is the worst.
      unit: "" for the unit of the values themselves or a pure number.
      merge: over batches: "worst" or "sum".
      bound: whether a tolerance may name it.
      least, most: of a bound; None where there is no end.
      count: a number of things rather than a measure: an integer.
      optional: some tensors have no value of it (None): integers have no KL divergence.
      shown: format of its value for people.
    """

    name: str
    of: Callable[[Pair], Value]
    title: str
    better: str = "low"
    unit: str = ""
    merge: str = "worst"
    bound: bool = False
    least: Optional[float] = 0.0
    most: Optional[float] = None
    count: bool = False
    optional: bool = False
    shown: str = "%.3g"

    def __reduce__(self) -> Any:
        """By its name, where it is one of ours: a search's workers answer with metrics, and functions do not travel."""
        if METRICS.get(self.name) is self or DETECTIONS.get(self.name) is self:
            return _by_name, (self.name,)
        return super().__reduce__()

    def holds(self, value: float, bound: float) -> bool:
        """Whether a value keeps a bound; NaN keeps none."""
        return value >= bound if self.better == "high" else value <= bound

    def ratio(self, value: float, bound: float) -> float:
        """How much of a bound a value takes: at most 1 where it holds, and only there.

        Of a cosine the root is taken, as it falls with the square of the error and every other metric grows with it.
        """
        if math.isnan(value):
            return math.inf
        holds = self.holds(value, bound)
        if self.count:  # a bound of 0 is common, and one more than allowed is worse than none all the same
            return min(1.0, value / bound if bound else 0.0) if holds else 1.0 + value - bound
        used, room = (1.0 - value, 1.0 - bound) if self.better == "high" else (value, bound)
        if room <= 0:
            return 0.0 if holds else math.inf
        part = max(0.0, used / room)
        if self.name == "cosine":
            part = math.sqrt(part)
        return min(1.0, part) if holds else max(part, JUST_BEYOND)

    def merged(self, before: Value, now: Value) -> Value:
        """Of two batches: their sum, or the worse of the two; NaN is worse than anything, None is no value."""
        if before is None or now is None:
            return now if before is None else before
        if self.merge == "sum":
            return before + now
        if math.isnan(before) or math.isnan(now):
            return math.nan
        return min(before, now) if self.better == "high" else max(before, now)

    def told(self, value: Any) -> str:
        """The value for people."""
        if value is None:
            return "-"
        if isinstance(value, str):
            return value
        return str(self.shown % value) + (" " + self.unit if self.unit else "")


def _known(*metrics: Metric) -> Dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


METRICS: Mapping[str, Metric] = _known(
    Metric("max_abs", _max_abs, "largest absolute difference", bound=True),
    Metric("mean_abs", _mean_abs, "mean absolute difference", bound=True),
    Metric("p99_abs", _p99_abs, "99th percentile of the absolute differences", bound=True),
    Metric("sad", _sad, "sum of absolute differences of the worst row", bound=True),
    Metric("rel_l2", _rel_l2, "norm of the difference over the norm of the reference", bound=True),
    Metric(
        "cosine", _cosine, "cosine of the angle between the two", "high", bound=True, least=None, most=1.0, shown="%.6f"
    ),
    Metric("top1", _top1, "share of rows with the same largest element", "high", bound=True, most=1.0, shown="%.4g"),
    Metric(
        "nonfinite",
        lambda p: int((~p.finite[1]).sum()),
        "elements that are NaN or infinite",
        merge="sum", count=True, shown="%d",
    ),
    Metric("off", _off, "relative L2 error over what is finite in the reference"),
    Metric("sad_mean", _sad_mean, "sum of absolute differences of a row, mean"),
    Metric(
        "nonfinite_reference",
        lambda p: int((~p.finite[0]).sum()),
        "elements that are so in the reference",
        merge="sum", count=True, shown="%d",
    ),
    Metric(
        "new_nonfinite",
        lambda p: int((p.finite[0] & ~p.finite[1]).sum()),
        "elements that are not finite in the candidate alone",
        merge="sum", count=True, shown="%d",
    ),
    Metric("sqnr_db", _sqnr_db, "signal to quantization noise", "high", "dB", shown="%.1f"),
    Metric("kl", _kl_mean, "KL divergence of the rows, mean", unit="nats", optional=True),
    Metric("kl_max", _kl_max, "KL divergence of the worst row", unit="nats", optional=True),
    Metric("top5", _top5, "share of the five largest that stayed among them", "high", optional=True, shown="%.4g"),
    Metric("rows", lambda p: int(p.agreement.size), "rows", merge="sum", count=True, shown="%d"),
    Metric(
        "flipped",
        lambda p: int(p.agreement.size - p.agreement.sum()),
        "rows whose largest element moved",
        merge="sum", count=True, shown="%d",
    ),
    Metric("elements", lambda p: int(p.reference.size), "elements", merge="sum", count=True, shown="%d"),
)  # fmt: skip
"""Every metric of a pair of tensors, by name."""

DETECTIONS: Mapping[str, Metric] = _known(
    Metric("missed", lambda p: None, "detections not found again", merge="sum", bound=True, count=True, shown="%d"),
    Metric("extra", lambda p: None, "detections that are new", merge="sum", bound=True, count=True, shown="%d"),
    Metric("min_iou", lambda p: None, "smallest overlap of matched boxes", "high", bound=True, most=1.0),
)
"""Metrics of sets of boxes, which `judging.detections` counts."""


def _by_name(name: str) -> Metric:
    return METRICS.get(name) or DETECTIONS[name]


BOUNDS: Mapping[str, Metric] = {name: metric for name, metric in {**METRICS, **DETECTIONS}.items() if metric.bound}
"""The metrics that a tolerance may name."""


def own_metric(name: str, function: Callable[[Array, Array], float]) -> Metric:
    """The record of a user's metric of (reference, candidate); larger is worse."""
    return Metric(name, lambda pair: float(function(pair.reference, pair.candidate)), name, bound=True, least=None)


class Measured(Mapping[str, Value]):
    """Values by the names of their metrics, of one pair or the worst over several; also read as attributes."""

    __slots__ = ("_records", "_values")

    def __init__(self, values: Mapping[str, Value], records: Mapping[str, Metric]) -> None:
        self._values, self._records = dict(values), dict(records)

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError("no metric %r was measured" % name) from None

    def __reduce__(self) -> Any:
        return Measured, (self._values, self._records)

    def number(self, name: str) -> float:
        """A value as a float; NaN where there is none."""
        value = self._values[name]
        return math.nan if value is None else float(value)

    def merged(self, other: "Measured") -> "Measured":
        """Of two batches; see `Metric.merged`."""
        return Measured(
            {name: record.merged(self[name], other[name]) for name, record in self._records.items()}, self._records
        )

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready; infinities and NaN as the strings "inf", "-inf" and "nan"."""
        return {name: json_number(value) for name, value in self._values.items()}


def measure(pair: Pair, records: Iterable[Metric] = tuple(METRICS.values())) -> Measured:
    """The metrics of one pair of tensors."""
    known = {record.name: record for record in records}
    return Measured({name: record.of(pair) for name, record in known.items()}, known)


def json_number(value: Any) -> Any:
    """A number that strict JSON can hold: NaN and infinities become strings, everything else stays."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def metric_of(name: str) -> Callable[[Array, Array], float]:
    """The metric of a name as a function of (reference, candidate)."""
    found = METRICS[name]
    return lambda reference, candidate: float(found.of(Pair(reference, candidate)) or 0.0)


max_abs, mean_abs, sad, rel_l2 = map(metric_of, ("max_abs", "mean_abs", "sad", "rel_l2"))
p99_abs, cosine, top1, sqnr_db = map(metric_of, ("p99_abs", "cosine", "top1", "sqnr_db"))


def nonfinite(x: Array) -> int:
    """How many elements are NaN or infinite."""
    return int(np.size(x) - finite(np.asarray(x)).sum())


def top_k_overlap(reference: Array, candidate: Array, k: int = 5) -> Optional[float]:
    """Mean share of the k largest elements of a row that are among the candidate's k largest; None below k + 1."""
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    if reference.ndim == 0 or reference.shape[-1] <= k or reference.dtype.kind not in "fV" or not reference.size:
        return None
    a = rows64(reference)
    b = np.nan_to_num(rows64(candidate), nan=-np.inf)
    ia, ib = np.argpartition(-a, k, axis=-1)[:, :k], np.argpartition(-b, k, axis=-1)[:, :k]
    return float((ia[:, :, None] == ib[:, None, :]).sum() / (k * len(ia)))


def kl_divergence(reference: Array, candidate: Array) -> Any:
    """(mean, worst) of KL(reference || candidate) over the rows, in nats.

    Rows are probabilities where none is negative and each sums to 1; otherwise logits, of which the softmax is
    taken in float64. NaN where the candidate is not finite; None for scalars, integers and last axes of one.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    if reference.ndim == 0 or reference.shape[-1] < 2 or reference.dtype.kind not in "fV" or not reference.size:
        return None
    a, b = rows64(reference), rows64(candidate)
    if not np.isfinite(a).all():
        return None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if are_probabilities(a):
            la, lb, p = np.log(a), np.log(b), a
        else:
            la, lb = log_softmax(a), log_softmax(b)
            p = np.exp(la)
        terms = np.where(p > 0, p * (la - lb), 0.0)
    rows = terms.sum(axis=-1)
    rows = np.where(rows < 0, 0.0, rows)  # rounding can take a divergence of 0 just below it
    return float(rows.mean()), float(rows.max())


def are_probabilities(rows: Array) -> bool:
    """Whether no element is negative and every row sums to 1."""
    return bool((rows >= 0).all() and (np.abs(rows.sum(axis=-1) - 1) < PROBABILITY_SUM_TOLERANCE).all())
