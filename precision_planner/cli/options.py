"""Options that several commands share: what becomes of the graph, and where inputs come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from precision_planner.cli.completion import complete_kind, complete_selector
from precision_planner.targets import DEFAULT_TARGET, TARGETS, get_target

Command = TypeVar("Command", bound=Callable[..., Any])


def selector_option(name: str, text: str) -> Callable[[Command], Command]:
    """An option that takes selectors, and that a shell completes."""
    return click.option(name, multiple=True, metavar="SEL", shell_complete=complete_selector, help=text)


_GRAPH_OPTIONS = (
    click.option(
        "--fuse",
        "fuse",
        multiple=True,
        metavar="KIND",
        shell_complete=complete_kind,
        help="Fuse this pattern too (layernorm is fused anyway).",
    ),
    click.option("--no-fuse", is_flag=True, help="Fuse nothing."),
    selector_option("--keep-fp32", "Nodes that stay in FP32."),
    selector_option("--keep-bf16", "Nodes that compute in BF16."),
    selector_option("--keep-sum32", "Products in FP16 that sum in FP32."),
    selector_option("--only-low", "The only nodes that go low."),
    click.option(
        "--keep-as",
        type=click.Choice(["compute", "island"]),
        help="Kept normalizations: statistics in FP32 (compute), or inputs, weights and outputs too (island).",
    ),
    click.option(
        "--io-types",
        default="keep",
        show_default=True,
        metavar="keep|low|low=GLOB,..",
        help="Which floats of the interface become low.",
    ),
    click.option("--int32-inputs", is_flag=True, help="Make int64 inputs INT32."),
    click.option(
        "--weights",
        type=click.Choice(["auto", "saturate", "ieee"]),
        default="auto",
        show_default=True,
        help="What becomes of weights that the type cannot hold.",
    ),
    click.option(
        "--layernorm",
        default="onnx",
        show_default=True,
        metavar="onnx|plugin:NAME",
        help="Write LayerNormalization nodes as the ONNX operator or as a TensorRT plugin.",
    ),
    click.option(
        "--plugins",
        multiple=True,
        metavar="OP=IN,..->OUT,..",
        help="Types of a plugin or custom operator: low, fp16, bf16, fp32 or - for each slot.",
    ),
    click.option("--surgery", metavar="FILE.py[:FN]", help="Run a graphsurgeon script first."),
    click.option("--inputs", metavar="SRC", help=".npz, a folder of them, Polygraphy JSON, or FILE.py[:load_data]."),
)


if TYPE_CHECKING:
    _TextType = click.ParamType[str]
else:  # before click 8.4 it takes no parameter
    _TextType = click.ParamType


class TargetName(_TextType):
    """The name of a build target; completion offers every one, with what it is."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name; TargetError with the nearest ones for what is none."""
        return get_target(str(value)).name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so."""
        found = (target for target in TARGETS.values() if target.name.startswith(incomplete))
        return [CompletionItem(target.name, help=target.described) for target in found]


def target_option(what: str) -> Callable[[Command], Command]:
    """--target, said the same way everywhere."""
    return click.option(
        "--target",
        type=TargetName(),
        metavar="TARGET",
        default=DEFAULT_TARGET,
        show_default=True,
        help=f"{what}: {', '.join(TARGETS)}.",
    )


def optional_target(command: Command) -> Command:
    """--target where there need be none."""
    words = f"Only what this build takes, judged by its arithmetic: {', '.join(TARGETS)}."
    return click.option("--target", type=TargetName(), metavar="TARGET", help=words)(command)


def verdict_options(command: Command) -> Command:
    """The options of commands whose last line is a verdict."""
    for option in (
        click.option("--fail-on-made-up", is_flag=True, help="Exit 1 for nonsense on made-up inputs, too."),
        click.option("--no-verify", is_flag=True, help="Neither check nor judge the result: NOT JUDGED."),
    ):
        command = option(command)
    return command


def graph_options(command: Command) -> Command:
    """The options of `planner rewrite` that say what becomes of the graph; `planner plan` takes them too."""
    for option in reversed(_GRAPH_OPTIONS):
        command = option(command)
    return command


def fusion_kinds(options: dict[str, Any]) -> tuple[str, ...]:
    """Take --fuse and --no-fuse out of the options: the pattern kinds to fuse, layernorm by default."""
    no_fuse, fuse = options.pop("no_fuse"), options.pop("fuse")
    if no_fuse and fuse:
        raise click.UsageError("--fuse and --no-fuse exclude each other")
    return () if no_fuse else tuple(dict.fromkeys(("layernorm", *fuse)))
