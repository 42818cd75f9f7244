"""Write a plan folder: everything a device needs to build and check the engine, without this package."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from precision_planner import writing
from precision_planner._text import markdown_code, markdown_text, visible
from precision_planner.emitting.trtexec import trtexec_command
from precision_planner.errors import OutputError
from precision_planner.judging import PLAN_FILES
from precision_planner.model import Model
from precision_planner.model.arrays import write_npz
from precision_planner.plans.plan import PrecisionPlan
from precision_planner.targets import get_target
from precision_planner.writing import FolderWriter, identity, made_files

MAIN = "plan.json"
"""The file that makes a folder a plan's; while it is missing, the folder is none."""

_SCRIPTS = {
    False: ("run.py", "verify.py"),
    True: ("build.py", "diagnose.py", "engine_types.py", "verify.py"),
}
"""Whether the target has a builder -> the scripts of its folder."""
_RUN = ("build.py", "run.py", "verify.py")


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """Inputs and the FP32 model's answer to them.

    Attributes:
      name: 'smallest', 'usual', 'longest', or 'batch-0' ...
      inputs: by input name.
      outputs: by output name, as onnxruntime computes them in FP32.
    """

    name: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def emit_folder(
    folder: Path,
    plan: PrecisionPlan,
    model: Model,
    golden: Sequence[GoldenCase] = (),
    *,
    scripts: Mapping[str, Path] | None = None,
    force: bool = False,
) -> list[Path]:
    """Write the folder of a plan, whole or not at all.

    Args:
      folder: created; of an existing one the planner's own files are replaced with `force`, and nothing else in it.
      plan: the decision.
      model: what is built: typed for a strong target, FP32 with fusions for a weak one.
      golden: what verify.py compares the engine with.
      scripts: the user's own metrics, name in the folder -> file.
      force: replace an existing plan folder.

    Returns:
      The files written.

    Raises:
      OutputError: the folder exists, or cannot be written.
    """
    ours = [folder / name for name in made_files(folder)]
    if any(identity(file) == identity(mine) is not None for file in model.files for mine in ours):
        raise OutputError(f"the model lies inside {folder}, which the plan would replace; give another -o")
    with FolderWriter(folder, MAIN, force=force) as staging:
        _fill(staging, plan, model, golden, scripts or {})
    return sorted(folder / name for name in made_files(folder))


def check_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder that would lose something: OutputError in one line."""
    writing.check_folder(folder, MAIN, force=force)


def _fill(
    folder: Path, plan: PrecisionPlan, model: Model, golden: Sequence[GoldenCase], scripts: Mapping[str, Path]
) -> None:
    model.save(folder / "model.onnx")
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    for name in _SCRIPTS[get_target(plan.target).has_builder]:
        source = resources.files("precision_planner.emitting").joinpath("templates", name)
        (folder / name).write_text(source.read_text("utf-8"), encoding="utf-8")
        if name in _RUN:
            (folder / name).chmod(0o755)
    (folder / "judging").mkdir()
    for name in PLAN_FILES:
        text = resources.files("precision_planner.judging").joinpath(name).read_text("utf-8")
        (folder / "judging" / name).write_text(text, encoding="utf-8")
    for name, source in scripts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / name)
    if golden:
        (folder / "golden").mkdir()
    for case in golden:
        for kind, arrays in (("inputs", case.inputs), ("outputs", case.outputs)):
            with (folder / "golden" / f"{case.name}.{kind}.npz").open("wb") as file:
                write_npz(file, arrays)
    (folder / "README.md").write_text(folder_readme(plan), encoding="utf-8")


def folder_readme(plan: PrecisionPlan) -> str:
    """What was decided and how to run it, as Markdown."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files("precision_planner.emitting").joinpath("templates", "README.md.jinja").read_text("utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters["number"] = _number
    environment.filters["visible"] = visible
    environment.filters["code"] = lambda name: markdown_code(visible(str(name)), in_table=True)
    environment.filters["text"] = lambda words: markdown_text(visible(str(words)))
    target = get_target(plan.target)
    command, notes = trtexec_command(plan) if target.has_builder else ("", ())
    values = {"plan": plan, "counts": plan.counts, "command": command, "notes": notes, "target": target}
    return environment.from_string(text).render(values) + "\n"


def _number(value: object) -> str:
    """Six digits are plenty for people; a dash where there is none."""
    return "-" if value is None else f"{value:.6g}" if isinstance(value, (int, float)) else str(value)
