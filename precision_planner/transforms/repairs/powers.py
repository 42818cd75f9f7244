"""Constants times a power of two, and whether FP16 bears it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from precision_planner.model import LazyPayload, Payload
from precision_planner.numerics.formats import FP16

__all__ = ["cast_error", "keeps_fp16", "ldexp_payload", "scaled_scalar"]

Array = np.ndarray[Any, Any]
_BLOCK = 1 << 20
_UNIT = 2.0**-11
"""FP16's unit of rounding."""


def scaled_scalar(value: float, power: int) -> float | None:
    """value 2^power as a float32; None where that is no normal float32 any more (and was one, or infinite)."""
    scaled = math.ldexp(value, power)
    if value and math.isfinite(value) and not 2.0**-126 <= abs(scaled) <= float(np.finfo(np.float32).max):
        return None
    return scaled


def ldexp_payload(weight: Array, power: int) -> Payload:
    """The bytes of weight 2^power in float32, computed block by block when they are written."""

    def blocks() -> Iterator[Array]:
        flat = weight.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            yield np.ldexp(flat[start : start + _BLOCK], power).astype(np.float32)

    return LazyPayload(weight.size * 4, blocks)


def keeps_fp16(weight: Array, axis: int | None, power: int) -> bool:
    """Whether weight 2^power is as good in FP16 as it was: in range, and no channel lost bits by underflow.

    Args:
      weight: float32.
      axis: of the channels; None judges every element by itself.
      power: of two.
    """
    amax = float(np.abs(weight).max(initial=0.0))
    if not math.isfinite(amax) or math.ldexp(amax, power) > FP16.max_finite:
        return False
    if power >= 0:
        return True
    after = cast_error(weight, axis, power)
    return after <= _UNIT or after <= cast_error(weight, axis, 0)


def cast_error(weight: Array, axis: int | None, power: int) -> float:
    """The relative error that FP16 makes of weight 2^power: norm of the error over norm, of the worst channel.

    Args:
      weight: float32.
      axis: of the channels; None takes the largest relative error of an element.
      power: of two.
    """
    if axis is None or weight.ndim < 2:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            each = np.ldexp(weight, power)
            relative = np.abs(each.astype(np.float16).astype(np.float32) - each) / np.abs(each)
        return float(np.nan_to_num(relative, nan=0.0).max(initial=0.0))
    axis %= weight.ndim
    others = tuple(at for at in range(weight.ndim) if at != axis)
    wrong: Array = np.zeros(weight.shape[axis])
    norm: Array = np.zeros(weight.shape[axis])
    rows = max(1, _BLOCK // max(1, weight[0].size)) if len(weight) else 1
    for start in range(0, len(weight), rows):
        scaled: Array = np.ldexp(weight[start : start + rows], power)
        with np.errstate(over="ignore"):
            error: Array = scaled.astype(np.float16).astype(np.float32) - scaled
        where = slice(start, start + rows) if axis == 0 else slice(None)
        wrong[where] += np.square(error, dtype=np.float64).sum(axis=others)
        norm[where] += np.square(scaled, dtype=np.float64).sum(axis=others)
    return float(np.sqrt(wrong[norm > 0] / norm[norm > 0]).max(initial=0.0))
