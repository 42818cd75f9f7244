"""Run a plan folder's build with the TensorRT that is installed, and gather what it says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precision_planner._extras import install_line
from precision_planner.engines.engine_file import has_gpu, installed_tensorrt
from precision_planner.errors import EngineError, MissingExtraError, PlanError, TargetError
from precision_planner.plans.plan import PrecisionPlan
from precision_planner.targets import facts_for_scripts, get_target, newest
from precision_planner.writing import atomic_files, check_output, finish_interrupted, record, scratch_folder

ENGINE = "model.engine"
"""The engine's name in a plan's folder."""

DEFAULT_CAPABILITY = "SM89"
"""What TensorRT-RTX builds for where there is no GPU."""

# Options of Polygraphy's command line that it would ignore beside a config script, and what they mean in a plan.
_SETTINGS: Mapping[str, str] = {
    "--builder-optimization-level": "optimization_level",
    "--version-compatible": "version_compatible",
    "--hardware-compatibility-level": "hardware_compatible",
    "--tf32": "tf32",
}
_FLAGS = frozenset({"--version-compatible", "--tf32"})
_PRECISION_FLAGS = frozenset(
    {"--fp16", "--bf16", "--fp8", "--int8", "--best", "--precision-constraints", "--strongly-typed"}
)
_SHAPES = {"--trt-min-shapes": "min", "--trt-opt-shapes": "opt", "--trt-max-shapes": "max"}


@dataclass(frozen=True, slots=True)
class BuildRun:
    """One run of a plan folder's build.

    Attributes:
      plan: the plan.
      folder: where it lies.
      engine: the engine file, None when the build failed.
      returncode: the build's exit status.
      log: its output, line by line.
      network: what build.py reports of the parsed network and its constraints; empty when it came to none.
      module: 'tensorrt' or 'tensorrt_rtx'.
      note: what the user should know of how it was built.
    """

    plan: PrecisionPlan
    folder: Path
    engine: Path | None
    returncode: int
    log: tuple[str, ...]
    network: Mapping[str, Any]
    module: str
    note: str = ""

    @property
    def reason(self) -> str:
        """Why the build failed: its last words that are an error; '' for a success."""
        if self.returncode == 0:
            return ""
        lines = [line.strip() for line in self.log if line.strip() and not line.startswith(" ")]
        told = [line for line in lines if "build.py:" in line or "[E]" in line or "[!]" in line or "Error" in line]
        return (told or lines or ["no output"])[-1]


def read_plan(folder: Path) -> PrecisionPlan:
    """The plan of a folder; PlanError in one line for what is no plan folder."""
    path = folder / "plan.json"
    finish_interrupted(folder, path.name)
    if not path.is_file():
        raise PlanError(f"{folder} has no plan.json; give a folder that planner plan wrote")
    missing = [name for name in ("build.py", "model.onnx") if not (folder / name).is_file()]
    plan = PrecisionPlan.from_json(path.read_text("utf-8"))
    if not get_target(plan.target).has_builder:
        raise TargetError(f"{folder} is a plan for {plan.target}, which builds no engine; run {folder / 'run.py'}")
    if missing:
        raise PlanError(f"{folder} lacks {' and '.join(missing)}; run planner plan again")
    return plan


def choose_tensorrt(plan: PrecisionPlan) -> tuple[str, str]:
    """(module, note): which TensorRT builds the plan here.

    Raises:
      MissingExtraError: none is installed.
      TargetError: the one that is cannot build such a plan.
    """
    words, wanted = get_target(plan.target).words, get_target(plan.target).runtime
    here = installed_tensorrt()
    if wanted in here:
        return wanted, ""
    if plan.typing == "strong" and here:
        return here[0], (
            f"this plan is for {plan.target}, and {wanted} is not installed: built with {here[0]}, which proves the "
            "types; build it again where it will run"
        )
    only = " (TensorRT-RTX, which is installed, builds no weakly typed plan)" if here else ""
    package = f'pip install "{words.package}"' if words.package else f"{install_line(words.extra)} in the checkout"
    raise MissingExtraError(
        f"building a plan for {plan.target} needs {wanted}, which is not installed{only}; run: {package}, or copy the "
        "folder to the device and run its build.py",
        package=wanted,
        extra=words.extra,
    )


def run_build(
    folder: Path,
    arguments: Sequence[str] = (),
    *,
    output: Path | None = None,
    capabilities: str | None = None,
    force: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
) -> BuildRun:
    """Build a plan folder's engine in a process of its own (TensorRT keeps the first logger of a process).

    Args:
      folder: the plan folder.
      arguments: for Polygraphy, as on its command line; builder settings among them are applied to the plan.
      output: where the engine goes; model.engine in the folder by default.
      capabilities: the GPUs TensorRT-RTX builds for, such as "SM89,SM120".
      force: replace an engine file that the planner did not put there.
      on_line: called with every line of the log as it comes.

    Raises:
      PlanError, TargetError, MissingExtraError: nothing can be built; see `read_plan` and `choose_tensorrt`.
      EngineError: TensorRT's builder needs a GPU and there is none, or an argument cannot be honored.
    """
    folder = folder.resolve()
    plan = read_plan(folder)
    module, note = choose_tensorrt(plan)
    rtx = newest(lambda target: target.is_rtx)
    if module == "tensorrt" and not has_gpu():
        raise EngineError(
            f"TensorRT's builder needs a GPU and this machine has none: copy {folder.name} to the device and run "
            f"python3 build.py there (a plan for {rtx.name} builds without a GPU)"
        )
    rest, overrides, given = apply_arguments(arguments)
    engine = Path(given["output"]) if "output" in given else output or folder / ENGINE
    # the file of that name in a plan's folder is what its own script writes
    kept = frozenset(folder.glob("*")) - {folder / ENGINE}
    check_output(engine, force=force, protect=kept, own=_is_own(folder, engine))
    environment = dict(os.environ)
    if module == rtx.runtime:
        environment["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
        if not get_target(plan.target).is_rtx:
            overrides["target"] = rtx.name
            overrides["target_facts"] = facts_for_scripts(rtx)
        wanted = capabilities or given.get("capabilities") or plan.build.get("compute_capabilities")
        if not wanted and not has_gpu():
            wanted, note = DEFAULT_CAPABILITY, f"{note}; built for {DEFAULT_CAPABILITY}".lstrip("; ")
        if wanted:
            environment["PLAN_COMPUTE_CAPABILITIES"] = wanted if isinstance(wanted, str) else ",".join(wanted)
    if overrides:
        environment["PLAN_OVERRIDES"] = json.dumps(overrides)
    with scratch_folder() as scratch:
        report, fresh = scratch / "network.json", scratch / ENGINE
        environment["PLAN_REPORT"] = str(report)
        returncode, log = _run(_command(folder, rest, fresh), folder, environment, on_line)
        network = json.loads(report.read_text("utf-8")) if report.is_file() else {}
        built = returncode == 0 and fresh.is_file()
        if built:
            with fresh.open("rb") as source, atomic_files(engine) as (target,):
                while block := source.read(1 << 24):
                    target.write(block)
            if _is_own(folder, engine):
                record(folder, ENGINE)
    return BuildRun(plan, folder, engine if built else None, returncode, log, network, module, note)


def _is_own(folder: Path, engine: Path) -> bool:
    return engine.parent.resolve() == folder and engine.name == ENGINE


def apply_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any], dict[str, str]]:
    """Split Polygraphy's arguments: (for its command line, overrides of the plan, output and capabilities).

    Polygraphy ignores settings of the builder beside a config script without a word, so they are applied to the plan
    instead, or refused.

    Raises:
      EngineError: a precision flag (the plan has decided), or a setting that would be ignored.
    """
    rest: list[str] = []
    build: dict[str, Any] = {}
    profiles: dict[str, dict[str, list[int]]] = {}
    given: dict[str, str] = {}
    words = [part for word in arguments for part in _split_equals(word)]
    while words:
        word = words.pop(0)
        if word in _PRECISION_FLAGS:
            raise EngineError(f"{word} would undo the plan, which has decided every precision; plan again instead")
        if word in _SETTINGS:
            value: Any = True if word in _FLAGS else _value(word, words)
            build[_SETTINGS[word]] = parse_level(value) if word == "--builder-optimization-level" else value
        elif word in ("--pool-limit", "--memory-pool-limit"):
            for entry in _values(words):
                pool, _, size = entry.rpartition(":")
                if pool not in ("", "workspace"):
                    raise EngineError(f"{word} {entry}: a plan sets the workspace alone; write workspace:4G")
                build["workspace_bytes"] = parse_bytes(size)
        elif word in _SHAPES:
            for entry in _values(words):
                name, _, shape = entry.rpartition(":")
                profiles.setdefault(name, {})[_SHAPES[word]] = parse_shape(shape)
        elif word in ("-o", "--output"):
            given["output"] = _value(word, words)
        elif word == "--compute-capabilities":
            given["capabilities"] = ",".join(_values(words))
        elif word in ("--load-timing-cache", "--save-timing-cache"):
            build["timing_cache"] = str(Path(_value(word, words)).resolve())
        elif word.startswith("--") and word in _ignored_by_polygraphy():
            raise EngineError(f"Polygraphy ignores {word} beside the plan's config script; set it in plan.json instead")
        else:
            rest.append(word)
    overrides: dict[str, Any] = {}
    if build:
        overrides["build"] = build
    if profiles:
        incomplete = [name for name, shapes in profiles.items() if len(shapes) < 3]
        if incomplete:
            raise EngineError(
                f"give --trt-min-shapes, --trt-opt-shapes and --trt-max-shapes for {', '.join(incomplete)}"
            )
        overrides["profiles"] = profiles
    return rest, overrides, given


def parse_shape(text: str) -> list[int]:
    """`1x128`, `[1,128]` or `1,128` as dimensions."""
    try:
        return [int(part) for part in text.strip("[]() ").replace("x", ",").split(",") if part.strip()]
    except ValueError:
        raise EngineError(f"the shape {text!r} cannot be read; write 1x128 or [1,128]") from None


def parse_bytes(text: str) -> int:
    """`4G`, `512M`, `1e9` or a number of bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    unit = units.get(text[-1:].upper(), 1)
    try:
        return int(float(text[:-1] if unit > 1 else text) * unit)
    except (ValueError, OverflowError):  # no number, or infinity
        raise EngineError(f"the size {text!r} cannot be read; write 4G, 512M or bytes") from None


