"""What was read: every file that Python opened for reading while a command ran, and how the inputs looked then.

The interpreter tells of each `open` (PEP 578), so that what a user's data loader, rule or surgery script reads is known
without their help. Files are compared by device and inode, so links, relative paths and other spellings are the same
file. A library that opens files by itself (onnxruntime) reads only what the planner has read or written before.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from precision_planner.errors import ModelError

Identity = tuple[int, int]
"""(device, inode)."""


@dataclass
class Reads:
    """The files read so far.

    Attributes:
      paths: absolute paths of what was opened for reading.
      states: of inputs, as they were when the command began, mapped ones as they were opened last:
        path -> (inode, size, mtime in ns).
    """

    paths: set[str] = field(default_factory=set)
    states: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, path: str | os.PathLike[str]) -> None:
        """Note a file as read."""
        self.paths.add(os.path.abspath(path))

    def forget(self, path: str | os.PathLike[str]) -> None:
        """Take a file that was just written out: it is ours now."""
        whole = os.path.abspath(path)
        self.paths.discard(whole)
        self.paths.discard(os.path.realpath(whole))
        self.states.pop(whole, None)

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Whether a file that exists is one of those read, by whatever name."""
        wanted = identity(path)
        if wanted is None:
            return False
        return any(identity(known) == wanted for known in list(self.paths))


reads = Reads()
"""Of this process: what a command read, or, without one, what was watched."""

_lock = threading.Lock()
_state: dict[str, Any] = {"hooked": False, "active": False}


def identity(path: str | os.PathLike[str]) -> Identity | None:
    """(device, inode) of what a path leads to; None where nothing is."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


@contextmanager
def recording(sources: Iterable[str | os.PathLike[str]] = ()) -> Iterator[Reads]:
    """Note every file that Python opens for reading, for one command.

    Args:
      sources: what counts as read from the start.
    """
    with _lock:
        if not _state["hooked"]:
            sys.addaudithook(_heard)
            _state["hooked"] = True
    reads.paths.clear()
    reads.states.clear()
    for source in sources:
        reads.add(source)
        with contextlib.suppress(OSError):  # gone again: whoever reads it says so
            found = os.stat(source)
            if stat.S_ISREG(found.st_mode):
                watch(Path(source), found)
    _state["active"] = True
    try:
        yield reads
    finally:
        _state["active"] = False


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _state["active"]:
        return
    path, mode, flags = arguments
    writes = set(mode) & set("wax+") if isinstance(mode, str) else (flags or 0) & (os.O_WRONLY | os.O_RDWR)
    if not writes and isinstance(path, (str, bytes)):
        text = os.fsdecode(path)
        if not text.endswith((".pyc", ".so")):
            reads.paths.add(os.path.abspath(text))


def watch(path: Path, found: os.stat_result) -> None:
    """Remember how an input looked when it was opened."""
    reads.states[os.path.abspath(path)] = (found.st_ino, found.st_size, found.st_mtime_ns)


def changed_inputs(paths: Iterable[Path] | None = None) -> list[str]:
    """The inputs that were changed in place since they were opened.

    One that was replaced by another file of its name is still read as it was, and is none.

    Args:
      paths: which; None takes all that are watched.
    """
    wanted = list(reads.states) if paths is None else [os.path.abspath(path) for path in paths]
    changed = []
    for path in wanted:
        inode, *before = reads.states.get(path, (-1,))
        try:
            now = os.stat(path)
        except OSError:
            continue  # removed: what is mapped stays
        if now.st_ino == inode and [now.st_size, now.st_mtime_ns] != before:
            changed.append(path)
    return changed


def refuse_changed(paths: Iterable[Path] | None = None) -> None:
    """ModelError where an input was changed in place meanwhile: what was made of it would be a mixture."""
    changed = changed_inputs(paths)
    if changed:
        raise ModelError(changed_message(changed[0]))


def changed_message(path: str) -> str:
    """What is said of an input that was changed in place."""
    return f"{path} was changed while it was being read; run again once it is whole"
