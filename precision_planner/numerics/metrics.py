"""How far a candidate's tensor is from the reference's: every metric of `planner diff`, computed in float64.

Treatment of special values, the same in all of them:

- Two values that are both NaN, or the same infinity, agree: their difference is 0. Any other difference with a NaN
  is NaN, with an infinity infinite; both make a bound fail (`within`).
- An empty tensor has no differences: 0 for every distance, 1 for `cosine` and `top1`.
- A scalar is one row of one element.
- Booleans count as 0 and 1. Strings differ by 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import ml_dtypes  # noqa: F401 - importing it registers bfloat16 and float8 with numpy
import numpy as np

from precision_planner.numerics.formats import FP16, Format, get_format

__all__ = [
    "HIGHER_IS_BETTER",
    "METRICS",
    "TensorMetrics",
    "cosine",
    "difference",
    "kl_divergence",
    "max_abs",
    "mean_abs",
    "nonfinite",
    "rel_l2",
    "sad",
    "sad_rows",
    "sqnr_db",
    "tensor_metrics",
    "top1",
    "top_k_overlap",
    "ulps",
    "within",
]

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 18
"""Elements handled at a time where a whole float64 copy of a large tensor would cost memory."""

PROBABILITY_SUM_TOLERANCE = 1e-2
"""Rows that are not negative and sum to 1 within this are probabilities (FP16 sums of many classes drift)."""


def as_float64(x: Array) -> Array:
    """Any numeric or boolean array as float64; 16-bit and 8-bit floats of ml_dtypes included."""
    x = np.asarray(x)
    if x.dtype.kind == "c":
        raise TypeError("complex tensors have no metrics here")
    if x.dtype == np.float64:
        return x
    return x.astype(np.float64)


def difference(reference: Array, candidate: Array) -> Array:
    """candidate - reference in float64, 0 where both are NaN or the same infinity.

    Args:
      reference: any shape; numbers, booleans or strings.
      candidate: the same shape.

    Raises:
      ValueError: the shapes differ.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {list(reference.shape)} and {list(candidate.shape)}")
    if reference.dtype.kind in "OUS" or candidate.dtype.kind in "OUS":
        return np.asarray(reference.astype(str) != candidate.astype(str)).astype(np.float64)
    if reference.dtype.kind in "iu" and candidate.dtype.kind in "iu":
        # float64 cannot tell neighbors above 2^53 apart; the 64-bit significand of extended precision can
        return (candidate.astype(np.longdouble) - reference.astype(np.longdouble)).astype(np.float64)
    a, b = as_float64(reference), as_float64(candidate)
    with np.errstate(invalid="ignore", over="ignore"):
        delta: Array = np.asarray(b - a)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if delta.ndim == 0:
        return np.asarray(0.0) if same else delta
    delta[same] = 0.0
    return delta


def sad_rows(reference: Array, candidate: Array) -> Array:
    """Sum of absolute differences of each row: over all axes but the first. Shape [rows]; a scalar is one row."""
    delta = np.abs(difference(reference, candidate))
    if delta.ndim == 0:
        return delta.reshape(1)
    return np.asarray(delta.reshape(delta.shape[0], math.prod(delta.shape[1:])).sum(axis=1))


def sad(reference: Array, candidate: Array) -> float:
    """Sum of absolute differences over all axes but the first, of the worst row; 0 for an empty tensor."""
    rows = sad_rows(reference, candidate)
    return float(rows.max()) if rows.size else 0.0


def max_abs(reference: Array, candidate: Array) -> float:
    """Largest absolute difference; NaN if any difference is."""
    delta = difference(reference, candidate)
    return float(np.abs(delta).max()) if delta.size else 0.0


def mean_abs(reference: Array, candidate: Array) -> float:
    """Mean absolute difference over all elements."""
    delta = difference(reference, candidate)
    return float(np.abs(delta).mean()) if delta.size else 0.0


def rel_l2(reference: Array, candidate: Array) -> float:
    """||candidate - reference|| / ||reference||, Euclidean, over the whole tensor.

    0 where nothing differs, also for a reference of zeros; inf where a reference of zeros is missed. Elements that
    are not finite in the reference (masks of -inf) stay out of its norm.
    """
    delta = difference(reference, candidate)
    error = _norm(delta)
    if error == 0:
        return 0.0
    a = _reference64(reference)
    size = _norm(np.where(np.isfinite(a), a, 0.0))
    return error / size if size else (math.nan if math.isnan(error) else math.inf)


def cosine(reference: Array, candidate: Array) -> float:
    """Cosine of the angle between the two tensors, flattened; in [-1, 1].

    1 for two zero tensors (and empty ones), 0 where exactly one is zero. Elements that agree without being finite
    stay out; any other element that is not finite makes it NaN.
    """
    delta = difference(reference, candidate).reshape(-1)
    a, b = _reference64(reference).reshape(-1), _reference64(candidate).reshape(-1)
    agreed = ~np.isfinite(a) & (delta == 0)
    a, b = np.where(agreed, 0.0, a), np.where(agreed, 0.0, b)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    na, nb = _norm(a), _norm(b)
    if na == 0 or nb == 0:
        return 1.0 if na == nb else 0.0
    return float(np.clip(np.dot(a / na, b / nb), -1.0, 1.0))