def parse_level(text: str) -> int:
    """The builder's optimization level, 0 to 5."""
    if text not in tuple("012345"):
        raise EngineError(f"the optimization level {text!r} cannot be read; write 0 to 5")
    return int(text)


def _split_equals(word: str) -> list[str]:
    return list(word.partition("=")[::2]) if word.startswith("--") and "=" in word else [word]


def _value(option: str, words: list[str]) -> str:
    if not words:
        raise EngineError(f"{option} needs a value")
    return words.pop(0)


def _values(words: list[str]) -> list[str]:
    found = []
    while words and not words[0].startswith("-"):
        found.append(words.pop(0))
    return found


def _ignored_by_polygraphy() -> frozenset[str]:
    """The options of Polygraphy's builder configuration, as the installed version has them."""
    import argparse

    try:
        from polygraphy.tools.args import TrtConfigArgs
    except ImportError:
        return frozenset()
    group = TrtConfigArgs()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group.group = parser.add_argument_group("config")
    group.add_parser_args_impl()
    return frozenset(option for action in parser._actions for option in action.option_strings)


def _command(folder: Path, rest: Sequence[str], engine: Path) -> list[str]:
    if not rest:
        return [sys.executable, "-u", "build.py", "-o", str(engine), "--verbose"]
    from precision_planner._extras import require

    require("polygraphy", extra="rtx", purpose="passing arguments to Polygraphy")
    script = "from polygraphy.tools import main; import sys; sys.exit(main())"
    words = ["convert", "build.py", "--model-type", "trt-network-script", "--trt-config-script", "build.py"]
    return [sys.executable, "-u", "-c", script, *words, "--convert-to", "trt", "-o", str(engine), "-vvv", *rest]


def _run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], on_line: Callable[[str], None]
) -> tuple[int, tuple[str, ...]]:
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                on_line(lines[-1])
        except BaseException:
            process.kill()
            raise
    return process.returncode, tuple(lines)
