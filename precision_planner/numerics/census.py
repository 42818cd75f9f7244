"""The census of a tensor: everything that FP16 and BF16 do to its values, in one pass over them.

A tensor comes as an array or as chunks of one, so that a weight of any size is read in constant memory. Counts are
exact, whatever the bits; sums are float64. Parts of a large tensor are taken by two threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from precision_planner.numerics.float32_kernel import TASK, Kernel
from precision_planner.numerics.stats import TensorStats
from precision_planner.numerics.totals import Totals, add_values, widen

__all__ = ["FLOAT_TYPES", "Census", "census", "count_classes"]

Array = np.ndarray[Any, np.dtype[Any]]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT_TYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16)
"""The element types that have a census."""

SMALL = 64
"""Tensors up to this many elements are remembered: exporters repeat the same scalar constants hundreds of times."""

PLAIN = 4096
"""Float32 tensors up to this many elements go the plain way, which has less to set up."""

BACKLOG = 4
"""Parts handed to the threads and not yet done; what a producer may run ahead, hence the memory that it costs."""

_local = threading.local()


def census(
    data: Array | Iterable[Array], dtype: np.dtype[Any] | None = None, *, workers: int | None = None
) -> TensorStats:
    """Take the census of one tensor.

    Args:
      data: an array of any shape, or an iterable of its parts in any order, all of one float type.
      dtype: the element type; needed only when `data` is an iterable that may be empty.
      workers: threads for large tensors; None takes one a core, at most 2.

    Raises:
      TypeError: the element type is not float32, float64, float16 or bfloat16.
    """
    with Census(workers=workers) as running:
        return running.tensor([data] if isinstance(data, np.ndarray) else data, dtype)


def count_classes(data: Array | Iterable[Array], *, workers: int | None = None) -> Totals:
    """Count the classes of FP16 alone, for float32: zeros, subnormal, underflow, overflow, flushed, to_inf, nan, inf.

    Several times as fast as `census`; the returned totals hold counts, `min_abs` and `max_abs`, no errors.

    Args:
      data: float32, an array of any shape or an iterable of parts.
      workers: as for `census`.

    Raises:
      TypeError: the element type is not float32.
    """
    with Census(workers=workers) as running:
        return running.counts([data] if isinstance(data, np.ndarray) else data)


class Census:
    """Takes the census of many tensors with one pool of threads. Use as a context manager.

    Args:
      workers: threads for large tensors; None takes one a core, at most 2 (memory bandwidth is the limit).
    """

    def __init__(self, *, workers: int | None = None) -> None:
        self._workers = min(2, os.cpu_count() or 1) if workers is None else workers
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Census:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def tensor(self, parts: Iterable[Array], dtype: np.dtype[Any] | None = None) -> TensorStats:
        """The census of one tensor given as parts; see `census` for types and errors."""
        iterator = iter(parts)
        first = next(iterator, None)
        if first is None:
            if dtype is None:
                raise TypeError("an empty sequence of parts needs a dtype")
            return Totals().result(dtype.name)
        _check_type(first.dtype)
        second = next(iterator, None)
        if second is None:
            if first.size <= SMALL:
                return _small(first.dtype, first.tobytes())
            return self._sum([first], first.dtype).result(first.dtype.name)
        return self._sum(_chain(first, second, iterator), first.dtype).result(first.dtype.name)

    def counts(self, parts: Iterable[Array]) -> Totals:
        """The class counts of one float32 tensor given as parts; see `count_classes`."""
        return self._float32(parts, errors=False)

    def _sum(self, parts: Iterable[Array], dtype: np.dtype[Any]) -> Totals:
        if dtype == np.dtype(np.float32):
            return self._float32(parts, errors=True)
        if dtype == np.dtype(np.float64):
            return _float64(parts)
        return _sixteen_bits(parts, dtype)

    def _float32(self, parts: Iterable[Array], *, errors: bool) -> Totals:
        totals = Totals()
        pending: list[Future[Totals]] = []
        for words in _tasks(parts):
            if self._workers < 2 or (not pending and words.size < TASK // 4):
                totals.merge(_count_task(words, errors))
                continue
            pending.append(self._submit(words, errors))
            if len(pending) >= BACKLOG:
                totals.merge(pending.pop(0).result())
        for future in pending:
            totals.merge(future.result())
        return totals

    def _submit(self, words: Array, errors: bool) -> Future[Totals]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="census")
        return self._pool.submit(_count_task, words, errors)


def _check_type(dtype: np.dtype[Any]) -> None:
    if dtype not in FLOAT_TYPES:
        raise TypeError(f"the census takes float32, float64, float16 and bfloat16, not {dtype}")


def _chain(first: Array, second: Array, rest: Iterator[Array]) -> Iterator[Array]:
    yield first
    yield second
    yield from rest


def _tasks(parts: Iterable[Array]) -> Iterator[Array]:
    """Cut parts into tasks: flat arrays of the bits of at most TASK float32 values."""
    for part in parts:
        if part.dtype != np.dtype(np.float32):
            raise TypeError(f"a part of {part.dtype} in a float32 tensor")
        words = np.ascontiguousarray(part).reshape(-1).view(np.uint32)
        for start in range(0, words.size, TASK):
            yield words[start : start + TASK]


def _count_task(words: Array, errors: bool) -> Totals:
    """The sums of one task, on whatever thread this is."""
    totals = Totals()
    if errors and words.size <= PLAIN:
        add_values(totals, widen(words.view(np.float32)))
        return totals
    kernel: Kernel | None = getattr(_local, "kernel", None)
    if kernel is None:
        kernel = _local.kernel = Kernel()
    kernel.add(totals, words, errors=errors)
    return totals


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
        for start in range(0, flat.size, TASK):
            counts += np.bincount(flat[start : start + TASK], minlength=1 << 16)
    totals = Totals()
    add_values(totals, widen(np.arange(1 << 16, dtype=np.uint16).view(dtype)), counts)
    return totals


@lru_cache(maxsize=4096)
def _small(dtype: np.dtype[Any], data: bytes) -> TensorStats:
    """The census of a small tensor, remembered by its bytes."""
    totals = Totals()
    add_values(totals, widen(np.frombuffer(data, dtype)))
    return totals.result(dtype.name)
