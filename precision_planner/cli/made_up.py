"""Options that say where inputs come from, or what made-up ones are: the same in every command that takes a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from precision_planner.model.inputs import InputRequest

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Split batches of --inputs by rows."),
    click.option("--input-shapes", metavar="NAME:1x3x48x320,..", help="Shapes of made-up inputs."),
    click.option("--seed", type=click.IntRange(0), metavar="N", help="Other made-up values of the same kind."),
    click.option("--val-range", multiple=True, metavar="[NAME:]LO:HI", help="Range of made-up values."),
    click.option("--save-inputs", metavar="FILE", help="Save the inputs as .npz (one batch) or Polygraphy .json."),
)
_PROFILES = {"min_shapes": "smallest", "opt_shapes": "usual", "max_shapes": "longest"}
_NAMES = ("batch_size", "input_shapes", "seed", "val_range", "save_inputs")


def inputs_options(command: Command) -> Command:
    """Add the options, and hand the command what they make of `inputs`: what `load_inputs` takes, or None."""

    @functools.wraps(command)
    def taken(*arguments: Any, **values: Any) -> Any:
        own = {name: values.pop(name) for name in _NAMES}
        profiles = {label: values[name] for name, label in _PROFILES.items() if values.get(name)}
        if any(value is not None and value != () for value in own.values()) or profiles:
            model = str(values.get("model") or values.get("reference") or values.get("source"))
            values["inputs"] = _request(values.get("inputs"), own, profiles)
            if own["save_inputs"]:
                save_inputs(values["inputs"], model, Path(own["save_inputs"]))
        return command(*arguments, **values)

    wrapped: Any = taken
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _request(source: Any, own: Mapping[str, Any], profiles: Mapping[str, str]) -> InputRequest:
    from precision_planner.model.inputs import InputRequest

    if source in ("synthesized", "synthesised"):
        source = None
    made_up = [name for name in ("input_shapes", "seed", "val_range") if own[name] not in (None, ())]
    if source is not None and made_up:
        flag = "--" + made_up[0].replace("_", "-")
        raise click.UsageError(f"{flag} is about made-up inputs, and --inputs gives real ones; leave one out")
    if source is None and own["batch_size"]:
        raise click.UsageError("--batch-size splits what --inputs gives; for made-up inputs use --input-shapes")
    flags = {"smallest": "--minShapes", "usual": "--optShapes", "longest": "--maxShapes"}
    shapes = {label: parse_shapes(text, flags[label]) or {} for label, text in profiles.items()}
    if own["input_shapes"]:
        shapes[""] = parse_shapes(own["input_shapes"], "--input-shapes") or {}
    return InputRequest(source, own["batch_size"], shapes, own["seed"] or 0, parse_ranges(own["val_range"]))


def parse_shapes(text: str | None, flag: str) -> dict[str, tuple[int, ...]] | None:
    """Read trtexec's ``name:1x128,other:1x3x224x224``; a name may itself hold a colon."""
    if not text:
        return None
    shapes = {}
    for part in text.split(","):
        name, colon, sizes = part.rpartition(":")
        numbers = sizes.split("x")
        if not colon or not name or not all(number.isascii() and number.isdigit() for number in numbers):
            raise click.BadParameter(f"{flag}: {part!r} is not NAME:AxBxC, such as input_ids:1x128")
        shapes[name] = tuple(int(number) for number in numbers)
    return shapes


def parse_ranges(given: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Read ``LO:HI`` and ``NAME:LO:HI``; a name may itself hold a colon, and Polygraphy's ``NAME:[LO,HI]`` is taken."""
    ranges = {}
    for text in given:
        name, _, bounds = text.rpartition(":[") if text.endswith("]") else ("", "", "")
        parts = bounds.rstrip("]").split(",") if bounds else text.rsplit(":", 2)
        if not bounds:
            name = parts.pop(0) if len(parts) == 3 else ""
        try:
            low, high = (float(part) for part in parts)
        except ValueError:
            raise click.BadParameter(f"--val-range: {text!r} is not [NAME:]LO:HI, such as pixels:0:1") from None
        if not low <= high:
            raise click.BadParameter(f"--val-range: {text!r} begins above its end")
        ranges[name] = (low, high)
    return ranges


def save_inputs(source: Any, model: str, path: Path) -> None:
    """Write the batches that a command will use."""
    from precision_planner.errors import OutputError
    from precision_planner.model import Model
    from precision_planner.model.arrays import write_npz, write_polygraphy
    from precision_planner.model.inputs import load_inputs
    from precision_planner.writing import atomic_files, check_output

    batches = list(load_inputs(source, Model.load(model)))
    check_output(path, force=False)
    if path.suffix != ".json" and len(batches) != 1:
        raise OutputError(f"{len(batches)} batches do not fit one {path.suffix or 'file'}; name a .json file for them")
    with atomic_files(path) as (file,):
        if path.suffix == ".json":
            write_polygraphy(file, batches)
        else:
            write_npz(file, batches[0])
