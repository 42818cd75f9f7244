"""Reads the weights of a model for the census: on one core, or on two where there is much to read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from precision_planner.analysis.tensors import FloatTensor
from precision_planner.model import FileSlice, Model, marker_key
from precision_planner.numerics import TensorStats
from precision_planner.numerics.census import FLOAT32, take_totals
from precision_planner.numerics.helper import Piece, share_pieces
from precision_planner.numerics.totals import Totals

__all__ = ["HELP_FROM", "take_census"]

HELP_FROM = 1 << 28
"""Bytes of float32 weights in files from which a second process pays: it takes about 0.3 s to start."""

PIECE = 1 << 24
"""Bytes handed out at a time."""


def take_census(
    model: Model, tensors: Sequence[FloatTensor], progress: Callable[[float], None] | None = None
) -> list[TensorStats]:
    """The census of each tensor, in order, in memory that does not grow with the model.

    Args:
      model: the model that holds them.
      tensors: of the model.
      progress: told the bytes read since the last call.
    """
    totals = [Totals() for _ in tensors]
    slices = {at: found for at, tensor in enumerate(tensors) if (found := _file_slice(model, tensor)) is not None}
    shared = sum(slice_.length for slice_ in slices.values()) >= HELP_FROM and (os.cpu_count() or 1) > 1
    for at, tensor in enumerate(tensors):
        if not (shared and at in slices):
            totals[at] = take_totals(tensor.parts(model), tensor.dtype)
            if progress is not None:
                progress(tensor.nbytes)
    if shared:
        _share(slices, totals, progress)
    return [total.result(tensor.dtype.name) for total, tensor in zip(totals, tensors, strict=True)]


def _file_slice(model: Model, tensor: FloatTensor) -> FileSlice | None:
    """Where a float32 tensor lies in a file, None if it does not lie there as plain bytes."""
    key = None if tensor.stored is None or tensor.dtype != FLOAT32 else marker_key(tensor.stored)
    payload = None if key is None else model.weights[key]
    if isinstance(payload, FileSlice) and payload.source is not None and payload.buffer() is not None:
        return payload
    return None


def _share(
    slices: dict[int, FileSlice],
    totals: list[Totals],
    progress: Callable[[float], None] | None,
) -> None:
    """Take the census of what lies in files, in pieces, on two cores."""
    owners: list[int] = []
    pieces: list[Piece] = []
    for at, payload in slices.items():
        for start in range(0, payload.length, PIECE):
            owners.append(at)
            nbytes = min(PIECE, payload.length - start)
            pieces.append(Piece(os.path.abspath(str(payload.source)), payload.offset + start, nbytes))

    views = {os.path.abspath(str(payload.source)): payload.view for payload in slices.values()}

    def take(piece: Piece) -> Totals:
        view = views[piece.path][piece.offset : piece.offset + piece.nbytes]
        return take_totals([np.frombuffer(view, np.float32)], FLOAT32)

    def done(at: int, part: Totals) -> None:
        totals[owners[at]].merge(part)
        if progress is not None:
            progress(pieces[at].nbytes)

    share_pieces(pieces, take, done)
