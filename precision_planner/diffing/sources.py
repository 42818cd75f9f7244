"""What can be compared: a model, a plan's folder, saved outputs, an engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from precision_planner._reading import parse_json
from precision_planner.errors import InputsError, ModelError, PlanError
from precision_planner.model import Model, NodeId
from precision_planner.model.arrays import npz_files, read_npz, read_polygraphy
from precision_planner.model.sources import Arrays as GivenArrays
from precision_planner.model.sources import ModelSource
from precision_planner.plans.plan import check_plan

ENGINE_SUFFIXES = frozenset({".engine", ".plan", ".trt"})

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Side:
    """One of the two things compared; exactly one of model, outputs and engine is set.

    Attributes:
      label: what to call it.
      model: a model to run.
      outputs: saved outputs, one dict a batch.
      engine: a TensorRT engine's file.
      names: old node name -> new, where a plan or a rewrite recorded them.
      entries: node name -> why it has its precision, where a plan says so.
      plan: the plan itself, as its JSON has it; empty for anything else.
    """

    label: str
    model: Model | None = None
    outputs: Callable[[], Iterator[Arrays]] | None = None
    engine: Path | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_weak_plan(self) -> bool:
        """Whether the types of what is built stand in the plan rather than in its graph."""
        return self.plan.get("typing") == "weak"

    def kept(self, precision: str) -> tuple[NodeId, ...]:
        """The nodes that a plan builds in a precision, those that only accumulate in FP32 left out."""
        return tuple(
            NodeId(tuple(entry.get("scope", ())), entry["output"])
            for entry in self.plan.get("nodes", ())
            if entry.get("precision") == precision and entry.get("keep_as") != "compute" and entry.get("output")
        )

    @property
    def kind(self) -> str:
        """'model', 'outputs' or 'engine'."""
        return "model" if self.model is not None else "outputs" if self.outputs is not None else "engine"


Comparable: TypeAlias = Side | ModelSource | GivenArrays | Sequence[GivenArrays]
"""A side of a comparison: a model, a plan's folder, saved outputs, an engine."""


def open_side(source: Any) -> Side:
    """Recognise what is given.

    Args:
      source: a model (path, ModelProto, `Model`), a plan's folder, saved outputs (.npz, a folder of them, Polygraphy's
        JSON, a dict of arrays or a list of such dicts), or an engine (.engine, .plan, .trt).

    Raises:
      ModelError, InputsError, PlanError: missing, or none of these.
    """
    if isinstance(source, Side):
        return source
    if isinstance(source, Model):
        return Side(str(source.path or "model"), model=source)
    if isinstance(source, onnx.ModelProto):
        return Side(source.graph.name or "model", model=Model.load(source))
    if isinstance(source, Mapping):
        batch = {str(name): np.asarray(value) for name, value in source.items()}
        return Side("given outputs", outputs=lambda: iter([batch]))
    if isinstance(source, (list, tuple)):
        batches = [dict(item) for item in source]
        return Side("given outputs", outputs=lambda: iter(batches))
    path = Path(os.fspath(source))
    if path.is_dir():
        return _plan_side(path) if (path / "plan.json").is_file() else _folder_side(path)
    if path.suffix in ENGINE_SUFFIXES and path.is_file():
        return Side(str(path), engine=path)
    if path.suffix == ".npz":
        read = read_npz(path)
        return Side(str(path), outputs=lambda: iter([read]))
    if path.suffix == ".json":
        stored = read_polygraphy(path)
        return Side(str(path), outputs=lambda: iter(stored))
    return Side(str(path), model=Model.load(path))


def _folder_side(path: Path) -> Side:
    try:
        files = npz_files(path)
    except InputsError:
        raise ModelError(
            f"the folder {path} has neither a plan.json nor .npz files; give a model, a plan or saved outputs"
        ) from None
    return Side(str(path), outputs=lambda: (read_npz(file) for file in files))


def _plan_side(folder: Path) -> Side:
    file = folder / "plan.json"
    try:
        plan = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"{file} cannot be read ({error}); run planner plan again") from None
    if not isinstance(plan, dict):
        raise PlanError(f"{file} is no plan; run planner plan again")
    models = sorted(folder.glob("*.onnx"))
    models = [path for path in models if path.name == "model.onnx"] or models
    if not models:
        raise PlanError(f"the plan {folder} holds no .onnx model; run planner plan again")
    try:
        check_plan(plan)
    except PlanError as error:
        raise PlanError(f"{file}: {error}") from None
    entries = {str(entry["node"]): entry for entry in plan["nodes"]}
    return Side(str(folder), model=Model.load(models[0]), entries=entries, plan=plan)
