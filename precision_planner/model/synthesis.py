"""Valid inputs made up from the graph: ids within their table, masks of 0 and 1, images, positions, lengths.

Deterministic: the same model gives the same batches. What free axes are is guessed from their names; where all
axes are fixed there is one batch, otherwise three: the smallest, a usual and the longest.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from precision_planner.errors import InputsError
from precision_planner.model.batches import Batch, InputRequest, Inputs, InputSpec, input_specs
from precision_planner.model.index import GraphIndex
from precision_planner.model.input_roles import Role, role_of
from precision_planner.model.model import Model
from precision_planner.model.totals import Total, find_totals, is_past, new_tokens, of_encoder, past_axis, settle
from precision_planner.model.types import Dim, TypeTable, infer_types

LONGEST_UNKNOWN = 512
"""Tokens in the longest batch where no table of positions says how many there may be."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What free axes are set to in one batch."""

    label: str
    batch: int
    sequence: int
    past: int
    image: int
    other: int


MADE_UP_BYTES = 2 << 30
"""What made-up inputs may take, all of a batch together."""


def synthesise(model: Model, request: InputRequest | None = None) -> Inputs:
    """Valid inputs for a model, at the smallest, a usual and the longest shape.

    Args:
      model: any model whose inputs are tensors of numbers.
      request: shapes, seed and ranges that were asked for.

    Returns:
      Batches with `synthesised` set and a source that says what was assumed.

    Raises:
      InputsError: an input holds strings, or its rank is not known, or a shape that was asked for does not fit.
    """
    wanted = request or InputRequest()
    specs = input_specs(model)
    index = GraphIndex(model.proto)
    types = infer_types(model, index)
    roles = {spec.name: role_of(spec, model, index, types) for spec in specs}
    for spec in specs:
        if roles[spec.name].kind == "string":
            raise InputsError(f"input '{spec.name}' holds strings, which cannot be synthesised; give --inputs")
        if spec.shape is None and not any(spec.name in shapes for shapes in wanted.shapes.values()):
            raise InputsError(
                f"input '{spec.name}' has no known rank; give --inputs, or --input-shapes {spec.name}:1x.."
            )
    _check_request(wanted, specs)
    if not specs:  # what is computed from constants alone is no guess
        return Inputs(lambda: iter([{}]), "no inputs, as the model takes none")
    longest = _longest(model, roles, index, types)
    totals = find_totals(specs, roles)
    shapes = sizes_of(specs, roles, totals, longest)
    everywhere = wanted.shapes.get("", {})
    if not any(spec.is_dynamic and spec.name not in everywhere for spec in specs):
        shapes = [entry for entry in shapes if entry.label == "usual"]

    def batches() -> Iterator[Batch]:
        for sizes in shapes:
            yield make_batch(specs, roles, sizes, wanted, totals)

    said = "; ".join(f"{spec.name}: {_describe(roles[spec.name])}" for spec in specs)
    return Inputs(batches, f"synthesised ({said})", True, tuple(sizes.label for sizes in shapes))


def token_axes(model: Model) -> tuple[tuple[Total, ...], tuple[str, int] | None]:
    """The axes of a model's inputs that are sums of others; and of a decoder with a cache that of its new tokens."""
    specs, index = input_specs(model), GraphIndex(model.proto)
    types = infer_types(model, index)
    roles = {spec.name: role_of(spec, model, index, types) for spec in specs}
    return find_totals(specs, roles), new_tokens(specs, roles)


