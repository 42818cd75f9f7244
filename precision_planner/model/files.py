"""Reading a model file into (stripped proto, weights), and writing one: streamed, atomic, nothing overwritten."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from precision_planner.errors import ExternalDataError, ModelError
from precision_planner.model import wire
from precision_planner.model.payloads import FileSlice, MappedFile, Payload, WeightStore, WeightStoreBuilder
from precision_planner.model.tensors import (
    clear_values,
    dense_nbytes,
    iter_tensors,
    marker_key,
    numpy_dtype,
    set_payload,
)
from precision_planner.model.validate import validate
from precision_planner.writing import (
    atomic_files,
    check_output,
    identity,
    place_of,
    reads,
    refuse_changed,
    remove_parts,
    unnamed_part,
)

PROTOBUF_LIMIT = 2**31 - 1 - 2**20
"""A protobuf message ends at 2 GiB; the rest is margin for what is written around the tensors."""

EXTERNAL_ALIGNMENT = 4096
"""Offsets of external tensors are multiples of the page, so that readers can map them."""

_LATER = "planner-names-this-later"
_SEARCHED_BYTES = 64 << 20
"""A model whose weights lie outside is smaller than this."""


def read_model(path: Path) -> tuple[onnx.ModelProto, WeightStore]:
    """Map a model file, parse it without its weights, and resolve its external data.

    Raises:
      ModelError: no such file, no ONNX model, or external data missing, short, or outside the model's folder.
    """
    if not path.is_file():
        what = "is a folder, not a model file" if path.is_dir() else "does not exist"
        raise ModelError(f"model {path} {what}; give the path of an .onnx file")
    mapped = MappedFile(path)
    if not len(mapped):
        raise ModelError(f"model {path} is empty; export it again")
    return read_buffer(mapped.view, path)


def read_buffer(view: memoryview, path: Path | None) -> tuple[onnx.ModelProto, WeightStore]:
    """Parse and check a serialized model, without its weights; `path` says where external data lies (None: nowhere)."""
    proto, weights = parse_buffer(view, path)
    validate(proto, weights, str(path or "the given model"))
    return proto, weights


def parse_buffer(view: memoryview, path: Path | None) -> tuple[onnx.ModelProto, WeightStore]:
    """`read_buffer` without the check of what the model says."""
    builder = WeightStoreBuilder()

    def register(piece: wire.Slice) -> str:
        return builder.add(FileSlice(view, piece.offset, piece.length, piece.field, source=path))

    try:
        proto = onnx.ModelProto.FromString(wire.strip(view, register))
    except (DecodeError, ModelError, RecursionError) as error:
        raise ModelError(
            f"{path or 'the given model'} is not an ONNX model, or not all of one: {error}; copy or export it again"
        ) from None
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"{path or 'the given model'} is not an ONNX model (it has no graph); export it again")
    _refuse_markers(proto, builder, path)
    _settle_payloads(proto, builder, path)
    return proto, builder.build()


def _refuse_markers(proto: onnx.ModelProto, builder: WeightStoreBuilder, path: Path | None) -> None:
    """A file that holds what only a stripped model holds would read another tensor's bytes as its own."""
    keys = [key for site in iter_tensors(proto) if (key := marker_key(site.tensor)) is not None]
    if len(keys) != len(set(keys)) or set(keys) != set(builder.keys()):
        raise ExternalDataError(
            f"{path or 'the given model'} names external data '{wire.MARKER_PREFIX}...', which is no file; export the "
            "model again"
        )


def _settle_payloads(proto: onnx.ModelProto, builder: WeightStoreBuilder, path: Path | None) -> None:
    """Give varint payloads their element size, check lengths, and map what is external."""
    files: dict[Path, MappedFile] = {}
    for site in iter_tensors(proto):
        tensor = site.tensor
        key = marker_key(tensor)
        if key is None:
            if tensor.data_location == TensorProto.EXTERNAL:
                payload = _external_payload(tensor, path, files)
                new_key = builder.add(payload)
                set_payload(tensor, new_key)
            continue
        found = builder[key]
        assert isinstance(found, FileSlice)
        expected = dense_nbytes(tensor.data_type, tensor.dims)
        if found.field in wire.VARINT_FIELDS:
            itemsize = max(1, numpy_dtype(tensor.data_type).itemsize)
            builder.replace(key, FileSlice(found.view, found.offset, found.length, found.field, itemsize, found.source))
        elif found.length != expected:
            raise ModelError(
                f"tensor '{tensor.name}' in {path or 'the given model'} holds {found.length} bytes where its shape "
                f"{list(tensor.dims)} takes {expected}; export the model again"
            )


