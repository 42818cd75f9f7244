"""Temporary folders: found or refused in one line, removed at the end, and after a killed run by the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precision_planner.errors import OutputError
from precision_planner.writing import temporary
from precision_planner.writing.locks import CAN_LOCK, try_lock

PREFIX = "precision-planner-"
_LOCK = ".held"
_GRACE_S = 60.0
"""A folder younger than this is left alone: its owner may not have locked it yet."""


class Scratch:
    """A temporary folder that is this process's.

    Attributes:
      path: the folder.
    """

    def __init__(self) -> None:
        try:
            place = Path(tempfile.gettempdir())
            _remove_unheld(place)
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise OutputError(
                f"no temporary folder can be written ({error.strerror or error}); set TMPDIR to one that can"
            ) from None
        temporary.hold(self.path)
        if not try_lock(self._lock) and CAN_LOCK:
            (self.path / _LOCK).unlink(missing_ok=True)  # no locks here: nobody may take it for a killed run's

    def close(self) -> None:
        """Remove the folder and what is in it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            temporary.drop(self.path)
            shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_lock", -1) >= 0:
            self.close()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder for the time of the block.

    Raises:
      OutputError: none can be made; the message names TMPDIR.
    """
    scratch = Scratch()
    try:
        yield scratch.path
    finally:
        scratch.close()


def _remove_unheld(place: Path) -> None:
    """Remove the folders of runs that were killed: theirs, old enough, and held by no process."""
    if not CAN_LOCK:
        return
    try:
        entries = [entry for entry in os.scandir(place) if entry.name.startswith(PREFIX)]
    except OSError:
        return
    for entry in entries:
        try:
            found = entry.stat(follow_symlinks=False)
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _GRACE_S or not entry.is_dir():
                continue
            handle = os.open(os.path.join(entry.path, _LOCK), os.O_RDWR)
        except OSError:
            continue
        free = try_lock(handle)
        os.close(handle)
        if free:
            shutil.rmtree(entry.path, ignore_errors=True)
