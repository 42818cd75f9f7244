"""What is there only for a time: removed by whoever made it, or, where the process ends first, in one sweep."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
from pathlib import Path

_live: dict[Path, Path | None] = {}
"""Temporary files and folders of this process -> the folder that was made for them, if any."""


def hold(path: Path, made: Path | None = None) -> None:
    """Remember a temporary file or folder.

    Args:
      path: the file or folder.
      made: a folder that was made to hold it, which goes too where nothing else lies in it.
    """
    _live[path] = made


def drop(path: Path) -> None:
    """Forget what was removed, or has become a result."""
    _live.pop(path, None)


def remove_all() -> None:
    """Remove everything temporary of this process, which is about to end."""
    for path, made in list(_live.items()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # gone already, or not ours to remove any more
            path.unlink(missing_ok=True)
        if made is not None:
            with contextlib.suppress(OSError):  # somebody else's file lies there
                os.rmdir(made)


atexit.register(remove_all)
