"""Ending work by a signal: without losing what a search has found, and without leaving anything behind."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Terminated", "clean_up_on_signals", "end_on_lost_pages", "stop_on_signals"]

GRACE_S = 10.0
"""How long a call into a library may keep a signal waiting before the process ends all the same."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP: raised where the program stands, so that files and folders are closed and removed.

    Attributes:
      number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # one is enough, and what it starts is not to be interrupted
    raise Terminated(number)


def clean_up_on_signals() -> None:
    """Make SIGTERM and SIGHUP raise `Terminated`, for the rest of the process; ignored ones stay ignored.

    Python acts on a signal between two steps of its own. Where a library does not come back within `GRACE_S`, the
    temporary folders are removed and the process ends.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _terminate)
    if os.name == "nt" or not taken:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reader,), name="signals", daemon=True).start()


def _end_in_time(reader: int) -> None:
    while numbers := os.read(reader, 1):
        number = numbers[0]
        # while a search listens, the first signal asks for its end, which may take its time
        if number != signal.SIGTERM or signal.getsignal(number) not in (_terminate, signal.SIG_IGN):
            continue
        time.sleep(GRACE_S)
        from precision_planner.writing.temporary import remove_all

        remove_all()
        os._exit(128 + number)


_callbacks: list[Any] = []
"""What C was told to call, which has to outlive the call that told it."""


def end_on_lost_pages(say: Callable[[str], object]) -> None:
    """End in one line, with the exit code of a user's mistake, where a mapped input is cut short while it is read.

    Whoever then reads a page past the new end gets SIGBUS, whose answer cannot be put off until Python's next step, as
    `signal` does: the same instruction would run again, for ever. So C calls back at once. That is sound here, unlike
    for a signal from outside: the one instruction that raises it reads a weight, hence neither the allocator nor the
    interpreter is in the middle of anything, and the interpreter's lock is held by this thread or comes free. Where no
    input was changed it is a crash, as before.

    Args:
      say: told the one line.
    """
    if not hasattr(signal, "SIGBUS"):  # Windows cuts no mapped file short
        return
    number = int(signal.SIGBUS)
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    first = threading.Lock()

    def lost(number: int) -> None:
        from precision_planner.writing.ledger import changed_inputs, changed_message
        from precision_planner.writing.temporary import remove_all

        changed = changed_inputs()
        if not changed:
            library.signal(number, None)  # SIG_DFL: the instruction runs again, and ends the process
            return
        if not first.acquire(blocking=False):
            time.sleep(GRACE_S)  # another thread met it too, and is ending the process
        say(changed_message(changed[0]))
        remove_all()
        os._exit(2)

    _callbacks.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(lost))
    library.signal(number, ctypes.cast(_callbacks[-1], ctypes.c_void_p))


@contextmanager
def stop_on_signals(tell: Callable[[str], None], listen: bool = True) -> Iterator[Callable[[], bool]]:
    """Let the first SIGINT or SIGTERM ask for an end, and the second one end at once.

    Args:
      tell: says to the user that the first one was heard.
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
        tell("stopping: the plan is made of what the search has found so far (again to stop at once)")

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
