"""What a shell offers for a selector: categories, and of the model on the line its op types and node names."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

LISTED = 60
"""Node names offered at once; a shell shows no more anyway."""


def complete_selector(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the last part of a comma-separated selector."""
    from precision_planner.patterns.selecting import categories

    done, comma, part = incomplete.rpartition(",")
    words = [(name, "category") for name in categories()] + _of_model(ctx)
    found = [(name, kind) for name, kind in words if name.startswith(part)][:LISTED]
    return [CompletionItem(f"{done}{comma}{name}", help=kind) for name, kind in found]


def _of_model(ctx: click.Context) -> list[tuple[str, str]]:
    from precision_planner.errors import PlannerError
    from precision_planner.model import GraphIndex, Model, display_name

    # behind an option that still waits for its value, click leaves the arguments unparsed
    given = [ctx.params.get("model"), ctx.params.get("reference"), *ctx.args]
    path = next((text for text in given if isinstance(text, str) and text.endswith(".onnx")), "")
    if not path or not Path(path).is_file():
        return []
    try:
        index = GraphIndex(Model.load(path).proto)
    except PlannerError:
        return []  # the command itself will say what is wrong with it
    nodes = [node for _, _, node in index.nodes()]
    ops = dict.fromkeys((node.op_type, "op type") for node in nodes)
    return [*ops, *((display_name(node), node.op_type) for node in nodes)]


def complete_kind(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a pattern kind or its category."""
    from precision_planner.patterns.selecting import fusion_words

    return [CompletionItem(name) for name in fusion_words() if name.startswith(incomplete)]
