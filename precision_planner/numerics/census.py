"""The census of a tensor: everything that FP16 and BF16 do to its values, in one pass over them.

A tensor comes as an array or as chunks of one, so that a weight of any size is read in constant memory. Counts are
exact, whatever the bits; sums are float64. Two cores share the work on large tensors.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from precision_planner.numerics.float32_kernel import TASK, CountKernel, ErrorKernel, Tiny, add_large
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

AHEAD = 2
"""Tasks that counting may run ahead of the errors: what a producer that computes its parts costs in memory."""

DONE = Tiny()
"""Stands for a task that has been added whole."""

KernelT = TypeVar("KernelT", CountKernel, ErrorKernel)
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
        """Count on a thread of its own and measure errors on this one, a task behind."""
        totals = Totals()
        pending: deque[tuple[Array, Future[tuple[Totals, Tiny | None]]]] = deque()
        for words in _tasks(parts):
            if self._workers < 2 or (not pending and words.size <= PLAIN):
                self._finish(totals, words, _count(words, errors), errors)
                continue
            pending.append((words, self._executor().submit(_count, words, errors)))
            if len(pending) > AHEAD:
                words, future = pending.popleft()
                self._finish(totals, words, future.result(), errors)
        for words, future in pending:
            self._finish(totals, words, future.result(), errors)
        return totals

    def _finish(self, totals: Totals, words: Array, counted: tuple[Totals, Tiny | None], errors: bool) -> None:
        """Add a task's counts and, on this thread, its errors."""
        part, tiny = counted
        totals.merge(part)
        if tiny is None:
            add_large(totals, words, _kernel(CountKernel), _kernel(ErrorKernel))
        elif errors and tiny is not DONE:
            _kernel(ErrorKernel).add(totals, words, tiny)

    def _executor(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="census")
        return self._pool


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


def _count(words: Array, errors: bool) -> tuple[Totals, Tiny | None]:
    """The counts of one task, on whatever thread this is."""
    totals = Totals()
    if errors and words.size <= PLAIN:
        add_values(totals, widen(words.view(np.float32)))
        return totals, DONE
    return totals, _kernel(CountKernel).add(totals, words, details=errors)


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
