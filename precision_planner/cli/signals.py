"""Ending long work by a signal without losing what it has found so far."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from precision_planner.cli.console import note

__all__ = ["stop_on_signals"]


@contextmanager
def stop_on_signals(listen: bool = True) -> Iterator[Callable[[], bool]]:
    """Let the first SIGINT or SIGTERM ask for an end, and the second one end at once.

    Args:
      listen: False leaves signals as they are: there is nothing to be saved.

    Yields:
      A function that says whether an end was asked for.
    """
    if not listen:
        yield lambda: False
        return
    asked: list[int] = []
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, before[number])
        note("stopping: the plan is made of what the search has found so far (again to stop at once)")

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
