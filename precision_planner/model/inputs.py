"""What a model takes, and batches of it: read from files, given as arrays, or synthesised."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from precision_planner.errors import InputsError
from precision_planner.model import arrays
from precision_planner.model.batches import Batch, InputRequest, Inputs, InputSpec, input_specs
from precision_planner.model.model import Model

__all__ = [
    "Batch",
    "InputRequest",
    "InputSpec",
    "Inputs",
    "cast_batch",
    "fit_batch",
    "have_rows",
    "input_specs",
    "load_inputs",
    "read_inputs",
    "take_rows",
]


def load_inputs(source: Any, model: Model, *, check: bool = True) -> Inputs:
    """Batches for a model, each checked against what it takes.

    Args:
      source: a path (.npz; a folder of them, one a batch; Polygraphy's JSON; ``FILE.py[:load_data]``), a dict of
        arrays, an iterable of such dicts, an `Inputs`, or None: valid ones are synthesised, and say so.
      model: the model they are for.
      check: convert and check each batch; see `fit_batch`.

    Raises:
      InputsError: missing or unreadable, or (while iterating) of the wrong names, types or shapes.
    """
    if isinstance(source, Inputs):
        return source
    request = source if isinstance(source, InputRequest) else InputRequest(source)
    if request.source is None:
        from precision_planner.model.synthesis import synthesise

        return synthesise(model, request)
    specs = input_specs(model)
    found = _open(request.source, specs)
    if request.batch_size is not None:
        found = split_rows(found, request.batch_size)
    if not check:
        return found

    def batches() -> Iterator[Batch]:
        empty = True
        for batch in found:
            empty = False
            yield fit_batch(batch, specs, found.source)
        if empty:
            raise InputsError(f"{found.source} gave no batch; give at least one")

    return Inputs(batches, found.source, False, found.labels)


def read_inputs(source: Any) -> Inputs:
    """Batches as they are, for what says itself what it takes: not checked, and nothing synthesised.

    Args:
      source: as in `load_inputs`, but not None.

    Raises:
      InputsError: missing or unreadable.
    """
    return source if isinstance(source, Inputs) else _open(source, ())


def have_rows(specs: tuple[InputSpec, ...]) -> bool:
    """Whether every input has the same free first axis, so that it counts rows."""
    names = {spec.shape[0] if spec.shape else 0 for spec in specs}
    return len(names) == 1 and all(isinstance(name, str) for name in names)


def take_rows(inputs: Inputs, specs: tuple[InputSpec, ...], rows: int) -> Inputs:
    """At most so many rows of each batch, where every input has the same free first axis; else all of them."""
    if not have_rows(specs):
        return inputs

    def batches() -> Iterator[Batch]:
        for batch in inputs:
            yield {name: array[:rows] for name, array in batch.items()}

    return Inputs(batches, inputs.source, inputs.synthesised, inputs.labels)


def split_rows(inputs: Inputs, rows: int) -> Inputs:
    """Batches of at most so many rows each; every array of a batch counts its rows by its first axis.

    Raises:
      InputsError: (while iterating) the arrays of a batch differ in their first axis.
    """

    def batches() -> Iterator[Batch]:
        for batch in inputs:
            counts = {name: np.asarray(array).shape[:1] for name, array in batch.items()}
            if len(set(counts.values())) != 1 or () in counts.values():
                told = ", ".join(f"{name} {list(count)}" for name, count in counts.items())
                raise InputsError(
                    f"{inputs.source} cannot be split by rows, which differ: {told}; leave --batch-size out"
                )
            ((count,),) = set(counts.values())
            for start in range(0, count, rows):
                yield {name: np.asarray(array)[start : start + rows] for name, array in batch.items()}

    return Inputs(batches, f"{inputs.source}, {rows} rows at a time", inputs.synthesised)


def fit_batch(batch: Mapping[str, Any], specs: Iterable[InputSpec], source: str = "the inputs") -> Batch:
    """The batch in the types that the model takes; every mistake is named.

    Integers of another width are converted where every value fits, floats of another width by rounding; a float
    for an integer, or the other way round, is an error, as is any shape that the model does not take. Names that
    are none of the model's inputs are errors too.

    Raises:
      InputsError: as said.
    """
    specs = tuple(specs)
    known = {spec.name for spec in specs}
    missing = [spec.name for spec in specs if spec.name not in batch]
    extra = [name for name in batch if name not in known]
    if missing or extra:
        has = ", ".join(sorted(batch)) or "nothing"
        what = f"lack '{missing[0]}'" if missing else f"have '{extra[0]}', which the model does not take"
        raise InputsError(f"{source} {what}; the model takes {', '.join(sorted(known))} and they have {has}")
    result: Batch = {}
    sizes: dict[str, tuple[int, str]] = {}
    for spec in specs:
        array = _convert(_array(spec.name, batch[spec.name]), spec, source)
        _check_shape(array, spec, sizes, source)
        result[spec.name] = array
    return result


def cast_batch(batch: Mapping[str, np.ndarray], specs: Iterable[InputSpec]) -> Batch:
    """A checked batch in the types of another form of the model: FP16 inputs rounded, int64 ids as int32."""
    result: Batch = {}
    for spec in specs:
        if spec.name not in batch:
            raise InputsError(
                f"the candidate takes an input '{spec.name}' which the reference has not; it has {', '.join(batch)}"
            )
        array = batch[spec.name]
        with np.errstate(over="ignore", invalid="ignore"):
            result[spec.name] = array if array.dtype == spec.dtype else array.astype(spec.dtype)
    return result


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:  # a list whose parts differ in shape
        raise InputsError(f"the values given for '{name}' are no array: {error}") from error


def _open(source: Any, specs: tuple[InputSpec, ...]) -> Inputs:
    if isinstance(source, Mapping):
        batch = {str(name): _array(str(name), value) for name, value in source.items()}
        return Inputs(lambda: iter([batch]), "the given arrays")
    if not isinstance(source, (str, os.PathLike)):
        if not isinstance(source, Iterable):
            raise InputsError(f"inputs cannot be a {type(source).__name__}; give a path, a dict or a list of dicts")
        batches = list(source)
        return Inputs(lambda: iter([dict(batch) for batch in batches]), f"{len(batches)} given batches")
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir() and not any(path.glob("*.npz")) and (pictures := arrays.image_files(path)):
        spec = _only(specs, f"the pictures in {path}")
        labels = tuple(file.name for file in pictures)
        return Inputs(
            lambda: ({spec.name: arrays.read_image(file, spec.shape, spec.dtype)} for file in pictures),
            f"{len(pictures)} pictures in {path}, scaled to [0, 1] and not normalized",
            False,
            labels,
        )
    if path.is_dir():
        files = arrays.npz_files(path)
        labels = tuple(file.name for file in files)
        return Inputs(lambda: (arrays.read_npz(file) for file in files), f"{len(files)} files in {path}", False, labels)
    if text.endswith(".py") or ".py:" in text:
        return Inputs(arrays.read_loader(text), text)
    if path.suffix == ".json":
        stored = arrays.read_polygraphy(path)
        return Inputs(lambda: iter(stored), text)
    if arrays.is_npy(path):
        array = arrays.read_npy(path)
        return Inputs(lambda: iter([{_only(specs, str(path)).name: array}]), text, False, (path.name,))
    if path.suffix == ".npz" or path.is_file():
        read = arrays.read_npz(path)
        return Inputs(lambda: iter([read]), text, False, (path.name,))
    raise InputsError(f"inputs {text} do not exist; give an .npz file, a folder of them, a JSON or a .py file")


def _only(specs: tuple[InputSpec, ...], source: str) -> InputSpec:
    """The model's one input, for a source that names none."""
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise InputsError(
            f"{source} name no input, and the model takes {len(specs)} ({names}); save them with numpy.savez"
        )
    return specs[0]


def _convert(array: np.ndarray, spec: InputSpec, source: str) -> np.ndarray:
    if spec.elem_type == TensorProto.STRING:
        if array.dtype.kind in "USO":
            return array.astype(object)
        raise InputsError(f"{source}: '{spec.name}' is {array.dtype}, the model takes strings")
    wanted = spec.dtype
    if array.dtype == wanted:
        return array
    have, want = _kind(array.dtype), _kind(wanted)
    wrong = f"{source}: '{spec.name}' is {array.dtype}, the model takes {wanted}"
    if have == want == "float":
        with np.errstate(over="ignore", invalid="ignore"):
            return array.astype(wanted)
    if have == want == "int":
        info = np.iinfo(wanted)
        if array.size and (int(array.min()) < info.min or int(array.max()) > info.max):
            raise InputsError(f"{wrong}, and {array.min()} to {array.max()} does not fit; give smaller values")
        return array.astype(wanted)
    if want == "bool" and have == "int" and np.isin(array, (0, 1)).all():
        return array.astype(bool)
    if have == "bool" and want == "int":
        return array.astype(wanted)
    raise InputsError(f"{wrong}; convert it with .astype(numpy.{wanted})")


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "iu":
        return "int"
    if dtype.kind == "b":
        return "bool"
    # ml_dtypes' bfloat16 and float8 are of numpy's kind V
    return "float" if dtype.kind in "fV" and dtype.type is not np.void else "other"


def _check_shape(array: np.ndarray, spec: InputSpec, sizes: dict[str, tuple[int, str]], source: str) -> None:
    if spec.shape is None:
        return
    if array.ndim != len(spec.shape):
        raise InputsError(
            f"{source}: '{spec.name}' has shape {list(array.shape)}, the model takes {len(spec.shape)} axes: {spec}"
        )
    for axis, (size, dim) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if isinstance(dim, int) and size != dim:
            raise InputsError(
                f"{source}: '{spec.name}' has shape {list(array.shape)}, but axis {axis} must be {dim}: {spec}"
            )
        if isinstance(dim, str) and sizes.setdefault(dim, (size, spec.name))[0] != size:
            other, name = sizes[dim]
            raise InputsError(
                f"{source}: '{dim}' is {size} in '{spec.name}' (axis {axis}) but {other} in '{name}'; make them equal"
            )
