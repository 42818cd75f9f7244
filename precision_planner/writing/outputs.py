"""Single output files: what is refused, and how one comes to stand under its name."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from precision_planner.errors import OutputError
from precision_planner.writing import temporary
from precision_planner.writing.ledger import identity, reads
from precision_planner.writing.locks import CAN_LOCK, try_lock

REPORT_KINDS = frozenset({".json", ".html", ".htm", ".md", ".xml", ".txt", ".csv", ".svg", ".log", ""})
"""A report replaces an older file of such a name without asking; any other file it never replaces."""


def place_of(path: Path) -> Path:
    """Where a path leads, through links: a link stays a link, and what it names is written."""
    return Path(os.path.realpath(path))


def check_output(path: Path, *, force: bool, protect: frozenset[Path] = frozenset(), own: bool = False) -> None:
    """Refuse an output that would lose something.

    Args:
      path: the file to write.
      force: an existing file may be replaced.
      protect: files that must never be written (the input and its external data), beside all that was read.
      own: an existing file is one that the planner made, and may be replaced without force.

    Raises:
      OutputError: it was read, is a folder or a special file, exists (without force), or has no folder to lie in.
    """
    _refuse_place(path, protect)
    if path.exists() and not force and not own:
        raise OutputError(f"{path} exists already; give another -o, or --force to overwrite it")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise OutputError(f"{path} is a device or a pipe, which is never replaced; give the name of a file")
    _refuse_parent(path)


def check_report(path: Path, protect: frozenset[Path] = frozenset()) -> None:
    """Refuse a place for a report (JSON, HTML, ...) that would lose something; an older report may be replaced.

    Raises:
      OutputError: it was read, is a folder, exists and is no report by its name, or has no folder to lie in.
    """
    _refuse_place(path, protect)
    if path.is_file() and place_of(path).suffix.lower() not in REPORT_KINDS:
        raise OutputError(f"{path} exists already and is no report by its name; write the report elsewhere")
    _refuse_parent(path)


def _refuse_place(path: Path, protect: frozenset[Path]) -> None:
    known = identity(path)
    if known is not None and not path.is_dir():
        plain = stat.S_ISREG(path.stat().st_mode)
        if plain and any(identity(kept) == known for kept in protect):
            raise OutputError(f"{path} is the input (or its data): the input is never overwritten; give another -o")
        if plain and reads.holds(path):
            raise OutputError(f"{path} is an input, which is never overwritten; write the result elsewhere")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; give the name of a file")


def _refuse_parent(path: Path) -> None:
    parent = place_of(path).parent
    if not parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {parent} does not exist; create it first")


def write_text(path: Path, text: str) -> None:
    """Write a report; see `write_bytes`. What an encoding cannot say (a lone surrogate) is escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a report, whole or not at all; a device or a pipe is written to, not replaced.

    Raises:
      OutputError: see `check_report`, or the system refuses.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb", buffering=0) as special:
                special.write(data)
            return
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another file") from None
    check_report(path)
    with atomic_files(path) as (file,):
        file.write(data)


@contextmanager
def atomic_files(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Files that appear under their names, in the order given, only when all were written whole.

    An interruption or an error leaves nothing behind, and an older file of that name as it was. Of several files the
    older ones go, the last first, before any new one comes, so that a killed run leaves no mixture. What a killed run
    left is removed by the next one that writes the same file.

    Raises:
      OutputError: the system refuses, or a path is a special file or one that was read.
    """
    places = [place_of(path) for path in paths]
    parts: list[Path] = []
    files: list[BinaryIO] = []
    try:
        for path, place in zip(paths, places, strict=True):
            _refuse_place(path, frozenset())
            if place.exists() and not place.is_file():
                raise OutputError(f"{path} is a device or a pipe, which is never replaced; give the name of a file")
            remove_parts(place)
            part = place.with_name(f".{place.name[:200]}.{secrets.token_hex(6)}.part")
            parts.append(part)
            files.append(_create(part))
        yield files
        for file in files:
            file.flush()
            if not CAN_LOCK:  # Windows renames no open file
                file.close()
        for place in reversed(places[1:]):
            place.unlink(missing_ok=True)
        for part, place in zip(parts, places, strict=True):
            os.replace(part, place)
            reads.forget(place)
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) not in {*places, *parts}:
            raise
        what = error.strerror or str(error)
        raise OutputError(f"cannot write {' and '.join(map(str, paths))}: {what}; choose another place") from None
    finally:
        for file in files:
            with contextlib.suppress(OSError):  # no room for its last bytes: the error under way says so
                file.close()
        for part in parts:
            part.unlink(missing_ok=True)
            temporary.drop(part)


@contextmanager
def unnamed_part(like: Path) -> Iterator[tuple[BinaryIO, Callable[[Path], None]]]:
    """A new file beside `like` whose name is decided once it is written.

    Yields:
      The file, and a function that gives it its name; without a call nothing is left.
    """
    part = like.with_name(f".{like.name[:200]}.{secrets.token_hex(6)}.part")
    file = _create(part)

    def keep(place: Path) -> None:
        file.flush()
        if not CAN_LOCK:
            file.close()
        os.replace(part, place)

    try:
        yield file, keep
    finally:
        with contextlib.suppress(OSError):  # no room for its last bytes: the error under way says so
            file.close()
        part.unlink(missing_ok=True)
        temporary.drop(part)


def _create(part: Path) -> BinaryIO:
    """A new file, locked for as long as it is open: a part that nobody holds is a killed run's."""
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    temporary.hold(part)
    try_lock(handle)
    return os.fdopen(handle, "wb")


def remove_parts(place: Path) -> None:
    """Remove what killed runs left of this file: parts that no process holds."""
    if not CAN_LOCK:
        return
    prefix = f".{place.name[:200]}."
    try:
        found = [entry for entry in os.scandir(place.parent) if entry.name.startswith(prefix)]
    except OSError:
        return
    for entry in found:
        middle = entry.name[len(prefix) : -len(".part")]
        if entry.name.endswith(".part") and len(middle) == 12 and entry.is_file(follow_symlinks=False):
            _remove_unheld(entry.path)


def _remove_unheld(path: str) -> None:
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return
    try:
        if try_lock(handle):
            os.unlink(path)
    finally:
        os.close(handle)
