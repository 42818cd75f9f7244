"""Named arrays in the files that people have: npz, folders of npz, Polygraphy's JSON, data loader scripts."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from precision_planner._extras import require
from precision_planner._reading import parse_json
from precision_planner.errors import InputsError

Arrays = dict[str, np.ndarray]


def read_npz(path: Path) -> Arrays:
    """Read the named arrays of an .npz file.

    NumPy's format knows no bfloat16: it is saved as two bytes without a meaning, and read back as what it was.

    Raises:
      InputsError: missing, damaged, or holding pickled objects.
    """
    if not path.is_file():
        raise InputsError(f"inputs {path} do not exist; give an .npz file, a folder of them, a JSON or a .py file")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as folder:
            return {
                member.filename.removesuffix(".npy"): _as_saved(_read_member(folder, member))
                for member in folder.infolist()
            }
    except _DAMAGED as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise InputsError(f"inputs {path} cannot be read as .npz ({told}); save them with numpy.savez") from None


def read_npy(path: Path) -> np.ndarray:
    """Read the array of an .npy file.

    Raises:
      InputsError: missing, damaged, or holding pickled objects.
    """
    try:
        with path.open("rb") as file:
            return _as_saved(_read_array(file, path.stat().st_size))
    except _DAMAGED as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise InputsError(f"inputs {path} cannot be read as .npy ({told}); save them with numpy.save") from None


def is_npy(path: Path) -> bool:
    """Whether a file begins as an .npy file does, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(_NPY_MAGIC)) == _NPY_MAGIC
    except OSError:
        return False


