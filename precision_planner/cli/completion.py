"""What a shell offers for a selector: categories, and of the model on the line its op types and node names."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from precision_planner.errors import PlannerError

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


SHELLS = {
    "bash": (".local/share/bash-completion/completions/planner", "open a new shell (bash-completion loads it)"),
    "zsh": (
        ".zfunc/_planner",
        "put `fpath+=~/.zfunc; autoload -Uz compinit; compinit` into ~/.zshrc",
    ),
    "fish": (".config/fish/completions/planner.fish", "open a new shell"),
}
"""Shell -> where its completions lie below the home folder, and what is left to do."""


def install_completion(program: click.Command, shell: str = "") -> str:
    """Write the completion script of a shell; what was written, and what is left to do.

    Args:
      program: whose command line is completed.
      shell: a key of `SHELLS`; '' takes the one of $SHELL.

    Raises:
      PlannerError: another shell, or the script cannot be made or written.
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise PlannerError(f"completion for {name or 'this shell'} is not known; give one of {', '.join(SHELLS)}")
    kind = get_completion_class(name)
    assert kind is not None
    place, left = SHELLS[name]
    path = Path.home() / place
    try:
        script = kind(program, {}, "planner", "_PLANNER_COMPLETE").source()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, encoding="utf-8")
    except (OSError, RuntimeError) as error:
        raise PlannerError(f"cannot write {path}: {error}; check the shell and the folder") from None
    return f"wrote {path}; {left}"
