"""How far an answer is from the right one; runs under the GPU machine's Python too, and needs numpy alone."""

import numpy as np


def errors(expected, actual):
    """Relative L2, largest and median absolute error, and how many values are not finite (JSON has no NaN: None)."""
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    finite = np.isfinite(actual)
    error = np.abs(actual - expected)
    figures = {
        "rel_l2": float(np.linalg.norm(actual - expected) / np.linalg.norm(expected)),
        "max_abs": float(error.max()),
        "median_abs": float(np.median(error)),
    }
    figures = {name: value if np.isfinite(value) else None for name, value in figures.items()}
    return dict(figures, nonfinite=int((~finite).sum()))
