"""Two tensors of one shape and their differences, in float64: what metrics are computed of.

This very file goes into plan folders: Python 3.8 and numpy are all it needs.

Treatment of special values, the same in all metrics:

- Two values that are both NaN, or the same infinity, agree: their difference is 0. Any other difference with a NaN
  is NaN, with an infinity infinite.
- A scalar is one row of one element.
- Booleans count as 0 and 1. Strings differ by 0 or 1. Integers are subtracted exactly, past 2^53 too.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray; plan folders run under a numpy whose arrays cannot be subscripted


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
        raise ValueError("shapes differ: %s and %s" % (list(reference.shape), list(candidate.shape)))
    if reference.dtype.kind in "OUS" or candidate.dtype.kind in "OUS":
        return np.asarray(reference.astype(str) != candidate.astype(str)).astype(np.float64)
    if reference.dtype.kind in "iu" and candidate.dtype.kind in "iu":
        return _integer_difference(reference, candidate)
    a, b = as_float64(reference), as_float64(candidate)
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.asarray(b - a)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if delta.ndim == 0:
        return np.asarray(0.0) if same else delta
    delta[same] = 0.0
    return delta


def _integer_difference(reference: Array, candidate: Array) -> Array:
    """Exact before it becomes a float64, which cannot tell neighbors above 2^53 apart.

    Subtraction modulo 2^64 is exact for the larger less the smaller, whatever their signs.
    """
    if "u" in (reference.dtype.kind, candidate.dtype.kind) and reference.dtype.kind != candidate.dtype.kind:
        if max(x.dtype.itemsize for x in (reference, candidate) if x.dtype.kind == "u") < 8:
            return _integer_difference(reference.astype(np.int64), candidate.astype(np.int64))
        exact = np.subtract(candidate.astype(object), reference.astype(object))
        return np.asarray(exact).astype(np.float64)
    larger = candidate >= reference
    a, b = reference.astype(np.uint64), candidate.astype(np.uint64)
    with np.errstate(over="ignore"):
        size = np.where(larger, b - a, a - b).astype(np.float64)
    return np.asarray(np.where(larger, size, -size))


class Pair:
    """Two tensors of one shape, and what several metrics need of them, computed once.

    Attributes:
      reference: what is right.
      candidate: what is judged.
    """

    def __init__(self, reference: Array, candidate: Array) -> None:
        self.reference, self.candidate = np.asarray(reference), np.asarray(candidate)

    @cached_property
    def delta(self) -> Array:
        """candidate - reference, see `difference`."""
        return difference(self.reference, self.candidate)

    @cached_property
    def error(self) -> Array:
        """Absolute differences."""
        return np.abs(self.delta)

    @cached_property
    def a(self) -> Array:
        """The reference in float64."""
        return as_float64(self.reference)

    @cached_property
    def b(self) -> Array:
        """The candidate in float64."""
        return as_float64(self.candidate)

    @cached_property
    def row_sums(self) -> Array:
        """Sum of absolute differences of each row: over all axes but the first. Shape [rows]; a scalar is one row."""
        if self.error.ndim == 0:
            return self.error.reshape(1)
        return self.error.reshape(self.error.shape[0], -1 if self.error.size else 0).sum(axis=1)

    @cached_property
    def agreement(self) -> Array:
        """Whether each row has its largest element at the same place; see `top1`."""
        return _top1_agreement(self)

    @cached_property
    def finite(self) -> Any:
        """(which elements of the reference, which of the candidate) are neither NaN nor infinite."""
        return finite(self.reference), finite(self.candidate)

    @property
    def is_number(self) -> bool:
        """No strings."""
        return self.reference.dtype.kind not in "OUS" and self.candidate.dtype.kind not in "OUS"

    @property
    def is_float(self) -> bool:
        """Floats, those of ml_dtypes included."""
        return self.reference.dtype.kind in "fV"


def finite(x: Array) -> Array:
    """Whether each element is neither NaN nor infinite; integers, booleans and strings always are."""
    x = np.asarray(x)
    if x.dtype.kind in "biuOUS":
        return np.ones(x.shape, bool)
    return np.asarray(np.isfinite(x if x.dtype.kind == "f" else x.astype(np.float32)))


def _top1_agreement(pair: Pair) -> Array:
    """Rows are all axes but the last; ties go to the first; for integers and strings each element is a row.

    A row with a NaN agrees only where the reference has its first NaN at the same place.
    """
    reference, candidate = pair.reference, pair.candidate
    if reference.shape != candidate.shape:
        raise ValueError("shapes differ: %s and %s" % (list(reference.shape), list(candidate.shape)))
    if not reference.size:
        return np.ones(0, bool)
    if reference.dtype.kind in "biuOUS" or reference.ndim == 0:
        same = pair.delta == 0
        # a scalar has only itself to choose from
        return np.ones(1, bool) if reference.dtype.kind in "fV" else np.asarray(same).reshape(-1)
    a, b = rows64(reference), rows64(candidate)
    same_place = np.argmax(a, axis=-1) == np.argmax(b, axis=-1)
    lost = np.isnan(b).any(axis=-1) & ~np.isnan(a).any(axis=-1)
    return np.asarray(same_place & ~lost)


def rows64(x: Array) -> Array:
    """All axes but the last as rows, in float64."""
    return as_float64(x).reshape(-1, x.shape[-1])


def norm(x: Array) -> float:
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


def log_softmax(rows: Array) -> Array:
    """Of each row; the largest element is taken off first, so that nothing overflows."""
    shifted = rows - rows.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