_NPY_MAGIC = b"\x93NUMPY"
_DAMAGED = (
    *(ValueError, OSError, EOFError, KeyError, AttributeError, TypeError, SyntaxError, RecursionError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
    *(NotImplementedError, RuntimeError, OverflowError),  # compressed by an unknown method; encrypted; sizes past 2^63
)
"""What zipfile and numpy raise for files that are damaged."""


def _read_member(folder: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if not member.filename.endswith(".npy"):
        raise ValueError(f"it holds '{member.filename}', which is no array")
    with folder.open(member) as file:
        return _read_array(file, member.file_size)


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """Read one array in numpy's format; ValueError where its header claims more than the `size` bytes there are."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read_header(file)
    except MemoryError:  # its length is read as gigabytes
        raise ValueError("its header is damaged") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded; save plain arrays")
    wanted = prod(shape) * dtype.itemsize
    if wanted > size or any(dim < 0 for dim in shape):
        raise ValueError(f"its header claims {wanted} bytes, and there are {size}")
    data = file.read(wanted)
    if len(data) != wanted:
        raise ValueError(f"it ends after {len(data)} of {wanted} bytes")
    array = np.frombuffer(bytearray(data), dtype) if wanted else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")


IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
"""Endings of pictures."""


def image_files(folder: Path) -> list[Path]:
    """The pictures of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)


def read_image(path: Path, shape: Sequence[Any] | None, dtype: np.dtype[Any]) -> np.ndarray:
    """A picture as a batch of one, in the size and layout of a model's input.

    Args:
      path: the picture.
      shape: of the input, [N, C, H, W] or [N, H, W, C] with 1 or 3 channels; free axes keep the picture's size.
      dtype: of the input; floats are in [0, 1], bytes in [0, 255].

    Raises:
      InputsError: no picture, or no input for one.
      MissingExtraError: Pillow is not installed.
    """
    image = require("PIL.Image", extra="images", purpose="reading pictures")
    if shape is None or len(shape) != 4:
        raise InputsError(f"{path}: the model takes no pictures (its input has shape {shape}); give an .npz file")
    last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    height, width, channels = (shape[1], shape[2], shape[3]) if last else (shape[2], shape[3], shape[1])
    try:
        with image.open(path) as opened:
            picture = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise InputsError(f"{path} is not a picture that can be read ({error}); leave it out") from None
    size = (width if isinstance(width, int) else picture.width, height if isinstance(height, int) else picture.height)
    values = np.asarray(picture.resize(size)).reshape(size[1], size[0], -1)
    if dtype.kind == "f":
        values = values.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((values if last else values.transpose(2, 0, 1))[None]).astype(dtype)


def write_polygraphy(file: IO[bytes], batches: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Write batches as Polygraphy's --save-inputs does; `read_polygraphy` reads them back."""

    def stored(array: np.ndarray) -> dict[str, str]:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=False)
        return {"array": base64.b64encode(buffer.getvalue()).decode(), "polygraphy_class": "ndarray"}

    data = [{name: stored(array) for name, array in batch.items()} for batch in batches]
    file.write(json.dumps(data).encode())


def write_npz(file: IO[bytes], arrays: Mapping[str, Any]) -> None:
    """Write named arrays as an .npz file that `read_npz` reads back, with strings as NumPy's own.

    `numpy.savez` takes the names as keywords, so that it has no room for arrays called `file` or `allow_pickle`.

    Args:
      file: where to, open for binary writing.
      arrays: name -> array, or what becomes one.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as folder:
        for name, value in arrays.items():
            array = np.asanyarray(value)
            if array.dtype == object and all(isinstance(item, str) for item in array.flat):
                array = array.astype(str)
            with folder.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array)


def npz_files(folder: Path) -> list[Path]:
    """The .npz files of a folder by name, each one batch; InputsError if there are none."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise InputsError(f"the folder {folder} has no .npz files; each file in it is one batch")
    return files


def read_polygraphy(path: Path) -> list[Arrays]:
    """Read a Polygraphy JSON file: inputs (a list of dicts) or the outputs of its last runner.

    Polygraphy itself is not needed: an array is a base64 .npy under "array".

    Raises:
      InputsError: missing, no JSON, or holding no arrays by name.
    """
    try:
        root = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputsError(f"{path} does not exist; give Polygraphy's --save-inputs or --save-outputs file") from None
    except (ValueError, OSError) as error:
        raise InputsError(f"{path} is not a JSON file ({error}); give one that Polygraphy saved") from None
    try:
        batches = [_polygraphy_batch(item) for item in _polygraphy_iterations(root)]
    except (*_DAMAGED, IndexError) as error:
        raise InputsError(
            f"{path} does not hold Polygraphy arrays ({error}); save them with --save-inputs, --save-outputs or "
            "polygraphy.json.save_json"
        ) from None
    if not batches or not all(batches):
        raise InputsError(f"{path} holds no arrays; save them with polygraphy.json.save_json([{{name: array}}], path)")
    return batches


def read_loader(text: str) -> Callable[[], Iterator[Arrays]]:
    """The data loader of a script, given as ``FILE.py`` or ``FILE.py:function`` (load_data by default).

    Returns:
      A function that calls the loader anew and yields its batches.

    Raises:
      InputsError: the script is missing, fails, or has no such function.
    """
    file, _, name = text.rpartition(":") if ".py:" in text else (text, "", "load_data")
    path = Path(file)
    loader = load_function(path, name, InputsError)

    def batches() -> Iterator[Arrays]:
        try:
            found = loader()
            if isinstance(found, dict):
                found = [found]
            for batch in found:
                if not isinstance(batch, dict):
                    raise InputsError(f"{name} in {path} gave {type(batch).__name__}, not a dict of name to array")
                yield {key: np.asarray(value) for key, value in batch.items()}
        except InputsError:
            raise
        except (Exception, SystemExit) as error:  # the user's own code: whatever it raises is theirs to mend
            raise InputsError(f"{name} in {path} failed: {type(error).__name__}: {error}") from error

    return batches


def load_function(path: Path, name: str, error: type[Exception]) -> Callable[..., Any]:
    """A function of the user's script.

    Args:
      path: the script.
      name: the function in it.
      error: what to raise when it is missing or fails to import.
    """
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise error(f"the script {path} does not exist; give FILE.py or FILE.py:{name}")
    spec = importlib.util.spec_from_file_location(f"_planner_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as cause:  # the user's own code, which may call sys.exit
        raise error(f"the script {path} failed: {type(cause).__name__}: {cause}") from cause
    function = getattr(module, name, None)
    if not callable(function):
        raise error(f"the script {path} has no function {name}; define it or give FILE.py:FUNCTION")
    return function  # type: ignore[no-any-return]


def _polygraphy_iterations(root: Any) -> Iterable[Any]:
    if isinstance(root, list):
        return root
    if not isinstance(root, dict):
        raise TypeError(f"it is a {type(root).__name__}")
    if root.get("polygraphy_class") == "RunResults" or "lst" in root:
        runs = root["lst"]
        return [iteration["outputs"] for iteration in runs[-1][1]]
    return [root]


def _polygraphy_batch(item: Any) -> Arrays:
    if not isinstance(item, dict):
        raise TypeError(f"a batch is a {type(item).__name__}")
    return {name: _polygraphy_array(value) for name, value in item.items() if name != "polygraphy_class"}


def _polygraphy_array(value: Any) -> np.ndarray:
    while isinstance(value, dict) and "array" not in value and "values" in value:
        value = value["values"]
    if isinstance(value, dict):
        stored = base64.b64decode(value["array"], validate=True)
        return _as_saved(_read_array(io.BytesIO(stored), len(stored)))
    return np.asarray(value)


def _as_saved(array: np.ndarray) -> np.ndarray:
    """Two bytes without a type are what NumPy's format makes of bfloat16."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array
