"""Advisory locks on open files: whoever holds one is alive. Windows has none of these, nor have some file systems."""

from __future__ import annotations

import importlib
import os

CAN_LOCK = os.name != "nt"


def try_lock(handle: int) -> bool | None:
    """Lock an open file or folder until it is closed.

    Returns:
      True if it is ours now, False if another process holds it, None where there are no locks.
    """
    if not CAN_LOCK:
        return None
    fcntl = importlib.import_module("fcntl")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