def top1(reference: Array, candidate: Array) -> float:
    """Share of rows (all axes but the last) whose largest element has the same index; ties go to the first.

    A row with a NaN agrees only where the reference has its first NaN at the same place. 1 for empty tensors.
    For integers (class ids) it is the share of equal elements.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    agree = _top1_agreement(reference, candidate)
    return float(agree.mean()) if agree.size else 1.0


def top_k_overlap(reference: Array, candidate: Array, k: int = 5) -> float | None:
    """Mean share of the k largest elements of a row that are among the candidate's k largest; None below k + 1."""
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    if reference.ndim == 0 or reference.shape[-1] <= k or reference.dtype.kind not in "fV" or not reference.size:
        return None
    a = _rows64(reference)
    b = np.nan_to_num(_rows64(candidate), nan=-np.inf)
    ia, ib = np.argpartition(-a, k, axis=-1)[:, :k], np.argpartition(-b, k, axis=-1)[:, :k]
    return float((ia[:, :, None] == ib[:, None, :]).sum() / (k * len(ia)))


def kl_divergence(reference: Array, candidate: Array) -> tuple[float, float] | None:
    """(mean, worst) of KL(reference || candidate) over the rows, in nats.

    Rows are probabilities where none is negative and each sums to 1; otherwise logits, of which the softmax is
    taken in float64. NaN where the candidate is not finite; None for scalars, integers and last axes of one.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    if reference.ndim == 0 or reference.shape[-1] < 2 or reference.dtype.kind not in "fV" or not reference.size:
        return None
    a, b = _rows64(reference), _rows64(candidate)
    if not np.isfinite(a).all():
        return None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if _are_probabilities(a):
            la, lb, p = np.log(a), np.log(b), a
        else:
            la, lb = _log_softmax(a), _log_softmax(b)
            p = np.exp(la)
        terms = np.where(p > 0, p * (la - lb), 0.0)
    rows = terms.sum(axis=-1)
    rows = np.where(rows < 0, 0.0, rows)  # rounding can take a divergence of 0 just below it
    return float(rows.mean()), float(rows.max())


def sqnr_db(reference: Array, candidate: Array) -> float:
    """Signal to quantization noise in decibels: 20 log10(||reference|| / ||difference||); inf where nothing differs."""
    ratio = rel_l2(reference, candidate)
    if math.isnan(ratio):
        return math.nan
    return math.inf if ratio == 0 else (-math.inf if math.isinf(ratio) else -20 * math.log10(ratio))


def ulps(reference: Array, candidate: Array, precision: str | Format = FP16) -> tuple[float, float]:
    """(largest, mean) difference in units of the format's spacing at the reference's magnitude.

    Below the smallest normal value the spacing is that of the subnormals. (0, 0) for an empty tensor.
    """
    fmt = get_format(precision)
    delta = np.abs(difference(reference, candidate))
    if not delta.size:
        return 0.0, 0.0
    size = np.abs(_reference64(reference))
    _, exponent = np.frexp(np.where(np.isfinite(size), size, fmt.max_finite))
    exponent = np.where(size == 0, fmt.min_exponent, exponent - 1)  # frexp gives 0 the exponent of 0.5
    exponent = np.clip(exponent, fmt.min_exponent, fmt.max_exponent)
    count = delta / np.ldexp(1.0, exponent - fmt.fraction_bits)
    return float(count.max()), float(count.mean())


def nonfinite(x: Array) -> int:
    """How many elements are NaN or infinite."""
    return int(np.size(x) - _finite(x).sum())


def _finite(x: Array) -> Array:
    """Whether each element is neither NaN nor infinite; integers, booleans and strings always are."""
    x = np.asarray(x)
    if x.dtype.kind in "biuOUS":
        return np.ones(x.shape, bool)
    return np.asarray(np.isfinite(x if x.dtype.kind == "f" else x.astype(np.float32)))


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "sad": sad,
    "max_abs": max_abs,
    "mean_abs": mean_abs,
    "rel_l2": rel_l2,
    "cosine": cosine,
    "top1": top1,
}
"""The metrics that a tolerance may name."""

HIGHER_IS_BETTER = frozenset({"cosine", "top1"})
"""Their tolerance is a lower bound; all others' an upper one."""


def within(metric: str, value: float, bound: float) -> bool:
    """Whether a metric's value keeps its bound; NaN keeps none."""
    return value >= bound if metric in HIGHER_IS_BETTER else value <= bound


