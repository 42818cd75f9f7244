"""Axes whose size follows from others: the keys that a mask covers are past and new ones.

A decoder with a cache takes a mask of past + new columns. Exporters name that axis as a sum ("past + new", or
"s44 + s70"), by a name of its own ("total_sequence_length"), or not at all: then it follows from the cache beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from precision_planner.model.batches import InputSpec
from precision_planner.model.input_roles import Role

Part = int | tuple[str, int]
"""A number, or (input, axis)."""


@dataclass(frozen=True, slots=True)
class Total:
    """An axis that is the sum of others.

    Attributes:
      name: the input.
      axis: of it.
      parts: what is added up.
    """

    name: str
    axis: int
    parts: tuple[Part, ...]

    def of(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """The sum for the shapes of the inputs."""
        return sum(part if isinstance(part, int) else shapes[part[0]][part[1]] for part in self.parts)


def find_totals(specs: Iterable[InputSpec], roles: Mapping[str, Role]) -> tuple[Total, ...]:
    """The axes that are sums of others: named so, or of a mask beside a cache, whose new tokens are known."""
    specs = tuple(specs)
    named: dict[str, tuple[str, int]] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.shape or ()):
            if isinstance(dim, str):
                named.setdefault(dim, (spec.name, axis))
    past, new = _past(specs, roles), _new(specs, roles)
    found = []
    for spec in specs:
        for axis, dim in enumerate(spec.shape or ()):
            parts = _parts(dim, named) if isinstance(dim, str) else ()
            if not parts and past and new and _covers_keys(spec, axis, roles) and not _shared(dim, spec, specs, roles):
                parts = (past, new)
            if not parts and dim is None and past and new and axis == 1 and roles[spec.name].kind == "positions":
                parts = (new,)  # a position for each new token
            if parts:
                found.append(Total(spec.name, axis, parts))
    return tuple(found)


def new_tokens(specs: Iterable[InputSpec], roles: Mapping[str, Role]) -> tuple[str, int] | None:
    """The axis of the new tokens of a decoder that has a cache beside it."""
    specs = tuple(specs)
    return _new(specs, roles) if _past(specs, roles) else None


def settle(
    shapes: Mapping[str, Sequence[int]], specs: Iterable[InputSpec], totals: Iterable[Total]
) -> dict[str, tuple[int, ...]]:
    """The shapes with each sum what its parts are, and every axis of the same name the same."""
    found = {name: list(shape) for name, shape in shapes.items()}
    specs = tuple(specs)
    for total in totals:
        if total.name not in found:
            continue
        size = total.of(found)
        dim = next((spec.shape or ())[total.axis] for spec in specs if spec.name == total.name)
        found[total.name][total.axis] = size
        for spec in specs if isinstance(dim, str) else ():
            for axis, other in enumerate(spec.shape or ()):
                if other == dim and spec.name in found:
                    found[spec.name][axis] = size
    return {name: tuple(shape) for name, shape in found.items()}


def is_past(spec: InputSpec, roles: Mapping[str, Role]) -> bool:
    """Whether an input is the cache of a decoder's own past, not of an encoder's keys."""
    return roles[spec.name].kind == "cache" and not of_encoder(spec.name)


def of_encoder(name: str) -> bool:
    """Whether an input is about an encoder's tokens, by its name."""
    return bool(re.search(r"(?<![a-z])encoder|cross", name.lower()))


def past_axis(spec: InputSpec) -> int | None:
    """The axis of a cache that counts its tokens: the first free one behind the batch, or one of no elements."""
    shape = spec.shape or ()
    return next((axis for axis in range(1, len(shape)) if not isinstance(shape[axis], int) or shape[axis] == 0), None)


def _past(specs: Sequence[InputSpec], roles: Mapping[str, Role]) -> tuple[str, int] | None:
    for spec in specs:
        axis = past_axis(spec) if is_past(spec, roles) and len(spec.shape or ()) >= 3 else None
        if axis is not None:
            return spec.name, axis
    return None


def _new(specs: Sequence[InputSpec], roles: Mapping[str, Role]) -> tuple[str, int] | None:
    """The axis of the new tokens: the last of the ids, or the second of their embeddings."""
    for spec in specs:
        rank = len(spec.shape or ())
        if not of_encoder(spec.name) and roles[spec.name].kind in ("tokens", "indices") and rank == 2:
            return spec.name, 1
    for spec in specs:
        if "embed" in spec.name.lower() and len(spec.shape or ()) == 3 and not of_encoder(spec.name):
            return spec.name, 1
    return None


def _covers_keys(spec: InputSpec, axis: int, roles: Mapping[str, Role]) -> bool:
    last = axis == len(spec.shape or ()) - 1
    is_mask = roles[spec.name].kind in ("mask", "additive_mask") or "mask" in spec.name.lower()
    return last and axis > 0 and is_mask and not of_encoder(spec.name) and not isinstance((spec.shape or ())[axis], int)


def _shared(dim: int | str | None, spec: InputSpec, specs: Sequence[InputSpec], roles: Mapping[str, Role]) -> bool:
    """Whether the axis is by its name the same as one of an input that is no mask: then that says what it is."""
    return isinstance(dim, str) and any(
        dim in (other.shape or ())
        for other in specs
        if other.name != spec.name and roles[other.name].kind not in ("mask", "additive_mask")
    )


def _parts(name: str, named: Mapping[str, tuple[str, int]]) -> tuple[Part, ...]:
    pieces = [piece.strip() for piece in name.split("+")]
    if len(pieces) < 2 or not all(piece.isdigit() or piece in named for piece in pieces):
        return ()
    return tuple(int(piece) if piece.isdigit() else named[piece] for piece in pieces)
