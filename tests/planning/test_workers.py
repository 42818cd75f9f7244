"""Workers that are lost do not end a search."""

from __future__ import annotations

import logging
import pickle
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from precision_planner.judging.metrics import BOUNDS, METRICS
from precision_planner.planning.search.workers import Workers


class Dying(Executor):
    """Loses its workers at the first question."""

    def __init__(self, error: Exception) -> None:
        self.asked, self.error = 0, error

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        self.asked += 1
        future: Future[Any] = Future()
        future.set_exception(self.error)
        return future


class Here:
    def answer(self, question: Any) -> str:
        return f"answer to {question}"


def test_the_search_goes_on_in_this_process(caplog: pytest.LogCaptureFixture) -> None:
    executor = Dying(BrokenProcessPool("terminated abruptly"))
    workers = Workers(executor, None, 4, Here())  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert workers([1, 2]) == ["answer to 1", "answer to 2"]  # type: ignore[list-item]
        assert workers([3]) == ["answer to 3"]  # type: ignore[list-item]
    assert executor.asked == 2
    assert workers.jobs == 1
    assert [record.message for record in caplog.records] == [
        "a worker process was lost (BrokenProcessPool); the search goes on in this one"
    ]


def test_an_error_of_ours_is_no_lost_worker() -> None:
    with pytest.raises(ZeroDivisionError):
        Workers(Dying(ZeroDivisionError()), None, 2, Here())([1])  # type: ignore[arg-type, list-item]


def test_metrics_travel_by_name() -> None:
    for metric in (*METRICS.values(), *BOUNDS.values()):
        assert pickle.loads(pickle.dumps(metric)) is metric
