"""A second process for the census of large files: pieces of a file go out, their sums come back.

A process, because threads do not help: the census is made of numpy calls of some microseconds, and two threads of
those spend more time on handing the GIL to each other than they win. The helper maps the file itself, so that nothing
but its name and a few sums travel. If it cannot be started, or dies, the caller does its pieces as well: it makes
things faster and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import pickle
import select
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from precision_planner.numerics.census import FLOAT32, take_totals
from precision_planner.numerics.totals import Totals

__all__ = ["AHEAD", "Helper", "Piece", "main", "share_pieces"]

AHEAD = 2
"""Pieces handed out before their answers: the helper never waits for the next one."""

STEP = 1 << 24
"""Bytes mapped at a time in the helper."""

_log = logging.getLogger(__name__)


class Piece(NamedTuple):
    """Consecutive float32 values of a file: its path, the byte at which they begin, and how many bytes they take."""

    path: str
    offset: int
    nbytes: int


class Helper:
    """The helper process. Use as a context manager."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", "from precision_planner.numerics.helper import main; main()"]
        # the package may be imported from a path that a fresh interpreter would not know
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(entry for entry in (root, os.environ.get("PYTHONPATH", "")) if entry)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # it holds nothing that could be lost
        self._process.wait()
        self._from.close()
        with contextlib.suppress(BrokenPipeError):  # a piece that it died before reading is still in the buffer
            self._to.close()

    def send(self, piece: Piece) -> None:
        """Hand out a piece; OSError if the helper is gone."""
        pickle.dump(tuple(piece), self._to)
        self._to.flush()

    def has_answer(self) -> bool:
        """Whether `receive` would not wait (or the helper is gone)."""
        return bool(select.select([self._from], [], [], 0)[0])

    def receive(self) -> Totals:
        """The sums of the oldest piece without an answer; EOFError if the helper is gone."""
        totals = pickle.load(self._from)
        assert isinstance(totals, Totals)
        return totals


def share_pieces(pieces: list[Piece], take: Callable[[Piece], Totals], done: Callable[[int, Totals], None]) -> None:
    """Take the sums of every piece, with the helper's help.

    Args:
      pieces: in the order in which they are best read; this process begins at the front, the helper at the back.
      take: the sums of one piece, in this process.
      done: told the index of a piece and its sums, in any order.
    """
    waiting = deque(range(len(pieces)))
    away: deque[int] = deque()
    try:
        helper = Helper()
    except OSError as error:
        _log.info("the census runs on one core: no second process (%s)", error)
        _take_all(pieces, waiting, take, done)
        return
    with helper:
        try:
            while waiting or away:
                while waiting and len(away) < AHEAD:
                    away.append(waiting.pop())
                    helper.send(pieces[away[-1]])
                if waiting and not helper.has_answer():
                    at = waiting.popleft()
                    done(at, take(pieces[at]))
                else:
                    totals = helper.receive()
                    done(away.popleft(), totals)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            _log.info("the census goes on alone: the second process ended (%s)", error)
            waiting.extend(away)
    _take_all(pieces, waiting, take, done)


def _take_all(
    pieces: list[Piece], waiting: deque[int], take: Callable[[Piece], Totals], done: Callable[[int, Totals], None]
) -> None:
    for at in waiting:
        done(at, take(pieces[at]))


def main() -> None:
    """The helper: read pieces from stdin, write their sums to stdout, until stdin ends."""
    maps: dict[str, mmap.mmap] = {}
    while True:
        try:
            piece = Piece(*pickle.load(sys.stdin.buffer))
        except EOFError:
            return
        if piece.path not in maps:
            with open(piece.path, "rb") as file:
                maps[piece.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(maps[piece.path])
        end = piece.offset + piece.nbytes
        spans = (view[start : min(start + STEP, end)] for start in range(piece.offset, end, STEP))
        totals = take_totals((np.frombuffer(span, np.float32) for span in spans), FLOAT32)
        pickle.dump(totals, sys.stdout.buffer)
        sys.stdout.buffer.flush()
