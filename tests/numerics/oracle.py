"""What FP16 and BF16 do to values, by brute force in float64: slow, and written without looking at the package."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

STORAGE = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
LIMITS = {
    # smallest subnormal, smallest normal, largest finite, first magnitude that rounds to inf, last that rounds to 0
    "fp16": (2.0**-24, 2.0**-14, 65504.0, 65520.0, 2.0**-25),
    "bf16": (2.0**-133, 2.0**-126, (2 - 2**-7) * 2.0**127, (2 - 2**-8) * 2.0**127, 2.0**-134),
}
UNIT_ROUNDOFF = {"fp16": 2.0**-11, "bf16": 2.0**-8}
FRACTION_BITS = {"fp16": 10, "bf16": 7}


def all_values(name: str) -> np.ndarray:
    """The value of each of the 65,536 patterns, float64, by ml_dtypes or numpy."""
    with np.errstate(invalid="ignore"):
        return np.arange(1 << 16, dtype=np.uint16).view(STORAGE[name]).astype(np.float64)


def finite_magnitudes(name: str) -> np.ndarray:
    """All finite magnitudes, ascending: index = bit pattern."""
    values = all_values(name)[: 1 << 15]
    return values[np.isfinite(values)]


def nearest(x: np.ndarray, name: str) -> np.ndarray:
    """Round float64 to the nearest value of the format by searching the table of all of them, ties to even pattern."""
    table = finite_magnitudes(name)
    following = np.append(table[1:], table[-1] + (table[-1] - table[-2]))
    size = np.abs(x)
    place = np.searchsorted(table, np.where(np.isfinite(size), size, 0.0), side="right") - 1
    low, high = table[place], following[place]
    middle = low + (high - low) / 2  # exact: both are short
    up = (size > middle) | ((size == middle) & (place % 2 == 1))
    out = np.where(up, high, low)
    out[(out > table[-1]) | np.isinf(size)] = np.inf
    out[np.isnan(x)] = np.nan
    return np.copysign(out, x)


def saturated(x: np.ndarray, name: str) -> np.ndarray:
    """TensorRT's weak conversion of weights."""
    smallest, _, largest, _, _ = LIMITS[name]
    out = np.abs(nearest(x, name))
    size = np.abs(x)
    out[np.isfinite(x) & (size > largest)] = largest
    out[(size > 0) & (size < smallest)] = smallest
    return np.copysign(out, x)


def neighbours(name: str, dtype: type) -> np.ndarray:
    """Every finite value of the format, every tie between two, and what lies one step of `dtype` beside each."""
    table = finite_magnitudes(name)
    following = np.append(table[1:], table[-1] + (table[-1] - table[-2]))
    points = np.unique(np.concatenate([table, table + (following - table) / 2]))
    centre = points.astype(dtype)
    centre = centre[np.isfinite(centre)]
    zero, top = dtype(0), dtype(np.inf)
    around = np.concatenate([centre, np.nextafter(centre, zero), np.nextafter(centre, top)])
    return np.concatenate([around, -around])


@dataclass
class Counts:
    """Brute-force class counts of one array for one format."""

    zeros: int
    subnormal: int
    underflow: int
    overflow: int
    flushed: int
    to_inf: int
    nan: int
    inf: int
    min_abs: float | None
    max_abs: float | None


def count(x: np.ndarray, name: str) -> Counts:
    """Count every class with one float64 comparison each."""
    smallest, normal, largest, to_inf, to_zero = LIMITS[name]
    with np.errstate(invalid="ignore"):
        v = np.abs(x.astype(np.float64)).reshape(-1)
    finite = v[np.isfinite(v)]
    some = finite[finite > 0]
    return Counts(
        zeros=int((v == 0).sum()),
        subnormal=int(((v >= smallest) & (v < normal)).sum()),
        underflow=int(((v > 0) & (v < smallest)).sum()),
        overflow=int(((v > largest) & (v < np.inf)).sum()),
        flushed=int(((v > 0) & (v <= to_zero)).sum()),
        to_inf=int(((v >= to_inf) & (v < np.inf)).sum()),
        nan=int(np.isnan(v).sum()),
        inf=int(np.isinf(v).sum()),
        min_abs=float(some.min()) if some.size else None,
        max_abs=float(finite.max()) if finite.size else None,
    )


def errors(x: np.ndarray, name: str) -> dict[str, float]:
    """The error of the cast in float64, over the finite values."""
    with np.errstate(invalid="ignore"):
        v = x.astype(np.float64).reshape(-1)
    v = v[np.isfinite(v)]
    norm = float(np.linalg.norm(v))
    if norm == 0:
        return {"rel_error": 0.0, "rel_error_saturated": 0.0, "max_rel_error": 0.0, "lost_norm": 0.0}
    cast = nearest(v, name)
    if np.isinf(cast).any():
        rel = worst = np.inf
    else:
        rel = float(np.linalg.norm(cast - v)) / norm
        rms_exponent = np.floor(np.log2(norm / np.sqrt(v.size)))
        some = v != 0
        relative = np.abs(cast[some] - v[some]) / np.abs(v[some])
        size = np.abs(v[some])
        normal = size >= LIMITS[name][1]
        matters = np.floor(np.log2(size)) >= rms_exponent - FRACTION_BITS[name] - 1
        worst = float(relative[matters & ~normal].max(initial=0.0))
        if relative[normal].any():
            worst = max(worst, UNIT_ROUNDOFF[name])
    return {
        "rel_error": rel,
        "rel_error_saturated": float(np.linalg.norm(saturated(v, name) - v)) / norm,
        "max_rel_error": worst,
        "lost_norm": float(np.linalg.norm(v[cast == 0])) / norm,
    }
