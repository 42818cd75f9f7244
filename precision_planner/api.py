"""What the commands do, for Python: `pp.inspect`, `pp.build`, `pp.migrate`, `pp.extract`, `pp.census`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import onnx

from precision_planner.analysis import analyze
from precision_planner.analysis.weights import Weights
from precision_planner.emitting import migrate as recipes
from precision_planner.emitting.build_report import BuildReport, judge_build
from precision_planner.emitting.building import run_build
from precision_planner.engines.engine_file import parse_layers_file
from precision_planner.engines.inspection import Inspection, inspect_layers
from precision_planner.model import Model
from precision_planner.model.extract import Extract, extract_around
from precision_planner.model.inputs import load_inputs
from precision_planner.model.sources import InputSource, ModelSource
from precision_planner.numerics.census import census as census_of
from precision_planner.numerics.stats import TensorStats
from precision_planner.targets import DEFAULT_TARGET

__all__ = ["build", "census", "extract", "inspect", "migrate"]

Source = ModelSource


def inspect(
    engine: str | os.PathLike[str], *, profile: str | os.PathLike[str] | None = None, plugins: Sequence[str] = ()
) -> Inspection:
    """Say what precision an engine really has.

    Args:
      engine: an engine, what the engine inspector wrote of one, or a TensorRT-RTX builder's log.
      profile: layer times, as trtexec --exportProfile writes them.
      plugins: libraries of the engine's plugins.

    Raises:
      EngineError: missing, or none of these.
      MissingExtraError: an engine, and no TensorRT here.
    """
    return inspect_layers(parse_layers_file(Path(engine), None if profile is None else Path(profile), plugins))


def build(
    folder: str | os.PathLike[str],
    arguments: Sequence[str] = (),
    *,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> BuildReport:
    """Build the engine of a plan's folder, and say what was asked against what came out.

    Args:
      folder: what `planner plan` or `plan(...).save()` wrote.
      arguments: Polygraphy's, as behind -- on the command line.
      output: the engine; model.engine in the folder by default.
      force: replace another file there.

    Raises:
      PlanError: no plan there.
      MissingExtraError: no TensorRT here.
    """
    run = run_build(Path(folder), arguments, output=None if output is None else Path(output), force=force)
    return judge_build(run, Model.load(run.folder / "model.onnx"))


def migrate(
    recipe: str, model: Source | None = None, *, version: str = "8.6", target: str = DEFAULT_TARGET
) -> recipes.Migration:
    """Turn a weakly typed recipe into its strongly typed equivalent.

    Args:
      recipe: a trtexec or polygraphy command line, a file that holds one, or a Polygraphy network script.
      model: the ONNX model, where the recipe does not name one that is there.
      version: the TensorRT that ran the recipe.
      target: what to build for now.

    Raises:
      PlannerError: a recipe that cannot be read.
    """
    read = recipes.read_recipe(recipe)
    named = read.model if model is None and read.model and Path(read.model).is_file() else model
    loaded = named if named is None or isinstance(named, Model) else Model.load(named)
    return recipes.migrate(read, loaded, version=version, target=target, path=read.model)


def extract(model: Source, around: str | Collection[str], inputs: InputSource = None, *, radius: int = 2) -> Extract:
    """Cut out the nodes around some nodes, as a small model that reproduces a finding, with its inputs.

    Args:
      model: the large model.
      around: names of nodes, or of values they make.
      inputs: of the large model, see `planner help inputs`; None makes valid ones up.
      radius: how many nodes away, up and down.

    Raises:
      SelectorError: a name is neither a node nor a value.
    """
    loaded = model if isinstance(model, Model) else Model.load(model)
    names = [around] if isinstance(around, str) else around
    return extract_around(loaded, names, load_inputs(inputs, loaded), radius=radius)


@overload
def census(source: Source, precision: str = "fp16") -> Weights: ...
@overload
def census(source: np.ndarray | Iterable[np.ndarray], precision: str = "fp16") -> TensorStats: ...
def census(source: Source | np.ndarray | Iterable[np.ndarray], precision: str = "fp16") -> Weights | TensorStats:
    """Count what a 16-bit format does to values: subnormal, underflow, overflow, and the error of the cast.

    Args:
      source: a model (of its weights), or an array (or parts of one).
      precision: "fp16" or "bf16", of a model; of an array both are counted.

    Returns:
      A `TensorStats` of an array; of a model what `analyze(model).weights` is.
    """
    if isinstance(source, (Model, onnx.ModelProto, str, os.PathLike)):
        return analyze(source, precision=precision).weights
    found: TensorStats = census_of(source)
    return found
