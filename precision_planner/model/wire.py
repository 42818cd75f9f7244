"""The protobuf wire format of an ONNX file: take the weights out, put them back.

An ONNX file is one protobuf message in which almost every byte is weights. `strip` copies the message without
them, so that the structure (a few per cent) can be parsed, indexed and rewritten cheaply; each payload stays where
it is, in the mapped file, known by its place. `splice` does the reverse while it writes: the structure is
serialized, and wherever a marker stands the payload's bytes are streamed in. Neither ever holds the weights.

The marker is a legal TensorProto: `data_location = EXTERNAL` and one `external_data` entry whose location is
``planner:<key>``, so that ONNX's own tools (shape inference above all) can read the stripped model.

Source: protobuf encoding, https://protobuf.dev/programming-guides/encoding/; field numbers from onnx.proto.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from precision_planner.errors import ModelError

MARKER_PREFIX = "planner:"
"""What a stripped tensor's external_data location begins with."""

MAX_DEPTH = 100
"""Messages within messages: protobuf's own limit."""

STRIP_BYTES = 1024
"""Payloads of at least this many bytes are taken out; smaller ones (shapes, scalars, norms' epsilons) stay."""

RAW_DATA = 9
"""TensorProto.raw_data."""

_VARINT, _FIXED64, _LENGTH, _GROUP_START, _GROUP_END, _FIXED32 = 0, 1, 2, 3, 4, 5

# message -> {field number: message it holds}; only the fields that can lead to a tensor
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}

# TensorProto fields that carry packed numbers: float_data, int32_data, int64_data, raw_data, double_data, uint64_data
PAYLOAD_FIELDS = frozenset({4, 5, 7, RAW_DATA, 10, 11})
VARINT_FIELDS = frozenset({5, 7, 11})
"""The payload fields whose numbers are varints: their length in bytes is not their length in memory."""

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


@dataclass(frozen=True, slots=True)
class Slice:
    """A payload found in the file: the bytes [offset, offset + length) of TensorProto field `field`."""

    field: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Insert:
    """A payload to stream in: `length` bytes known to the weight store as `key`."""

    key: str
    length: int


