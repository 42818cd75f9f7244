"""Progress where there is no terminal: a line a step on stderr, once the work takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST_S = 10.0
"""Work that is over sooner says nothing."""

AGAIN_S = 30.0
"""A step that goes on is named again so often."""

SAME_S = 5.0
"""Steps that differ in their numbers alone ("evaluation 12") are named no more often."""


@contextmanager
def step_lines(description: str, write: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Say by lines what is done while the block runs.

    Args:
      description: of the whole.
      write: takes a line.

    Yields:
      A function that takes what is being done now.
    """
    start = time.monotonic()
    wake, over = threading.Event(), threading.Event()
    now = ""

    def take(text: str) -> None:
        nonlocal now
        now = text
        wake.set()

    def watch() -> None:
        told, at, last = "", 0.0, ""
        if over.wait(FIRST_S):
            return
        while not over.is_set():
            wake.clear()
            step, moment = now, time.monotonic()
            kind = "".join(letter for letter in step if not letter.isdigit())
            waited = moment - at
            if not at or kind != last or (step != told and waited >= SAME_S) or waited >= AGAIN_S:
                write(f"{description}{': ' if step else ''}{step} ({moment - start:.0f} s)")
                told, last, at = step, kind, moment
            # woken by the next step, or by the end, which sets both
            wake.wait(min(AGAIN_S, SAME_S) if step != told else AGAIN_S)

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield take
    finally:
        over.set()
        wake.set()
        thread.join(1.0)
