"""planner.toml: what a repository wants said on every command line.

    [plan]
    target = "tensorrt-10-strong"
    tolerance = ["cosine=0.999"]

    [check]
    fail-on = "warning"

The nearest one from the working folder up to the top of its repository counts; what is said on the command line wins.
Paths in it are relative to its own folder.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from precision_planner.errors import PlannerError

NAME = "planner.toml"
_PATHS = frozenset({"--inputs", "--rules", "--metric", "--surgery", "--plan", "--reference", "--labels"})


def find_defaults(start: Path | None = None) -> Path | None:
    """The nearest planner.toml from a folder up to the top of its repository (the folder with .git), or only there.

    It can name scripts that are run, so one that lies further up, or that another user wrote, is none of ours.
    """
    here = (start or Path.cwd()).absolute()
    above = (here, *here.parents)
    top = next((at for at, folder in enumerate(above) if (folder / ".git").exists()), 0)
    found = next((folder / NAME for folder in above[: top + 1] if (folder / NAME).is_file()), None)
    owners = {0, os.getuid()} if hasattr(os, "getuid") else None
    return found if found is not None and (owners is None or found.stat().st_uid in owners) else None


def read_defaults(path: Path) -> dict[str, Any]:
    """Command -> its table.

    Raises:
      PlannerError: no TOML, or something that is no table at the top.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlannerError(f"{path} cannot be read ({error}); mend it, or move it away") from None
    for name, table in data.items():
        if not isinstance(table, Mapping):
            raise PlannerError(f"{path}: '{name}' is no table; write [plan], [check], ... and the options below")
    return data


def defaults_of(command: click.Command, table: Mapping[str, Any], path: Path, heading: str) -> dict[str, Any]:
    """The defaults of one command as click takes them: by parameter.

    Args:
      command: whose options the keys are, by their long names without the dashes.
      table: of planner.toml.
      path: the file, for messages and relative paths.
      heading: the table's name.

    Raises:
      PlannerError: a key that is no option of the command.
    """
    if isinstance(command, click.Group):
        return {
            name: defaults_of(command.commands[name], inner, path, f"{heading}.{name}")
            for name, inner in table.items()
            if isinstance(inner, Mapping) and name in command.commands
        }
    options = {
        text.removeprefix("--"): param
        for param in command.params
        if isinstance(param, click.Option)
        for text in (*param.opts, *param.secondary_opts)
        if text.startswith("--")
    }
    found: dict[str, Any] = {}
    for key, value in table.items():
        param = options.get(key)
        if param is None or not param.expose_value or not param.name:
            raise PlannerError(f"{path}: [{heading}] has no option '{key}'; it takes {', '.join(sorted(options))}")
        place = _PATHS.intersection(param.opts)
        values = value if isinstance(value, list) else [value]
        values = [_beside(item, path) if place and isinstance(item, str) else item for item in values]
        if param.multiple or param.nargs != 1:
            found[param.name] = values
        else:
            found[param.name] = values[0] if not param.secondary_opts or f"--{key}" in param.opts else not values[0]
    return found


def _beside(text: str, path: Path) -> str:
    """A relative path as seen from the working folder; what is no file there (a script's :function) is tried too."""
    file, colon, function = text.rpartition(":") if ".py:" in text else (text, "", "")
    near = path.parent / file
    return f"{near}{colon}{function}" if not Path(file).is_absolute() and near.exists() else text
