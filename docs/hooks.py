"""Pages made from the code: one per package from its docstrings, and the commands from their --help.

They are never written to docs/, so they cannot go stale.
"""

from __future__ import annotations

from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from precision_planner.cli.main import planner

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "precision_planner"

# What the API pages leave out: the command line has its own page, and templates are written out, not imported.
NO_API = {"cli"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"cli.md": commands_page(), **api_pages()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def api_pages() -> dict[str, str]:
    """Return a page for each package of the library, and one for the errors."""
    packages = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py") if path.parent.name not in NO_API)
    return {f"api/{name}.md": f"# {name}\n\n::: precision_planner.{name}\n" for name in [*packages, "errors"]}


def commands_page() -> str:
    """Return the page of all commands: what `planner COMMAND --help` prints."""
    lines = [
        "# The command line",
        "",
        "Results go to stdout, everything else to stderr. Exit codes: 0 done, within tolerance; 1 findings at",
        "`--fail-on`, a difference beyond tolerance, an `--expect` not met; 2 a mistake of yours or a missing extra,",
        "as one line; 3 a bug in the planner, with its traceback.",
        "",
    ]
    with click.Context(planner, info_name="planner") as ctx:
        for name in planner.list_commands(ctx):
            command = planner.get_command(ctx, name)
            assert command is not None
            lines += _command_help(command, ctx, name)
    return "\n".join(lines)


def _command_help(command: click.Command, parent: click.Context, name: str) -> list[str]:
    with click.Context(command, parent=parent, info_name=name, terminal_width=100, max_content_width=100) as ctx:
        lines = [f"## {ctx.command_path}", "", "```text", command.get_help(ctx), "```", ""]
        if isinstance(command, click.Group):
            for child_name in command.list_commands(ctx):
                child = command.get_command(ctx, child_name)
                assert child is not None
                lines += _command_help(child, ctx, child_name)
        return lines