def _external_payload(tensor: TensorProto, path: Path | None, files: dict[Path, MappedFile]) -> FileSlice:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if path is None:
        raise ExternalDataError(
            f"tensor '{tensor.name}' lies in the external file '{location}', which a model in memory cannot name; "
            "pass the model's path instead"
        )
    folder = path.parent
    file = folder / location
    inside = file.resolve().is_relative_to(folder.resolve())
    if not location or Path(location).is_absolute() or not inside:
        raise ExternalDataError(
            f"tensor '{tensor.name}' names the external file '{location}' outside the folder of {path}; "
            "external data must lie beside the model"
        )
    if not file.is_file():
        raise ExternalDataError(
            f"external data {file} of tensor '{tensor.name}' does not exist; copy it beside the model"
        )
    if file not in files:
        files[file] = MappedFile(file)
    mapped = files[file]
    expected = dense_nbytes(tensor.data_type, tensor.dims)
    try:
        offset = int(entries.get("offset", "0") or 0)
        length = int(entries.get("length", "0") or 0) or expected
    except ValueError:
        raise ExternalDataError(f"tensor '{tensor.name}' has an external offset or length that is no number") from None
    if length != expected:
        raise ExternalDataError(
            f"tensor '{tensor.name}' has {length} bytes of external data where its shape {list(tensor.dims)} takes "
            f"{expected}; export the model again"
        )
    if offset < 0 or offset + length > len(mapped):
        raise ExternalDataError(
            f"external data {file} is {len(mapped)} bytes long, but tensor '{tensor.name}' ends at byte "
            f"{offset + length}; the file is cut short: copy it again"
        )
    return FileSlice(mapped.view, offset, length, source=file)


def stored_length(proto: onnx.ModelProto, weights: Mapping[str, Payload]) -> int:
    """Bytes the model would take as one file."""
    return sum(piece.length if isinstance(piece, wire.Insert) else len(piece) for piece in _pieces(proto, weights))


def _pieces(proto: onnx.ModelProto, weights: Mapping[str, Payload]) -> list[bytes | wire.Insert]:
    return wire.splice(proto.SerializeToString(), lambda key: weights[key].stored if key in weights else None)


def serialize(proto: onnx.ModelProto, weights: Mapping[str, Payload]) -> bytes:
    """The model as one message, weights inside; ModelError past protobuf's 2 GiB."""
    pieces = _pieces(proto, weights)
    size = sum(piece.length if isinstance(piece, wire.Insert) else len(piece) for piece in pieces)
    if size > PROTOBUF_LIMIT:
        raise ModelError(f"the model takes {size} bytes, over protobuf's 2 GiB: save it to a file instead")
    out = bytearray()
    for piece in pieces:
        if isinstance(piece, wire.Insert):
            for chunk in weights[piece.key].stored_chunks():
                out += chunk
        else:
            out += piece
    return bytes(out)


def write_model(
    path: Path,
    proto: onnx.ModelProto,
    weights: Mapping[str, Payload],
    *,
    force: bool = False,
    external: bool | None = None,
    protect: frozenset[Path] = frozenset(),
) -> list[Path]:
    """Write a model; weights stream from where they are.

    Args:
      path: the .onnx file to write.
      proto: the stripped model.
      weights: its payloads.
      force: overwrite an existing output.
      external: put initializers into ``<name>.data`` beside the model; None: only where the model would pass 2 GiB.
      protect: files that must never be written (the input and its external data).

    Returns:
      The files written, the model first.

    Raises:
      OutputError: the output exists (without force), is the input, or cannot be written.
    """
    if external is None:
        external = stored_length(proto, weights) > PROTOBUF_LIMIT
    check_output(path, force=force, protect=protect)
    place = place_of(path)
    if not external:
        with atomic_files(place) as (file,):
            _write_pieces(file, _pieces(proto, weights), weights)
            refuse_changed(protect)
        return [path]
    return [path, path.with_name(_write_linked(place, proto, weights, protect).name)]


