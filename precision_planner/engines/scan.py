"""Look for many eight-byte runs in a file of any size, at every byte, in one pass."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["find_keys"]

BLOCK = 1 << 24
_BITS = 24
_MIX = np.uint64(0x9E3779B97F4A7C15)

Array = np.ndarray[Any, Any]


def find_keys(path: Path, keys: Array) -> dict[int, int]:
    """Key -> the first offset in the file at which its eight bytes stand; keys that stand nowhere are missing.

    Blocks of 16 MiB, each looked at in its eight alignments: a table of hashed keys first (one byte a value of 24
    bits), and of what passes, the sorted keys. Memory is a block's, whatever the file's size.

    Args:
      path: the file.
      keys: uint64, little endian.
    """
    if not len(keys):
        return {}
    ordered = np.unique(keys)
    table = np.zeros(1 << _BITS, bool)
    table[_hashed(ordered)] = True
    found: dict[int, int] = {}
    size = path.stat().st_size
    if size < 8:
        return found
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for begin in range(0, size, BLOCK):
            block = data[begin : min(begin + BLOCK + 7, size)]
            for shift in range(8):
                count = (len(block) - shift) // 8
                if count < 1:
                    continue
                words = np.frombuffer(block, "<u8", count, shift)
                maybe = np.flatnonzero(table[_hashed(words)])
                if not len(maybe):
                    continue
                at = np.searchsorted(ordered, words[maybe])
                at[at == len(ordered)] = 0
                hit = ordered[at] == words[maybe]
                for place, word in zip(maybe[hit].tolist(), words[maybe[hit]].tolist(), strict=True):
                    offset = begin + shift + 8 * place
                    found[word] = min(offset, found.get(word, offset))
    return found


def _hashed(words: Array) -> Array:
    result: Array = ((words * _MIX) >> np.uint64(64 - _BITS)).astype(np.int64)
    return result
