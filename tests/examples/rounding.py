"""FP16 rounding for the sample models' own tests, independent of the planner's numerics."""

from __future__ import annotations

import numpy as np


def to_fp16(values: np.ndarray) -> np.ndarray:
    """Round to FP16 and back by numpy's IEEE cast: beyond 65520 becomes inf."""
    with np.errstate(all="ignore"):
        return values.astype(np.float16).astype(values.dtype)


def saturate(values: np.ndarray) -> np.ndarray:
    """Cast as weakly typed TensorRT casts weights: beyond 65504 is 65504, tiny is 2^-24, 0 stays 0."""
    rounded = to_fp16(np.clip(values, -65504.0, 65504.0))
    tiny = (values != 0) & (np.abs(values) < 2.0**-24)
    return np.where(tiny, np.copysign(2.0**-24, values), rounded).astype(values.dtype)


def sad(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sum of absolute differences of each row."""
    return np.abs(np.asarray(left, dtype=np.float64) - right).sum(axis=-1)
