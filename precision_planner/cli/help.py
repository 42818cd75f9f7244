"""`planner help TOPIC`: what several commands share, on one screen each."""

from __future__ import annotations

import difflib
from importlib import resources

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.errors import PlannerError


def topics() -> dict[str, str]:
    """Topic -> its text, the first line of which says what it is about."""
    folder = resources.files("precision_planner.cli").joinpath("topics")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".txt")), key=lambda file: file.name)
    return {file.name.removesuffix(".txt"): file.read_text("utf-8") for file in files}


@click.command("help", cls=PlannerCommand)
@click.argument("topic", metavar="[TOPIC]", required=False)
def command(topic: str | None) -> None:
    """Explain a TOPIC or a command; without one, list the topics."""
    from precision_planner.cli.main import COMMANDS, planner

    known = topics()
    if topic is None:
        click.echo("planner help TOPIC explains:\n")
        width = max(map(len, known)) + 2
        for name, text in known.items():
            click.echo(f"  {name:{width}}{text.splitlines()[0]}")
        click.echo("\nplanner COMMAND --help (or planner help COMMAND) explains a command.")
        return
    if topic in known:
        click.echo(known[topic].rstrip())
        return
    if topic in COMMANDS:
        with planner.make_context("planner", [topic, "--help"], resilient_parsing=True) as ctx:
            found = planner.get_command(ctx, topic)
            assert found is not None
            with click.Context(found, info_name=topic, parent=ctx) as inner:
                click.echo(found.get_help(inner))
        return
    near = difflib.get_close_matches(topic, [*known, *COMMANDS], n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise PlannerError(f"there is no topic '{topic}': {hint}")
