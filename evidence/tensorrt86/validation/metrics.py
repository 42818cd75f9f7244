"""How far an output is from FP32's, and what that means: one definition for prediction and measurement alike.

Runs under Python 3.8 and newer with numpy alone; imports nothing of the planner.
"""

import numpy as np

FINE, GARBAGE, GARBAGE_FLIPS = 1e-2, 1e-1, 0.1
"""The bounds of `planner diff` (precision_planner.judging.verdict), which a test holds equal."""


def compare(expected, actual):
    """Metrics of one output, in float64. Rows of top-1 are all axes but the last, of SAD the first one."""
    a, b = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.where(same, 0.0, b - a)
        sad = np.abs(delta).reshape(a.shape[0], -1).sum(axis=1)
        size = np.sqrt((np.where(np.isfinite(a), a, 0.0) ** 2).sum())
        rel = np.sqrt((delta**2).sum()) / size
    columns = a.shape[-1]
    flipped = a.reshape(-1, columns).argmax(1) != b.reshape(-1, columns).argmax(1)
    return {
        "rel_l2": float(rel),
        "sad": float(sad.max()),
        "sad_mean": float(sad.mean()),
        "max_abs": float(np.abs(delta).max()),
        "amax": float(np.abs(np.where(np.isfinite(a), a, 0.0)).max()),
        "rows": int(flipped.size),
        "flipped": int(flipped.sum()),
        "nonfinite": int((~np.isfinite(b)).sum()),
        "nonfinite_reference": int((~np.isfinite(a)).sum()),
    }


def verdict(outputs):
    """Return fine, degraded, garbage or non-finite, for the worst of several outputs' metrics.

    Non-finite: more NaN or infinities than FP32 has. Garbage: relative L2 error above 0.1, or more than a tenth of
    the rows (two at least) have another largest element at an error above 0.01. Degraded: an error above 0.01.
    """
    grades = ["fine", "degraded", "garbage", "non-finite"]
    worst = 0
    for found in outputs.values():
        rel = float("nan") if found["rel_l2"] is None else found["rel_l2"]
        if found["nonfinite"] > found["nonfinite_reference"]:
            grade = 3
        elif not rel <= GARBAGE or (rel > FINE and found["flipped"] > max(1, GARBAGE_FLIPS * found["rows"])):
            grade = 2
        else:
            grade = int(rel > FINE)
        worst = max(worst, grade)
    return grades[worst]
