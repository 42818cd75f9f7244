"""Named arrays in the files that people have: npz, folders of npz, Polygraphy's JSON, data loader scripts."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - importing it registers bfloat16 and float8 with numpy
import numpy as np

from precision_planner.errors import InputsError

Arrays = dict[str, np.ndarray]


def read_npz(path: Path) -> Arrays:
    """Read the named arrays of an .npz file.

    Raises:
      InputsError: missing, damaged, or holding pickled objects.
    """
    if not path.is_file():
        raise InputsError(f"inputs {path} do not exist; give an .npz file, a folder of them, a JSON or a .py file")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise InputsError(f"inputs {path} cannot be read as .npz ({error}); save them with numpy.savez") from None


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
        root = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputsError(f"{path} does not exist; give Polygraphy's --save-inputs or --save-outputs file") from None
    except (ValueError, OSError) as error:
        raise InputsError(f"{path} is not a JSON file ({error}); give one that Polygraphy saved") from None
    try:
        batches = [_polygraphy_batch(item) for item in _polygraphy_iterations(root)]
    except (KeyError, TypeError, ValueError, IndexError) as error:
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
        except Exception as error:  # the user's own code: whatever it raises is theirs to mend
            raise InputsError(f"{name} in {path} failed: {type(error).__name__}: {error}") from error

    return batches


def load_function(path: Path, name: str, error: type[Exception]) -> Callable[..., Any]:
    """A function of the user's script.

    Args:
      path: the script.
      name: the function in it.
      error: what to raise when it is missing or fails to import.
    """
    if not path.is_file():
        raise error(f"the script {path} does not exist; give FILE.py or FILE.py:{name}")
    spec = importlib.util.spec_from_file_location(f"_planner_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as cause:  # the user's own code
        raise error(f"the script {path} failed: {type(cause).__name__}: {cause}") from cause
    function = getattr(module, name, None)
    if not callable(function):
        raise error(f"the script {path} has no function {name}; define it or give FILE.py:FUNCTION")
    return function  # type: ignore[no-any-return]


def _polygraphy_iterations(root: Any) -> Iterable[Any]:
    if isinstance(root, list):
        return root
    if not isinstance(root, dict):
        raise TypeError(f"it is {json.dumps(root)[:40]}")
    if root.get("polygraphy_class") == "RunResults" or "lst" in root:
        runs = root["lst"]
        return [iteration["outputs"] for iteration in runs[-1][1]]
    return [root]


def _polygraphy_batch(item: dict[str, Any]) -> Arrays:
    return {name: _polygraphy_array(value) for name, value in item.items() if name != "polygraphy_class"}


def _polygraphy_array(value: Any) -> np.ndarray:
    while isinstance(value, dict) and "array" not in value and "values" in value:
        value = value["values"]
    if isinstance(value, dict):
        stored = np.load(io.BytesIO(base64.b64decode(value["array"], validate=True)), allow_pickle=False)
        return np.asarray(stored)
    return np.asarray(value)
