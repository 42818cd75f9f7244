"""Where the bytes of a tensor are: in the mapped model file, in an external file, in memory, or yet to be computed.

A `WeightStore` maps the keys that a stripped model carries to payloads. It never copies what it does not have to:
an array of a stored weight is a read-only view of the memory map.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from precision_planner.errors import ModelError
from precision_planner.model.wire import RAW_DATA, VARINT_FIELDS
from precision_planner.writing import watch

CHUNK_BYTES = 1 << 22
"""How much is streamed at a time: large enough for the disk, small beside the memory bound."""


class Payload(Protocol):
    """The bytes of one tensor, little-endian and dense, as TensorProto.raw_data would hold them."""

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes in order, `size` at a time: whole elements, but for the packed 4-bit types."""

    @property
    def stored(self) -> tuple[int, int]:
        """(TensorProto field, bytes) in which it is written back into a file."""

    def stored_chunks(self) -> Iterator[memoryview]:
        """Yield the bytes of `stored`."""


class MappedFile:
    """A read-only memory map of a file, shared by every payload in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                watch(path, os.fstat(file.fileno()))
                size = file.seek(0, 2)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
        self.view = memoryview(self._map)

    def __len__(self) -> int:
        return len(self.view)


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes of a mapped file (or of a buffer in memory), in the encoding of a TensorProto field."""

    view: memoryview
    offset: int
    length: int
    field: int = RAW_DATA
    itemsize: int = 1
    source: Path | None = None

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        if self.field not in VARINT_FIELDS:
            return self.length
        return sum(len(chunk) for chunk in self.chunks())

    @property
    def stored(self) -> tuple[int, int]:
        """(TensorProto field, bytes) in which it is written back."""
        return self.field, self.length

    def stored_chunks(self) -> Iterator[memoryview]:
        """Yield the bytes as they stand in the file."""
        for start in range(self.offset, self.offset + self.length, CHUNK_BYTES):
            yield self.view[start : min(start + CHUNK_BYTES, self.offset + self.length)]

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the dense bytes, decoding varints where the field holds them."""
        end = self.offset + self.length
        if self.field not in VARINT_FIELDS:
            for start in range(self.offset, end, size):
                yield self.view[start : min(start + size, end)]
            return
        start = self.offset
        while start < end:
            stop = min(start + size, end)
            while stop > start and self.view[stop - 1] >= 0x80:  # do not cut a number in two
                stop -= 1
            yield decode_varints(self.view[start:stop], self.itemsize).view(np.uint8).data
            start = stop

    def buffer(self) -> memoryview | None:
        """The dense bytes without a copy, where the encoding allows it."""
        if self.field in VARINT_FIELDS:
            return None
        return self.view[self.offset : self.offset + self.length]


@dataclass(frozen=True, slots=True)
class BytesPayload:
    """Bytes held in memory."""

    data: bytes | memoryview

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return len(self.data)

    @property
    def stored(self) -> tuple[int, int]:
        """(TensorProto.raw_data, bytes)."""
        return RAW_DATA, len(self.data)

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes, `size` at a time."""
        view = memoryview(self.data)
        for start in range(0, len(view), size):
            yield view[start : start + size]

    def stored_chunks(self) -> Iterator[memoryview]:
        """Yield the bytes."""
        return self.chunks()

    def buffer(self) -> memoryview | None:
        """The bytes, without a copy."""
        return memoryview(self.data)


@dataclass(frozen=True, slots=True)
class LazyPayload:
    """Bytes computed while they are streamed: the cast, the transpose or the rescaling of another payload.

    `produce` is called anew for each pass over the bytes and yields exactly `nbytes` bytes in all, whole elements
    at a time. `identity` names what is computed, where two payloads of one identity hold the same bytes; None where
    nothing is promised.
    """

    nbytes: int
    produce: Callable[[], Iterable[memoryview | bytes | np.ndarray]]
    identity: Hashable = None

    @property
    def stored(self) -> tuple[int, int]:
        """(TensorProto.raw_data, bytes)."""
        return RAW_DATA, self.nbytes

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes as they are computed; the producer decides the size of the chunks."""
        done = 0
        for piece in self.produce():
            if isinstance(piece, np.ndarray):
                # through uint8: extension types (bfloat16) do not export the buffer protocol
                view = np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
            else:
                view = memoryview(piece).cast("B")
            done += len(view)
            yield view
        if done != self.nbytes:
            raise AssertionError(f"a computed payload gave {done} bytes and promised {self.nbytes}")

    def stored_chunks(self) -> Iterator[memoryview]:
        """Yield the bytes."""
        return self.chunks()

    def buffer(self) -> memoryview | None:
        """Nothing is held: None."""
        return None


def array_payload(array: np.ndarray) -> BytesPayload:
    """The payload of an array held in memory (C order, little-endian; extension types by their bytes)."""
    dense = np.ascontiguousarray(array)
    if dense.dtype.byteorder == ">":
        dense = dense.astype(dense.dtype.newbyteorder("<"))
    return BytesPayload(dense.reshape(-1).view(np.uint8).data)


def decode_varints(data: memoryview, itemsize: int) -> np.ndarray:
    """Decode packed varints, each truncated to `itemsize` bytes (two's complement, as protobuf writes negatives).

    Args:
      data: whole varints, one after the other.
      itemsize: 1, 2, 4 or 8: the size of the element that TensorProto.int32_data, int64_data or uint64_data holds.

    Returns:
      Unsigned integers of that size, shape [count].
    """
    raw = np.frombuffer(data, np.uint8)
    last = np.flatnonzero(raw < 0x80)
    first = np.empty_like(last)
    if len(last):
        first[0] = 0
        first[1:] = last[:-1] + 1
    length = last - first + 1
    value = np.zeros(len(last), np.uint64)
    for place in range(int(length.max(initial=0))):
        has = length > place
        value[has] |= (raw[first[has] + place].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * place)
    return value.astype(f"<u{itemsize}")


class WeightStore(Mapping[str, Payload]):
    """Key -> payload. Immutable: `extend` gives a new store that shares the old payloads."""

    def __init__(self, payloads: Mapping[str, Payload] | None = None) -> None:
        self._payloads: dict[str, Payload] = dict(payloads or {})

    def __getitem__(self, key: str) -> Payload:
        return self._payloads[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._payloads)

    def __len__(self) -> int:
        return len(self._payloads)

    def builder(self) -> WeightStoreBuilder:
        """A builder that starts with everything in this store."""
        return WeightStoreBuilder(self._payloads)

    def add(self, payload: Payload) -> tuple[WeightStore, str]:
        """A store with one payload more, and its key. For many payloads use `builder` (this one copies the map)."""
        builder = self.builder()
        key = builder.add(payload)
        return builder.build(), key


class WeightStoreBuilder:
    """Collects payloads for a new `WeightStore`."""

    def __init__(self, payloads: Mapping[str, Payload] | None = None) -> None:
        self._payloads: dict[str, Payload] = dict(payloads or {})
        self._next = 1 + max((int(key) for key in self._payloads), default=-1)

    def __getitem__(self, key: str) -> Payload:
        return self._payloads[key]

    def keys(self) -> Iterator[str]:
        """The keys so far."""
        return iter(self._payloads)

    def add(self, payload: Payload) -> str:
        """Store a payload and return its key."""
        key = str(self._next)
        self._next += 1
        self._payloads[key] = payload
        return key

    def replace(self, key: str, payload: Payload) -> None:
        """Put another payload under a known key."""
        self._payloads[key] = payload

    def build(self) -> WeightStore:
        """The store."""
        return WeightStore(self._payloads)
