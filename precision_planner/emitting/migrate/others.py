"""Half precision as other tools ask for it: `yolo export half=True`, and Triton's `precision_mode`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from precision_planner.emitting.migrate.recipe import Recipe
from precision_planner.errors import EngineError

_TRUE = ("true", "1", "yes")
_DROPPED = frozenset({"format", "half", "int8", "workspace", "device", "data", "fraction"})
"""Arguments of `yolo export` that are about the engine, not about the graph."""


def read_yolo(words: Sequence[str]) -> Recipe:
    """`yolo export model=yolo11n.pt format=engine half=True ...`.

    The graph is exported to ONNX in FP32; the precision is decided afterwards, where it can be checked.

    Args:
      words: behind `yolo`.

    Raises:
      EngineError: it exports nothing.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if "export" not in words and given.get("mode") != "export":
        raise EngineError("of yolo's commands only export makes an engine; write yolo export model=... format=engine")
    model = given.get("model", "yolo11n.pt")
    low = {name for name, key in (("fp16", "half"), ("int8", "int8")) if given.get(key, "").lower() in _TRUE}
    exported = str(PurePath(model).with_suffix(".onnx"))
    kept = [f"{key}={value}" for key, value in given.items() if key not in _DROPPED]
    command = shlex.join(["yolo", "export", *(kept or [f"model={model}"]), "format=onnx"])
    settings: dict[str, Any] = {"before": [(command, "the graph in FP32; half=True here would round it unchecked")]}
    workspace = given.get("workspace", "")
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", workspace):
        settings["workspace_bytes"] = int(float(workspace) * 2**30)
    engine = str(PurePath(model).with_suffix(".engine"))
    return Recipe("yolo", shlex.join(("yolo", *words)), exported, engine, frozenset(low), settings=settings)


def read_triton(text: str, name: str) -> Recipe:
    """A Triton configuration that has onnxruntime build with TensorRT in a low precision.

    Raises:
      EngineError: it asks for none.
    """
    found = dict(re.findall(r'key:\s*"(\w+)"\s*,?\s*value:\s*(?:\{\s*string_value:\s*)?"([^"]*)"', text))
    mode = found.get("precision_mode") or ("FP16" if found.get("trt_fp16_enable", "").lower() in _TRUE else "")
    if not mode:
        raise EngineError(f"{name} asks for no precision (precision_mode, trt_fp16_enable); nothing to migrate")
    low = frozenset({mode.lower()} & {"fp16", "bf16", "int8"})
    settings: dict[str, Any] = {}
    if re.fullmatch(r"[0-9]{1,18}", found.get("max_workspace_size_bytes", "")):
        settings["workspace_bytes"] = int(found["max_workspace_size_bytes"])
    folder = PurePath(name).parent
    notes = (
        "the typed model takes the place of the FP32 one in the repository, and precision_mode goes from config.pbtxt "
        "(types in the graph hold); or serve the engine: planner triton repo",
    )
    return Recipe("triton", name, str(folder / "1" / "model.onnx"), low=low, settings=settings, notes=notes)
