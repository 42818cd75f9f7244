"""A case's input values, from their description: reproducible, and small enough to read.

  x: [1, 2, 3]                                  the values themselves (nested lists give the shape)
  x: 40                                         one number
  x: {full: 3.0, shape: [2, 8]}                 the same number everywhere
  x: {normal: 300, shape: [2, 8], seed: 1}      N(0, 300^2); `mean` adds an offset
  x: {uniform: [0, 1], shape: [4]}              evenly between two numbers
  x: {linear: [-60, 60], shape: [25]}           equally spaced
  x: {integers: [0, 100], shape: [2, 8]}        whole numbers, the upper bound left out
  x: {range: 4096}                              0, 1, 2, ...

The element type is the graph's.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from precision_planner.rules.language.yaml_tree import Mapping, Sequence, fail

__all__ = ["check_input", "make_input"]

_KINDS = ("full", "normal", "uniform", "linear", "integers", "range")
_KEYS = (*_KINDS, "shape", "seed", "mean")

MOST_VALUES = 10_000_000
"""Values of a case's input."""


def check_input(spec: Any, path: Path, line: int) -> None:
    """Refuse an input that `make_input` would not understand.

    Raises:
      RuleError: with file and line.
    """
    if isinstance(spec, Mapping):
        unknown = [key for key in spec if key not in _KEYS]
        if unknown:
            raise fail(path, spec.lines[unknown[0]], f"an input has no key '{unknown[0]}'; it takes {', '.join(_KEYS)}")
        if sum(key in spec for key in _KINDS) != 1:
            raise fail(path, line, f"an input needs exactly one of {', '.join(_KINDS)}")
        if "range" not in spec and "shape" not in spec:
            raise fail(path, line, "an input needs its 'shape'")
        _check_numbers(spec, path, line)
    elif isinstance(spec, bool) or not isinstance(spec, int | float | Sequence):
        raise fail(path, line, "an input is a number, a list of numbers, or {normal: SCALE, shape: [..]} and the like")


def _check_numbers(spec: Mapping, path: Path, line: int) -> None:
    """Each key has what `make_input` makes an array of, and that array has a size for a case."""
    for key, value in spec.items():
        pair = key in ("uniform", "linear", "integers")
        wanted = "two numbers" if pair else "whole numbers" if key == "shape" else "a number"
        items = value if isinstance(value, Sequence) else [value]
        numbers = [item for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
        whole = key in ("shape", "range", "seed")
        right = len(numbers) == len(items) and isinstance(value, Sequence) == (pair or key == "shape")
        if not right or (pair and len(items) != 2) or (whole and any(not 0 <= item == int(item) for item in numbers)):
            raise fail(path, spec.lines.get(key, line), f"'{key}' of an input is {wanted}, not {value!r}")
    count = prod(int(dim) for dim in spec.get("shape", ())) if "shape" in spec else int(spec["range"])
    if count > MOST_VALUES:
        raise fail(path, line, f"an input of {count} values is no case; give at most {MOST_VALUES}")


def make_input(spec: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The values of one input.

    Args:
      spec: as it stands in the case.
      dtype: element type of the graph's input.
    """
    if not isinstance(spec, dict):
        return np.asarray(spec, np.float64).astype(dtype)
    shape = tuple(int(dim) for dim in spec.get("shape", ()))
    rng = np.random.default_rng(int(spec.get("seed", 0)))
    if "full" in spec:
        values = np.full(shape, spec["full"], np.float64)
    elif "normal" in spec:
        values = rng.normal(float(spec.get("mean", 0.0)), float(spec["normal"]), shape)
    elif "uniform" in spec:
        values = rng.uniform(float(spec["uniform"][0]), float(spec["uniform"][1]), shape)
    elif "linear" in spec:
        values = np.linspace(float(spec["linear"][0]), float(spec["linear"][1]), int(np.prod(shape))).reshape(shape)
    elif "integers" in spec:
        values = rng.integers(int(spec["integers"][0]), int(spec["integers"][1]), shape).astype(np.float64)
    else:
        values = np.arange(int(spec["range"]), dtype=np.float64).reshape(shape or (-1,))
    return values.astype(dtype)