def sizes_of(
    specs: tuple[InputSpec, ...], roles: Mapping[str, Role], totals: tuple[Total, ...], longest: int
) -> list[Sizes]:
    """The three batches: past and new tokens together are at most the longest.

    A decoder whose mask is known to cover past and new tokens, or that is told whether there is a past, begins with
    none, as it is called first; one that takes a single token a call never is.
    """
    long_past = min(64, longest // 2) if any(is_past(spec, roles) for spec in specs) else min(64, longest)
    takes_one = any(roles[spec.name].kind == "tokens" and (spec.shape or ("",))[-1] == 1 for spec in specs)
    may_be_empty = totals or any(role.kind == "use_cache" for role in roles.values())
    short_past = min(4, longest) if takes_one or not may_be_empty else 0
    cached = longest - long_past if any(is_past(spec, roles) for spec in specs) else longest
    return [
        Sizes("smallest", 1, min(8, longest), short_past, 224, 2),
        Sizes("usual", 4, min(64, cached), min(16, longest - min(64, cached)) or 1, 224, 8),
        Sizes("longest", 1, cached, long_past, 224, 16),
    ]


def _check_request(request: InputRequest, specs: tuple[InputSpec, ...]) -> None:
    """Shapes and ranges are of inputs that there are, and fit what the model says of them."""
    known = {spec.name: spec for spec in specs}
    flags = {"": "--input-shapes", "smallest": "--minShapes", "usual": "--optShapes", "longest": "--maxShapes"}
    for label, shapes in request.shapes.items():
        for name, shape in shapes.items():
            flag = flags.get(label, label)
            if name not in known:
                raise InputsError(f"{flag} names '{name}', and the model takes {', '.join(known) or 'no input'}")
            spec = known[name]
            if spec.shape is not None and (
                len(shape) != len(spec.shape)
                or any(isinstance(dim, int) and dim != size for dim, size in zip(spec.shape, shape, strict=True))
            ):
                raise InputsError(f"{flag} gives {name} {'x'.join(map(str, shape))}, which is not of {spec}")
    for name in request.ranges:
        if name and name not in known:
            raise InputsError(f"--val-range names '{name}', and the model takes {', '.join(known) or 'no input'}")


def make_batch(
    specs: tuple[InputSpec, ...],
    roles: dict[str, Role],
    sizes: Sizes,
    request: InputRequest,
    totals: tuple[Total, ...] = (),
) -> Batch:
    """One batch; all inputs of it agree on which tokens are padding, and on how many there are.

    Raises:
      InputsError: it would take more than `MADE_UP_BYTES`.
    """
    given = {**request.shapes.get("", {}), **request.shapes.get(sizes.label, {})}
    fixed = {
        dim: size
        for spec in specs
        if spec.name in given and spec.shape is not None
        for dim, size in zip(spec.shape, given[spec.name], strict=True)
        if isinstance(dim, str)
    }
    free = tuple(spec for spec in specs if spec.name not in given)
    guesses = [(dim, _size(dim, axis, s, roles[s.name], sizes)) for s in free for axis, dim in enumerate(_dims(s))]
    named = _agreed((dim, size) for dim, size in guesses if isinstance(dim, str))
    named = {**named, **fixed}
    shapes = {name: tuple(shape) for name, shape in given.items()}
    shapes |= {
        spec.name: tuple(
            named[dim] if isinstance(dim, str) else _size(dim, axis, spec, roles[spec.name], sizes)
            for axis, dim in enumerate(_dims(spec))
        )
        for spec in free
    }
    shapes = settle(shapes, specs, [total for total in totals if total.name not in given])
    past = _past_tokens(specs, roles, shapes)
    wanted = {spec.name: prod(shapes[spec.name]) * max(1, spec.dtype.itemsize) for spec in specs}
    if sum(wanted.values()) > MADE_UP_BYTES:
        name = max(wanted, key=lambda name: wanted[name])
        raise InputsError(
            f"made-up values of input '{name}' {list(shapes[name])} would take {wanted[name]:.3g} bytes; give "
            f"--inputs, or --input-shapes {name}:1x.."
        )
    batch: Batch = {}
    for spec in specs:
        generator = np.random.default_rng(
            [request.seed, zlib.crc32(spec.name.encode()), zlib.crc32(sizes.label.encode())]
        )
        own = 0 if of_encoder(spec.name) else past
        values = _values(roles[spec.name], shapes[spec.name], sizes, generator, own)
        bounds = request.ranges.get(spec.name) or (request.ranges.get("") if spec.dtype.kind not in "iub" else None)
        if bounds is not None:
            values = generator.uniform(*bounds, shapes[spec.name])
            values = np.floor(values) if spec.dtype.kind in "iub" else values
        batch[spec.name] = _store(values, spec.dtype)
    return batch


def _agreed(guesses: Iterable[tuple[str, int]]) -> dict[str, int]:
    """One size for each name: what most axes of that name would be by themselves, the first of them in a tie."""
    counts: dict[str, Counter[int]] = {}
    for name, size in guesses:
        counts.setdefault(name, Counter())[size] += 1
    return {name: found.most_common(1)[0][0] for name, found in counts.items()}


def _past_tokens(specs: Iterable[InputSpec], roles: Mapping[str, Role], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many tokens the cache holds; 0 where there is none."""
    for spec in specs:
        axis = past_axis(spec) if is_past(spec, roles) and len(spec.shape or ()) >= 3 else None
        if axis is not None:
            return shapes[spec.name][axis]
    return 0


def _values(
    role: Role, shape: tuple[int, ...], sizes: Sizes, generator: np.random.Generator, past: int = 0
) -> np.ndarray:
    rows = max(1, role.table or 1)
    match role.kind:
        case "tokens" | "indices":
            # low ids are special tokens in every vocabulary that has them
            low = 1 if role.pads or rows > 1000 else 0
            ids = generator.integers(min(low, rows - 1), rows, shape)
            return np.where(real_tokens(shape), ids, 0) if role.pads and not past else ids
        case "types":
            half = np.arange(shape[-1] if shape else 1) >= (shape[-1] if shape else 1) // 2
            return np.broadcast_to(half & (rows > 1), shape).astype(np.int64)
        case "positions":
            last = shape[-1] if shape else 1
            return np.broadcast_to((past + np.arange(last)) % (role.table or max(past + last, 1)), shape)
        case "mask":
            return real_tokens(shape, past).astype(np.int64)
        case "additive_mask":
            return np.where(real_tokens(shape, past), 0.0, -10000.0)
        case "use_cache":
            return np.full(shape, past > 0)
        case "boolean":
            return generator.integers(0, 2, shape).astype(bool)
        case "length":
            return np.full(shape, sizes.sequence)
        case "size" | "shape":
            free = sizes.image if role.kind == "size" else sizes.other
            wanted = [free if extent is None else extent for extent in role.extents]
            return np.array(wanted).reshape(shape) if wanted else np.full(shape, free)
        case "timestep":
            return np.full(shape, 500)
        case "image":
            return _picture(shape, generator) * role.scale
        case "audio":
            return np.clip(generator.normal(0.0, 0.1, shape), -1, 1)
        case "choice":
            return np.full(shape, role.choices[0])
        case "extent":
            return np.full(shape, sizes.image)
        case "positive":
            return generator.uniform(0.5, 1.5, shape)
        case "integer":
            return generator.integers(0, 2, shape)
        case _:
            return np.clip(generator.normal(0.0, 1.0, shape), -4, 4)


def real_tokens(shape: tuple[int, ...], past: int = 0) -> np.ndarray:
    """True where a token is real. The first row is full; later rows end in a tail of padding, a quarter at most.

    Masks of rank 3 and 4 ([batch, 1, queries, keys]) have the tail along the keys. With a past, whose newest tokens are
    real, rows begin with padding instead, all of it in the past.
    """
    if not shape:
        return np.ones((), bool)
    length = shape[-1]
    row = np.arange(shape[0] if len(shape) > 1 else 1)
    padding = (row % 4) * (length // 12)
    if past:
        mask = np.arange(length)[None, :] >= np.minimum(padding, past - 1)[:, None]
    else:
        mask = np.arange(length)[None, :] < np.maximum(length - padding, 1)[:, None]
    if len(shape) == 1:
        return np.asarray(mask[0])
    return np.broadcast_to(mask.reshape(shape[0], *([1] * (len(shape) - 2)), length), shape).copy()


def _picture(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """A picture in [0, 1] with structure at two scales: a gradient with waves, and grain.

    White noise is no picture: it drives convolutions to ranges that no photograph reaches.
    """
    grain = generator.uniform(0.0, 1.0, shape)
    if len(shape) < 2:
        return grain
    height, width = shape[-2:] if shape[-1] > 4 else (shape[-3] if len(shape) > 2 else 1, shape[-2])
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = 0.5 + 0.25 * np.sin(9 * x + 4 * y) * np.cos(7 * y) + 0.2 * (x - 0.5)
    wide = waves if shape[-1] > 4 or len(shape) < 3 else waves[..., None]
    return np.clip(0.85 * np.broadcast_to(wide, shape) + 0.15 * grain, 0.0, 1.0)


def _store(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = np.clip(values, info.min, info.max)
    return np.ascontiguousarray(values).astype(dtype).reshape(values.shape)


def _dims(spec: InputSpec) -> tuple[Dim, ...]:
    assert spec.shape is not None
    return spec.shape


def _size(dim: Dim, axis: int, spec: InputSpec, role: Role, sizes: Sizes) -> int:
    if isinstance(dim, int):
        return dim
    rank = len(_dims(spec))
    name = (dim or "").lower()
    if "+" in name:  # of parts that are no axis themselves; else `settle` has the sum
        return sum(
            int(part) if part.strip().isdigit() else _size(part.strip(), axis, spec, role, sizes)
            for part in name.split("+")
        )
    if re.search(r"batch|^n$|^b$", name):
        return sizes.batch
    if "total" in name and re.search(r"seq|len", name):
        return sizes.past + sizes.sequence
    if re.search(r"past|cache|kv_", name) and not re.search(r"(?<!d)encoder|cross", name):
        return sizes.past
    if role.kind == "image":
        if re.search(r"channel", name):
            return 3
        return sizes.batch if axis == 0 and not re.search(r"height|width|^h$|^w$", name) else sizes.image
    if re.search(r"height|width|^h$|^w$", name):
        return sizes.image
    if re.search(r"seq|len|token|time|frame|sample|position", name):
        return sizes.sequence if role.kind != "audio" else 16000
    if axis == 0 and (rank > 1 or role.kind in ("tokens", "indices", "length", "float")):
        return sizes.batch
    if role.kind in ("tokens", "types", "positions", "mask", "additive_mask", "indices"):
        return sizes.sequence
    if role.kind == "cache":
        return sizes.sequence if of_encoder(spec.name) else sizes.past
    return sizes.sequence if rank == 3 and axis == 1 else (16000 if role.kind == "audio" else sizes.other)


def _longest(model: Model, roles: dict[str, Role], index: GraphIndex, types: TypeTable) -> int:
    """The most tokens that the model's tables of positions allow."""
    limits = [role.table for role in roles.values() if role.kind == "positions" and role.table]
    for name, tensor in index.main.initializers.items():
        dims = tuple(tensor.dims)
        if re.search(r"position", name, re.IGNORECASE) and len(dims) == 2 and min(dims) >= 1:
            # [positions, hidden] of a table, or [1, positions] of the ids that index it
            rows = dims[1] if dims[0] == 1 else dims[0]
            if rows >= 8:
                # RoBERTa's positions start behind the padding index, so that 514 rows serve 512 tokens
                limits.append(rows - 2 if rows % 8 == 2 else rows)
    for node in index.main.nodes:
        if node.op_type == "Slice" and node.input and (limit := _sliced_ids(index, node.input[0], model)):
            limits.append(limit)
    return max(2, min([*limits, LONGEST_UNKNOWN]))


def _sliced_ids(index: GraphIndex, value: str, model: Model) -> int | None:
    """The length of a constant 0, 1, 2, ... that the graph slices to the sequence: BERT's position ids."""
    ids = index.constant(index.main, value, model, 1 << 16)
    if ids is None or ids.dtype.kind != "i" or ids.ndim not in (1, 2) or ids.size < 8:
        return None
    flat = ids.reshape(-1)
    return int(flat.size) if flat[0] == 0 and bool((np.diff(flat) == 1).all()) else None


def _describe(role: Role) -> str:
    if role.table is not None:
        return f"{role.kind} below {role.table}"
    if role.kind == "image":
        return f"image in [0, {role.scale:g}]"
    return {"mask": "mask of 0 and 1 with a tail", "float": "normal(0, 1)"}.get(role.kind, role.kind)
