"""The census of a tensor: everything that FP16 and BF16 do to its values, in one pass over them.

A tensor comes as an array or as chunks of one, so that a weight of any size is read in constant memory. Counts are
exact, whatever the bits; sums are float64. Two cores share the work on large tensors.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np

from precision_planner.numerics.float32_kernel import TASK, CountKernel, ErrorKernel, Tiny, add_large
from precision_planner.numerics.stats import TensorStats
from precision_planner.numerics.totals import Totals, add_values, widen

__all__ = ["FLOAT_TYPES", "Census", "census", "count_classes"]

Array = np.ndarray[Any, np.dtype[Any]]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype(np.float32)
FLOAT_TYPES = (FLOAT32, np.dtype(np.float64), np.dtype(np.float16), BFLOAT16)
"""The element types that have a census."""

SMALL = 64
"""Tensors up to this many elements are remembered: exporters repeat the same scalar constants hundreds of times."""

PLAIN = 4096
"""Float32 tensors up to this many elements go the plain way, which has less to set up."""

AHEAD = 2
"""Tasks that counting may run ahead of the errors: what a producer that computes its parts costs in memory."""

DONE = Tiny()
"""Stands for a task that has been added whole."""

Counted = tuple[Totals, Tiny | None]
KernelT = TypeVar("KernelT", CountKernel, ErrorKernel)
_local = threading.local()


def census(
    data: Array | Iterable[Array], dtype: np.dtype[Any] | None = None, *, workers: int | None = None
) -> TensorStats:
    """Take the census of one tensor.

    Args:
      data: an array of any shape, or an iterable of its parts in any order, all of one float type.
      dtype: the element type; needed only when `data` is an iterable.
      workers: see `Census`.

    Raises:
      TypeError: the element type is not float32, float64, float16 or bfloat16.
    """
    parts: Iterable[Array] = data
    if isinstance(data, np.ndarray):
        parts, dtype = [data], data.dtype
    if dtype is None:
        raise TypeError("a census of parts needs their dtype")
    with Census(workers=workers) as running:
        return running.tensor(parts, np.dtype(dtype))


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


class Census:
    """Takes the census of many tensors on two threads. Use as a context manager.

    Args:
      workers: 1 does everything on the calling thread; None takes 2 where there are two cores.
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

    def tensor(self, parts: Iterable[Array], dtype: np.dtype[Any]) -> TensorStats:
        """The census of one tensor given as parts; see `census` for types and errors."""
        return next(self.tensors([(parts, dtype)]))

    def tensors(self, items: Iterable[tuple[Iterable[Array], np.dtype[Any]]]) -> Iterator[TensorStats]:
        """The census of many tensors, in their order: while one is finished the next is counted already.

        Args:
          items: for each tensor its parts, in any order, and its element type.
        """
        open_tensors: deque[_Running] = deque()
        pending: deque[_Task] = deque()
        for parts, dtype in items:
            running = _Running(dtype)
            open_tensors.append(running)
            for task in self._tasks(running, parts):
                pending.append(task)
                if len(pending) > AHEAD:
                    self._finish(pending.popleft())
            running.is_complete = True
            while open_tensors and open_tensors[0].is_done:
                yield open_tensors.popleft().result()
        for task in pending:
            self._finish(task)
        for running in open_tensors:
            yield running.result()

    def _tasks(self, running: _Running, parts: Iterable[Array]) -> Iterator[_Task]:
        """Start the work on a tensor, a task at a time."""
        _check_type(running.dtype)
        if running.dtype == FLOAT32:
            for words in _words(parts):
                yield self._start(running, words, _count, words)
        else:
            yield self._start(running, None, _whole, parts, running.dtype)

    def _start(self, running: _Running, words: Array | None, work: Callable[..., Counted], *args: Any) -> _Task:
        running.open_tasks += 1
        if self._workers < 2 or (words is not None and words.size <= PLAIN):
            future: Future[Counted] = Future()
            future.set_result(work(*args))
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="census")
            future = self._pool.submit(work, *args)
        return _Task(running, words, future)

    def _finish(self, task: _Task) -> None:
        """Add a task's counts and, on this thread, its errors."""
        part, tiny = task.counted.result()
        totals = task.running.totals
        totals.merge(part)
        task.running.open_tasks -= 1
        if task.words is None or tiny is DONE:
            return
        if tiny is None:
            add_large(totals, task.words, _kernel(CountKernel), _kernel(ErrorKernel))
        else:
            _kernel(ErrorKernel).add(totals, task.words, tiny)


class _Running:
    """A tensor whose census is being taken."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.totals = Totals()
        self.open_tasks = 0
        self.is_complete = False

    @property
    def is_done(self) -> bool:
        return self.is_complete and not self.open_tasks

    def result(self) -> TensorStats:
        return self.totals.result(self.dtype.name)


class _Task(NamedTuple):
    """A part of a tensor: its words, where errors are still to be measured, and what counting it gave."""

    running: _Running
    words: Array | None
    counted: Future[Counted]


def _check_type(dtype: np.dtype[Any]) -> None:
    if dtype not in FLOAT_TYPES:
        raise TypeError(f"the census takes float32, float64, float16 and bfloat16, not {dtype}")


def _words(parts: Iterable[Array]) -> Iterator[Array]:
    """Cut parts into tasks: flat arrays of the bits of at most TASK float32 values."""
    for part in parts:
        if part.dtype != FLOAT32:
            raise TypeError(f"a part of {part.dtype} in a float32 tensor")
        words = np.ascontiguousarray(part).reshape(-1).view(np.uint32)
        for start in range(0, words.size, TASK):
            yield words[start : start + TASK]


def _count(words: Array) -> Counted:
    """The counts of one task, on whatever thread this is; of a small one everything."""
    if words.size <= SMALL:
        return _small(FLOAT32, words.tobytes()), DONE
    totals = Totals()
    if words.size <= PLAIN:
        add_values(totals, widen(words.view(np.float32)))
        return totals, DONE
    return totals, _kernel(CountKernel).add(totals, words)


def _whole(parts: Iterable[Array], dtype: np.dtype[Any]) -> Counted:
    """Everything about a tensor that is not float32."""
    return (_float64(parts) if dtype == np.dtype(np.float64) else _sixteen_bits(parts, dtype)), DONE


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
def _small(dtype: np.dtype[Any], data: bytes) -> Totals:
    """The sums of a small tensor, remembered by its bytes; not to be changed."""
    totals = Totals()
    add_values(totals, widen(np.frombuffer(data, dtype)))
    return totals
