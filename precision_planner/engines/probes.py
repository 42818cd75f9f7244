"""Runs of a weight's values, as they would stand in an engine: what is looked for in its bytes.

A run is eight bytes: two float32 values, or four of 16 bits, that follow each other along one axis of the tensor: along
the last as an engine that keeps the tensor's order has them, along another where it transposes; every fourth or eighth
value of an axis where it deals tiles to threads (the filters of TensorRT 10.6's Winograd kernels, every fourth). A run
tells only if its values differ from each other and, where float32 is asked for, cannot be had from a half or a
bfloat16: every float32 value of the run has bits that both lack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

__all__ = ["FORMS", "Form", "Probe", "probes_of"]

Form = Literal["fp32", "fp16", "bf16", "saturated"]
FORMS: tuple[Form, ...] = ("fp32", "fp16", "saturated", "bf16")
"""As stored; rounded to half by IEEE; rounded to half with range saturated (weak TensorRT); rounded to bfloat16."""

VALUES = 64
"""Values whose runs are looked for, a form, axis and step."""

STEPS = (1, 4, 8)
"""How far the values of a run stand from each other in the tensor."""

MANTISSA: dict[Form, int] = {"fp32": 2 * 23, "fp16": 4 * 10, "saturated": 4 * 10, "bf16": 4 * 7}
"""Bits of a run that are as good as random in another tensor's values; exponents and signs are not counted."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Probe:
    """The runs around some values of one tensor, in one form, along one axis.

    A value counts as found if one of the runs that hold it is: of a tile's values, each is in one that the tile's edge
    does not cut.

    Attributes:
      form: as what the values are stored.
      axis: along which they follow each other.
      step: how many values of that axis lie from one to the next.
      places: int64 [values], the flat index of each value.
      keys: uint64 [values, runs], the runs' eight bytes, little endian; those that do not tell are 0.
      starts: int64 [values, runs], the flat index of each run's first value.
    """

    form: Form
    axis: int
    step: int
    places: Array
    keys: Array
    starts: Array


def probes_of(values: Array, seed: int = 0) -> Iterator[Probe]:
    """The probes of a weight, float32 of any shape.

    Values are drawn at random, and beside them those that a half changes most: the largest. A form, axis and step with
    fewer than eight values that tell gives no probe.
    """
    rng = np.random.default_rng(seed)
    flat = values.reshape(-1)
    places = _drawn(flat, rng)
    at = np.stack(np.unravel_index(places, values.shape), 1)
    for axis, step in ((axis, step) for axis in range(values.ndim) for step in STEPS):
        apart = step * int(np.prod(values.shape[axis + 1 :], dtype=np.int64))
        for form in FORMS:
            length = 2 if form == "fp32" else 4
            back = np.arange(length)
            first = at[:, axis, None] - step * back
            inside = (first >= 0) & (first + step * (length - 1) < values.shape[axis])
            starts = np.where(inside, places[:, None] - apart * back, 0)
            rows = flat[np.minimum(starts[..., None] + apart * np.arange(length), flat.size - 1)]
            stored = np.ascontiguousarray(_stored(rows, form))
            keys = np.where(inside & _telling(rows, stored, form), stored.view(np.uint64)[..., 0], np.uint64(0))
            some = np.flatnonzero(keys.any(1))[:VALUES]
            if len(some) >= 8:
                yield Probe(form, axis, step, places[some], keys[some], starts[some])


def _drawn(flat: Array, rng: np.random.Generator) -> Array:
    """Flat indices: the four largest of (some of) the values first, then drawn ones."""
    size = np.abs(flat[:: max(1, flat.size >> 20)])
    largest = np.argpartition(size, -4)[-4:] if size.size > 4 else np.arange(size.size)
    places = np.concatenate([largest * max(1, flat.size >> 20), rng.integers(0, flat.size, 4 * VALUES)])
    return places[np.sort(np.unique(places, return_index=True)[1])].astype(np.int64)


def _stored(rows: Array, form: Form) -> Array:
    if form == "fp32":
        return rows.astype("<f4")
    if form == "bf16":
        return rows.astype(ml_dtypes.bfloat16).view("<u2")
    if form == "saturated":
        tiny = np.where((rows != 0) & (np.abs(rows) < 2.0**-24), np.copysign(2.0**-24, rows), rows)
        return np.clip(tiny, -65504, 65504).astype("<f2").view("<u2")
    with np.errstate(over="ignore"):
        return rows.astype("<f2").view("<u2")


def _telling(rows: Array, stored: Array, form: Form) -> Array:
    """bool [values, runs]: all values differ, are finite and not zero, and float32 ones are no 16-bit values."""
    ordered = np.sort(stored, axis=-1)
    good = (ordered[..., 1:] != ordered[..., :-1]).all(-1) & np.isfinite(rows).all(-1) & (rows != 0).all(-1)
    if form == "fp32":
        with np.errstate(over="ignore"):
            half = rows.astype(np.float16).astype(np.float32)
        bfloat16 = rows.astype(ml_dtypes.bfloat16).astype(np.float32)
        good &= ((half != rows) & (bfloat16 != rows)).all(-1)
    result: Array = good
    return result