def _write_linked(
    place: Path, proto: onnx.ModelProto, weights: Mapping[str, Payload], protect: frozenset[Path]
) -> Path:
    """Write a model and the file of its weights; the name of the latter, which no other model refers to.

    The weights get a name of their own, by their content, where ``<name>.data`` is taken, so that the rename of the
    model alone changes from the old pair to the new one. The old file goes afterwards, unless another model names it.
    """
    before = _external_files(place)
    linked = onnx.ModelProto()
    linked.CopyFrom(proto)
    with atomic_files(place) as (file,):
        remove_parts(place.with_name(f"{place.name}.data"))
        with unnamed_part(place.with_name(f"{place.name}.data")) as (data, keep):
            digest = _write_external(data, linked, weights)
            data_path = place.with_name(f"{place.name}.data")
            if data_path.exists():
                data_path = place.with_name(f"{place.name}.{digest[:12]}.data")
            for site in iter_tensors(linked):
                for entry in site.tensor.external_data:
                    if entry.key == "location" and entry.value == _LATER:
                        entry.value = data_path.name
            _write_pieces(file, _pieces(linked, weights), weights)
            refuse_changed(protect)
            keep(data_path)
    for old in before - {data_path}:
        if not reads.holds(old) and not any(identity(old) == identity(kept) for kept in protect):
            _remove_unused(old)
    return data_path


def _external_files(model: Path) -> set[Path]:
    """The files of weights, by the names that `_write_linked` gives, of a model that is there.

    Those of its content-named kind that a killed run left are among them, and beside one of these ``<name>.data``.
    """
    if not model.is_file():
        return set()
    hexadecimal = re.compile(re.escape(model.name) + r"\.[0-9a-f]{12}\.data")
    left = {path for path in model.parent.glob("*.data") if hexadecimal.fullmatch(path.name)}
    if left:
        left.add(model.with_name(f"{model.name}.data"))
    pattern = re.compile(re.escape(os.fsencode(model.name)) + rb"(\.[0-9a-f]{12})?\.data")
    try:
        with model.open("rb") as file:
            names = {match.group() for match in pattern.finditer(file.read(_SEARCHED_BYTES))}
    except OSError:
        return set()
    reads.forget(model)
    return left | {model.with_name(os.fsdecode(name)) for name in names}


def _remove_unused(data: Path) -> None:
    """Remove a file of weights that no model beside it names."""
    name = os.fsencode(data.name)
    for other in data.parent.glob("*.onnx"):
        try:
            with other.open("rb") as file:
                if name in file.read(_SEARCHED_BYTES):
                    return
        except OSError:
            return
    data.unlink(missing_ok=True)


def _write_pieces(file: BinaryIO, pieces: list[bytes | wire.Insert], weights: Mapping[str, Payload]) -> None:
    for piece in pieces:
        if isinstance(piece, wire.Insert):
            for chunk in weights[piece.key].stored_chunks():
                file.write(chunk)
        else:
            file.write(piece)


def _write_external(file: BinaryIO, proto: onnx.ModelProto, weights: Mapping[str, Payload]) -> str:
    """Write every stored initializer to `file`, shared payloads once, and point the (copied) model at it.

    Returns:
      The SHA-256 of what was written, in hexadecimal; the location is to be filled in.
    """
    digest = hashlib.sha256()
    written: dict[str, tuple[int, int]] = {}
    position = 0
    for site in iter_tensors(proto):
        key = marker_key(site.tensor)
        if key is None or site.owner != "initializer":
            continue
        if key not in written:
            start = -(-position // EXTERNAL_ALIGNMENT) * EXTERNAL_ALIGNMENT
            padding = b"\0" * (start - position)
            file.write(padding)
            digest.update(padding)
            size = 0
            for chunk in weights[key].chunks():
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            written[key] = (start, size)
            position = start + size
        offset, length = written[key]
        tensor = site.tensor
        clear_values(tensor)
        tensor.data_location = TensorProto.EXTERNAL
        for name, value in (("location", _LATER), ("offset", str(offset)), ("length", str(length))):
            entry = tensor.external_data.add()
            entry.key, entry.value = name, value
    return digest.hexdigest()
