"""Evaluations in this process, in several, or on a cluster: one code path over `concurrent.futures.Executor`.

A worker gets a package once: the model and the inputs in a folder, which on a cluster has to lie where all machines see
it (TMPDIR says where it is made).
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from precision_planner._extras import require
from precision_planner.errors import PlanError
from precision_planner.judging.judge import Judgement
from precision_planner.model import Model
from precision_planner.planning.search.evaluate import Batches, Evaluator, Question, Setting
from precision_planner.writing import scratch_folder

_log = logging.getLogger(__name__)

__all__ = ["Local", "Package", "Workers", "open_workers"]


@dataclass(frozen=True)
class Package:
    """An evaluator that can be sent to another process.

    Attributes:
      folder: holds the model and the inputs.
      batches: how many inputs.
      screen: how many of fewer rows; 0: none.
      references: how many answers that plans are held to, as many as batches; 0: the model's own.
      setting: of the evaluator.
      threads: inside an operator.
    """

    folder: str
    batches: int
    screen: int
    references: int
    setting: Setting
    threads: int

    @staticmethod
    def write(folder: Path, evaluator: Evaluator, batches: Batches, screen: Batches, threads: int) -> Package:
        """Write what another process needs."""
        evaluator.runner.model.save(folder / "model.onnx", external=True)
        references = evaluator.references or ()
        for number, batch in enumerate([*batches, *screen, *references]):
            np.savez(folder / f"{number}.npz", *batch.values())  # by number: an input may have any name
            (folder / f"{number}.json").write_text(json.dumps(list(batch)), encoding="utf-8")
        return Package(str(folder), len(batches), len(screen), len(references), evaluator.setting, threads)

    def open(self) -> Evaluator:
        """The evaluator, in another process."""
        place = Path(self.folder)
        stored = [_stored(place, number) for number in range(self.batches + self.screen + self.references)]
        few = stored[self.batches :][: self.screen]
        return Evaluator(
            Model.load(place / "model.onnx"),
            stored[: self.batches],
            self.setting,
            screen=few or None,
            references=stored[self.batches + self.screen :] or None,
            threads=self.threads,
        )


def _stored(place: Path, number: int) -> dict[str, np.ndarray]:
    with np.load(place / f"{number}.npz") as file:
        names = json.loads((place / f"{number}.json").read_text(encoding="utf-8"))
        return {name: file[f"arr_{at}"] for at, name in enumerate(names)}


_opened: dict[str, Evaluator] = {}
"""The evaluators of a worker process, by folder."""


def work(package: Package, question: Question) -> Judgement:
    """One evaluation in a worker."""
    if package.folder not in _opened:
        _opened[package.folder] = package.open()
    return _opened[package.folder].answer(question)


def _leave_signals(place: str) -> None:
    """Interrupts and terminations go to every process of the group; the one that searches answers them, and ends us."""
    # a worker ends without a word, and leaves to the one that searches what it had in its temporary folders
    tempfile.tempdir = place
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":  # where that one is killed, nobody would: the kernel does
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG


class Local:
    """Evaluations one after the other, in this process."""

    jobs = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def __call__(self, questions: Sequence[Question]) -> list[Judgement]:
        """Answer questions."""
        return [self._evaluator.answer(question) for question in questions]


class Workers:
    """Evaluations side by side, by an executor.

    Attributes:
      jobs: how many at once.
    """

    def __init__(self, executor: Executor, package: Package, jobs: int, evaluator: Evaluator) -> None:
        self._executor, self._package, self.jobs = executor, package, jobs
        self._here = Local(evaluator)
        self._lost = False

    def __call__(self, questions: Sequence[Question]) -> list[Judgement]:
        """Answer questions; the answers come in their order, whichever is ready first.

        Where a worker is killed (by the system, when memory runs out), the search goes on in this process.
        """
        if not self._lost:
            try:
                futures = [self._executor.submit(work, self._package, question) for question in questions]
                return [future.result() for future in futures]
            except Exception as error:
                if not _is_lost(error):
                    raise
                self._lost, self.jobs = True, 1
                _log.warning("a worker process was lost (%s); the search goes on in this one", type(error).__name__)
        return self._here(questions)


def _is_lost(error: Exception) -> bool:
    """Whether an executor says that its workers are gone, rather than what they answered."""
    return isinstance(error, (BrokenExecutor, CancelledError)) or type(error).__module__.startswith("distributed")


@contextmanager
def open_workers(
    evaluator: Evaluator, batches: Batches, screen: Batches = (), *, jobs: int = 1, scheduler: str | None = None
) -> Iterator[Local | Workers]:
    """What evaluates for a search.

    Args:
      evaluator: of this process.
      batches: its inputs.
      screen: those of fewer rows.
      jobs: processes; 1 evaluates in this one, with all cores inside an operator.
      scheduler: address of a dask.distributed scheduler, whose workers are used instead.

    Raises:
      MissingExtraError: a scheduler without the extra `cluster`.
      PlanError: fewer than one job, or a scheduler that does not answer.
    """
    if jobs < 1:
        raise PlanError(f"{jobs} jobs cannot evaluate anything; give at least 1")
    if jobs == 1 and scheduler is None:
        yield Local(evaluator)
        return
    if evaluator.setting.own:
        raise PlanError("one's own metric runs in this process only; leave out --jobs and --scheduler")
    with scratch_folder() as folder:
        if scheduler is not None:
            with _cluster(scheduler) as (executor, workers):
                package = Package.write(folder, evaluator, batches, screen, 0)
                yield Workers(executor, package, max(1, workers), evaluator)
            return
        package = Package.write(folder, evaluator, batches, screen, max(1, (os.cpu_count() or 1) // jobs))
        # not by fork: onnxruntime's threads would not be there in the child
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, spawn, initializer=_leave_signals, initargs=(str(folder),)) as pool:
            yield Workers(pool, package, jobs, evaluator)


@contextmanager
def _cluster(address: str) -> Iterator[tuple[Executor, int]]:
    distributed = require("distributed", extra="cluster", purpose="evaluating on a cluster")
    try:
        client = distributed.Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise PlanError(f"no dask scheduler answers at {address} ({error}); start one, or use --jobs") from error
    try:
        yield client.get_executor(), len(client.ncores())
    finally:
        client.close()