def _varint(buffer: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            break
    raise ModelError("its protobuf structure is broken (a varint without end)")


def encode_varint(value: int) -> bytes:
    """The base-128 encoding of a non-negative integer, least significant group first."""
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(buffer: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (field number, wire type, start of the tag, start of the content, end of the field)."""
    position = start
    while position < end:
        tag_start = position
        tag = buffer[position]
        if tag < 0x80:
            position += 1
        else:
            tag, position = _varint(buffer, position, end)
        number, wire = tag >> 3, tag & 7
        if wire == _LENGTH:
            length, content = _varint(buffer, position, end)
            position = content + length
        elif wire == _VARINT:
            content = position
            _, position = _varint(buffer, position, end)
        elif wire == _FIXED32:
            content, position = position, position + 4
        elif wire == _FIXED64:
            content, position = position, position + 8
        else:
            raise ModelError(f"protobuf has no wire type {wire}, as stands at byte {tag_start}")
        if number == 0 or position > end:
            raise ModelError(f"it is cut short or damaged near byte {tag_start}")
        yield number, wire, tag_start, content, position


def strip(buffer: memoryview, register: Callable[[Slice], str], threshold: int = STRIP_BYTES) -> bytes:
    """Copy a serialized ModelProto without its large tensor payloads.

    Args:
      buffer: the serialized ModelProto, any size (a memory map's view).
      register: called with each payload's place; returns the key the marker will carry.
      threshold: payloads of fewer bytes stay inline.

    Returns:
      The stripped message, serialized: parse it with ``onnx.ModelProto.FromString``.

    Raises:
      ModelError: the bytes are no protobuf message, or end in the middle of one.
    """
    return b"".join(_strip_message(buffer, 0, len(buffer), "Model", register, threshold, 0))


def _strip_message(
    buffer: memoryview, start: int, end: int, kind: str, register: Callable[[Slice], str], threshold: int, depth: int
) -> list[bytes | memoryview]:
    if depth > MAX_DEPTH:
        raise ModelError("its graphs are nested deeper than protobuf allows")
    children = _CHILDREN[kind]
    parts: list[bytes | memoryview] = []
    copied = start
    for number, wire, tag_start, content, stop in _fields(buffer, start, end):
        child = children.get(number)
        if child is None or wire != _LENGTH or stop - content < threshold:
            continue
        if child == "Tensor":
            inner = _strip_tensor(buffer, content, stop, register, threshold)
        else:
            inner = _strip_message(buffer, content, stop, child, register, threshold, depth + 1)
        if inner is None:
            continue
        parts.append(buffer[copied:tag_start])
        parts.append(encode_varint(number << 3 | _LENGTH) + encode_varint(sum(map(len, inner))))
        parts.extend(inner)
        copied = stop
    parts.append(buffer[copied:end])
    return parts


def _strip_tensor(
    buffer: memoryview, start: int, end: int, register: Callable[[Slice], str], threshold: int
) -> list[bytes | memoryview] | None:
    payloads = [
        (number, tag_start, content, stop)
        for number, wire, tag_start, content, stop in _fields(buffer, start, end)
        if number in PAYLOAD_FIELDS and wire == _LENGTH
    ]
    # a payload in several pieces is legal protobuf that nobody writes: it stays where it is
    if len(payloads) != 1 or payloads[0][3] - payloads[0][2] < threshold:
        return None
    number, tag_start, content, stop = payloads[0]
    key = register(Slice(number, content, stop - content))
    return [buffer[start:tag_start], buffer[stop:end], marker_fields(key)]


def marker_fields(key: str) -> bytes:
    """The serialized TensorProto fields (external_data, data_location) that stand for a payload."""
    location = (MARKER_PREFIX + key).encode()
    entry = b"\x0a\x08location" + b"\x12" + encode_varint(len(location)) + location
    return (
        encode_varint(_EXTERNAL_DATA << 3 | _LENGTH)
        + encode_varint(len(entry))
        + entry
        + bytes([_DATA_LOCATION << 3, 1])
    )


def splice(structure: bytes, payload: Callable[[str], tuple[int, int] | None]) -> list[bytes | Insert]:
    """Put the payloads back into a stripped message: the pieces to write one after the other.

    Args:
      structure: a stripped ModelProto, serialized.
      payload: key -> (TensorProto field, length in bytes), or None for a marker that stays as it is.

    Returns:
      Literal bytes and `Insert`s, in order; the sum of their lengths is the size of the file.
    """
    positions = [match.start() for match in re.finditer(MARKER_PREFIX.encode(), structure)]
    pieces, _ = _splice_message(memoryview(structure), 0, len(structure), "Model", payload, positions)
    return _merge(pieces)


_Piece = bytes | memoryview | Insert


def _splice_message(
    buffer: memoryview,
    start: int,
    end: int,
    kind: str,
    payload: Callable[[str], tuple[int, int] | None],
    positions: list[int],
) -> tuple[list[_Piece], int]:
    first = bisect_left(positions, start)
    if first == len(positions) or positions[first] >= end:
        return [buffer[start:end]], end - start
    children = _CHILDREN[kind]
    pieces: list[_Piece] = []
    copied, size = start, 0
    for number, wire, tag_start, content, stop in _fields(buffer, start, end):
        child = children.get(number)
        if child is None or wire != _LENGTH:
            continue
        at = bisect_left(positions, content)
        if at == len(positions) or positions[at] >= stop:
            continue
        inner: tuple[list[_Piece], int]
        if child == "Tensor":
            inner = _splice_tensor(buffer, content, stop, payload)
        else:
            inner = _splice_message(buffer, content, stop, child, payload, positions)
        head = encode_varint(number << 3 | _LENGTH) + encode_varint(inner[1])
        pieces += [buffer[copied:tag_start], head, *inner[0]]
        size += tag_start - copied + len(head) + inner[1]
        copied = stop
    pieces.append(buffer[copied:end])
    return pieces, size + end - copied


def _splice_tensor(
    buffer: memoryview, start: int, end: int, payload: Callable[[str], tuple[int, int] | None]
) -> tuple[list[_Piece], int]:
    kept: list[_Piece] = []
    key = None
    for number, _, tag_start, content, stop in _fields(buffer, start, end):
        if number == _EXTERNAL_DATA:
            key = _marker_key(buffer, content, stop) or key
        elif number != _DATA_LOCATION:
            kept.append(buffer[tag_start:stop])
    found = payload(key) if key is not None else None
    if key is None or found is None:
        return [buffer[start:end]], end - start
    field, length = found
    head = encode_varint(field << 3 | _LENGTH) + encode_varint(length)
    return [*kept, head, Insert(key, length)], sum(map(_length, kept)) + len(head) + length


def _marker_key(buffer: memoryview, start: int, end: int) -> str | None:
    strings = {number: bytes(buffer[content:stop]) for number, _, _, content, stop in _fields(buffer, start, end)}
    if strings.get(1) == b"location" and strings.get(2, b"").startswith(MARKER_PREFIX.encode()):
        return strings[2][len(MARKER_PREFIX) :].decode()
    return None


def _length(piece: _Piece) -> int:
    return piece.length if isinstance(piece, Insert) else len(piece)


def _merge(pieces: list[_Piece]) -> list[bytes | Insert]:
    merged: list[bytes | Insert] = []
    run: list[bytes | memoryview] = []
    for piece in pieces:
        if isinstance(piece, Insert):
            merged += [b"".join(run), piece]
            run = []
        else:
            run.append(piece)
    merged.append(b"".join(run))
    return merged
