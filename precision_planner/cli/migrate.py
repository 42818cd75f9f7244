"""`planner migrate`: a weakly typed recipe's strongly typed equivalent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.cli.options import target_option

if TYPE_CHECKING:
    from rich.console import Console

    from precision_planner.emitting.migrate import Migration

_MOST = 30


@click.command("migrate", cls=PlannerCommand)
@click.argument("recipe", metavar='"trtexec ..."|SCRIPT')
@click.option("--model", metavar="MODEL", help="The ONNX model, if the recipe does not name it.")
@click.option("--version", "version_", default="8.6", show_default=True, help="The TensorRT that ran the recipe.")
@target_option("What to build for now")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the migration as JSON; - is stdout, alone.")
def command(recipe: str, model: str | None, version_: str, target: str, json_path: str | None) -> int:
    r"""Turn a weakly typed recipe into its strongly typed equivalent.

    The recipe is a trtexec, polygraphy or `yolo export` command line in quotes, a file that holds one, a builder's
    script in Python (Polygraphy, TensorRT's own interface, onnxruntime's TensorRT provider, torch_tensorrt) or C++, or
    a Triton config.pbtxt; it is read and never run. With the model at hand, every constraint that matched nothing
    before is reported, and offered as a comment.
    """
    from precision_planner.cli.console import stdout_console, write_result
    from precision_planner.emitting.migrate import migrate, read_recipe
    from precision_planner.engines.engine_file import to_json
    from precision_planner.errors import TargetError
    from precision_planner.model import Model
    from precision_planner.targets import get_target, targets_of

    chosen = get_target(target)
    if not chosen.strong or not chosen.has_builder:
        others = ", ".join(other.name for other in targets_of(lambda other: other.strong and other.has_builder))
        raise TargetError(f"{target} is no strongly typed TensorRT; migrate to one of {others}")
    read = read_recipe(recipe)
    path = model or read.model
    loaded = Model.load(Path(path)) if model or (path and Path(path).is_file()) else None
    result = migrate(read, loaded, version=version_, target=target, path=path)
    if json_path:
        write_result(to_json(result.to_dict()), json_path)
    if json_path != "-":
        render(stdout_console(), result)
    return 0


def render(console: Console, result: Migration) -> None:
    """The migration in the terminal; the commands can be copied as they stand."""
    from precision_planner.reporting.lines import print_command

    console.print(f"# for {result.target}, instead of the {result.recipe.tool} recipe", soft_wrap=True)
    for command_, why in result.commands:
        console.print(f"# {why}", soft_wrap=True)
        print_command(console, command_)
    for option, reason in result.offered:
        console.print(f"#   {option}   # had no effect before: {reason}", soft_wrap=True, markup=False)
    if result.alternative:
        console.print("\n# or, with a prediction and a folder that builds anywhere:")
        for command_, _ in result.alternative:
            print_command(console, command_)
    if result.outcomes:
        matched = sum(outcome.applied is True for outcome in result.outcomes)
        console.print(
            f"\nconstraints: {len(result.outcomes)}, {matched} had an effect before, {len(result.unmatched)} had none"
        )
        told = [outcome for outcome in result.outcomes if outcome.applied is not True or outcome.reason]
        for outcome in told[:_MOST]:
            word = {False: "NO EFFECT", True: "note", None: "unknown"}[outcome.applied]
            text = outcome.reason or "not checked: the model is not here"
            console.print(f"  {word}: {outcome.constraint.text}: {text}", soft_wrap=True)
        if len(told) > _MOST:
            console.print(f"  ... and {len(told) - _MOST} more (--json lists them)")
    for text in result.recipe.unknown:
        console.print(f"not translated: {text}", soft_wrap=True)
    for text in result.notes:
        console.print(f"note: {text}", soft_wrap=True)