@dataclass(frozen=True, slots=True)
class TensorMetrics:
    """All metrics of one tensor, or their worst over several batches.

    Attributes:
      max_abs, mean_abs, rel_l2, cosine, top1: see the functions of these names.
      sad: of the worst row; `sad_mean` is the mean over the rows.
      nonfinite: elements of the candidate that are NaN or infinite.
      nonfinite_reference: the same of the reference.
      new_nonfinite: elements that are not finite in the candidate alone.
      sqnr_db: decibels.
      max_ulp, mean_ulp: in units of the candidate's type.
      kl, kl_max: nats, None where the output is no distribution.
      top5: None where the last axis is no longer than 5.
      rows, flipped: how many rows there are and how many changed their largest element.
      elements: how many.
    """

    max_abs: float
    mean_abs: float
    sad: float
    rel_l2: float
    cosine: float
    top1: float
    nonfinite: int
    sad_mean: float
    nonfinite_reference: int
    new_nonfinite: int
    sqnr_db: float
    max_ulp: float
    mean_ulp: float
    kl: float | None
    kl_max: float | None
    top5: float | None
    rows: int
    flipped: int
    elements: int

    def get(self, metric: str) -> float:
        """The value of a metric by its name."""
        return float(getattr(self, metric))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinities and NaN as the strings "inf", "-inf" and "nan"."""
        return {field.name: json_number(getattr(self, field.name)) for field in fields(self)}


def tensor_metrics(reference: Array, candidate: Array, precision: str | Format = FP16) -> TensorMetrics:
    """Every metric of one pair of tensors of the same shape.

    Args:
      reference: what is right.
      candidate: what is judged.
      precision: the candidate's type, for the ULPs.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    rows = sad_rows(reference, candidate)
    delta = np.abs(difference(reference, candidate))
    numeric = reference.dtype.kind not in "OUS"
    agree = _top1_agreement(reference, candidate)
    kl = kl_divergence(reference, candidate)
    ulp = ulps(reference, candidate, precision) if numeric else (0.0, 0.0)
    return TensorMetrics(
        max_abs=float(delta.max()) if delta.size else 0.0,
        mean_abs=float(delta.mean()) if delta.size else 0.0,
        sad=float(rows.max()) if rows.size else 0.0,
        rel_l2=rel_l2(reference, candidate) if numeric else float(delta.any()),
        cosine=cosine(reference, candidate) if numeric else 1.0 - float(delta.any()),
        top1=float(agree.mean()) if agree.size else 1.0,
        nonfinite=nonfinite(candidate),
        sad_mean=float(rows.mean()) if rows.size else 0.0,
        nonfinite_reference=nonfinite(reference),
        new_nonfinite=int((_finite(reference) & ~_finite(candidate)).sum()),
        sqnr_db=sqnr_db(reference, candidate) if numeric else math.inf,
        max_ulp=ulp[0],
        mean_ulp=ulp[1],
        kl=None if kl is None else kl[0],
        kl_max=None if kl is None else kl[1],
        top5=top_k_overlap(reference, candidate),
        rows=int(agree.size),
        flipped=int(agree.size - agree.sum()),
        elements=int(reference.size),
    )


def json_number(value: Any) -> Any:
    """A number that strict JSON can hold: NaN and infinities become strings, everything else stays."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _top1_agreement(reference: Array, candidate: Array) -> Array:
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {list(reference.shape)} and {list(candidate.shape)}")
    if not reference.size:
        return np.ones(0, bool)
    if reference.dtype.kind in "biuOUS" or reference.ndim == 0:
        same = difference(reference, candidate) == 0
        # a scalar has only itself to choose from
        return np.ones(1, bool) if reference.dtype.kind in "fV" else np.asarray(same).reshape(-1)
    a, b = _rows64(reference), _rows64(candidate)
    same_place: Array = np.argmax(a, axis=-1) == np.argmax(b, axis=-1)
    lost = np.isnan(b).any(axis=-1) & ~np.isnan(a).any(axis=-1)
    return np.asarray(same_place & ~lost)


def _rows64(x: Array) -> Array:
    return as_float64(x).reshape(-1, x.shape[-1])


def _reference64(x: Array) -> Array:
    return as_float64(np.asarray(x))


def _norm(x: Array) -> float:
    """Euclidean norm, without overflow for magnitudes past 1e154."""
    flat = x.reshape(-1)
    if not flat.size:
        return 0.0
    largest = float(np.abs(flat).max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    if 1e-140 < largest < 1e140:
        return math.sqrt(float(np.dot(flat, flat)))
    scaled = flat / largest
    return largest * math.sqrt(float(np.dot(scaled, scaled)))


def _are_probabilities(rows: Array) -> bool:
    return bool((rows >= 0).all() and (np.abs(rows.sum(axis=-1) - 1) < PROBABILITY_SUM_TOLERANCE).all())


def _log_softmax(rows: Array) -> Array:
    shifted = rows - rows.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
