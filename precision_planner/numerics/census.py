"""The census of a tensor: everything that FP16 and BF16 do to its values, in one pass over them.

A tensor comes as an array or as chunks of one, so that a weight of any size is read in constant memory. Counts are
exact, whatever the bits; sums are float64.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from precision_planner.numerics.float32_kernel import TASK, CountKernel, ErrorKernel, add_large
from precision_planner.numerics.stats import TensorStats
from precision_planner.numerics.totals import Totals, add_values, widen

__all__ = ["FLOAT_TYPES", "census", "count_classes", "take_totals"]

Array = np.ndarray[Any, np.dtype[Any]]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype(np.float32)
FLOAT_TYPES = (FLOAT32, np.dtype(np.float64), np.dtype(np.float16), BFLOAT16)
"""The element types that have a census."""

SMALL = 64
"""Tensors up to this many elements are remembered: exporters repeat the same scalar constants hundreds of times."""

PLAIN = 4096
"""Float32 tensors up to this many elements go the plain way, which has less to set up."""

KernelT = TypeVar("KernelT", CountKernel, ErrorKernel)
_local = threading.local()


def census(data: Array | Iterable[Array], dtype: np.dtype[Any] | None = None) -> TensorStats:
    """Take the census of one tensor.

    Args:
      data: an array of any shape, or an iterable of its parts in any order, all of one float type.
      dtype: the element type; needed only when `data` is an iterable.

    Raises:
      TypeError: the element type is not float32, float64, float16 or bfloat16.
    """
    parts: Iterable[Array] = data
    if isinstance(data, np.ndarray):
        parts, dtype = [data], data.dtype
    if dtype is None:
        raise TypeError("a census of parts needs their dtype")
    return take_totals(parts, np.dtype(dtype)).result(np.dtype(dtype).name)


def take_totals(parts: Iterable[Array], dtype: np.dtype[Any]) -> Totals:
    """The sums of one tensor, or of some parts of one; see `census`."""
    if dtype not in FLOAT_TYPES:
        raise TypeError(f"the census takes float32, float64, float16 and bfloat16, not {dtype}")
    if dtype == FLOAT32:
        return _float32(parts)
    return _float64(parts) if dtype == np.dtype(np.float64) else _sixteen_bits(parts, dtype)


def count_classes(data: Array | Iterable[Array]) -> Totals:
    """Count the classes of float32 values alone: several times as fast as `census`, on one thread.

    Args:
      data: float32, an array of any shape or an iterable of parts.

    Returns:
      Sums of which the counts, `min_abs` and `max_abs` hold; exponents and errors are not filled.

    Raises:
      TypeError: the element type is not float32.
    """
    totals = Totals()
    kernel = _kernel(CountKernel)
    for words in _words([data] if isinstance(data, np.ndarray) else data):
        if kernel.add(totals, words, details=False) is None:
            add_large(totals, words, kernel, _kernel(ErrorKernel))
    return totals


def _words(parts: Iterable[Array]) -> Iterator[Array]:
    """Cut parts into tasks: flat arrays of the bits of at most TASK float32 values."""
    for part in parts:
        if part.dtype != FLOAT32:
            raise TypeError(f"a part of {part.dtype} in a float32 tensor")
        words = np.ascontiguousarray(part).reshape(-1).view(np.uint32)
        for start in range(0, words.size, TASK):
            yield words[start : start + TASK]


def _float32(parts: Iterable[Array]) -> Totals:
    totals = Totals()
    for words in _words(parts):
        if words.size <= SMALL:
            totals.merge(_small(words.tobytes()))
        elif words.size <= PLAIN:
            add_values(totals, widen(words.view(np.float32)))
        else:
            _add_task(totals, words)
    return totals


def _add_task(totals: Totals, words: Array) -> None:
    count, error = _kernel(CountKernel), _kernel(ErrorKernel)
    tiny = count.add(totals, words)
    if tiny is None:
        add_large(totals, words, count, error)
    else:
        error.add(totals, words, tiny)


def _kernel(kind: type[KernelT]) -> KernelT:
    """This thread's kernel, made when it is first needed."""
    kernel: KernelT | None = getattr(_local, kind.__name__, None)
    if kernel is None:
        kernel = kind()
        setattr(_local, kind.__name__, kernel)
    return kernel


def _float64(parts: Iterable[Array]) -> Totals:
    totals = Totals()
    for part in parts:
        flat = np.ascontiguousarray(part).reshape(-1)
        for start in range(0, flat.size, TASK // 8):
            add_values(totals, flat[start : start + TASK // 8])
    return totals


def _sixteen_bits(parts: Iterable[Array], dtype: np.dtype[Any]) -> Totals:
    """A 16-bit type has 65,536 values: count them, and weigh each once."""
    counts = np.zeros(1 << 16, np.int64)
    for part in parts:
        flat = np.ascontiguousarray(part).reshape(-1).view(np.uint16)
        for start in range(0, flat.size, TASK // 4):
            counts += np.bincount(flat[start : start + TASK // 4], minlength=1 << 16)
    totals = Totals()
    add_values(totals, widen(np.arange(1 << 16, dtype=np.uint16).view(dtype)), counts)
    return totals


@lru_cache(maxsize=4096)
def _small(data: bytes) -> Totals:
    """The sums of a small float32 tensor, remembered by its bytes; not to be changed."""
    totals = Totals()
    add_values(totals, widen(np.frombuffer(data, np.float32)))
    return totals
