"""Any JSON of the planner's, readable: what has no page of its own (rewrite, build, inspect, migrate, rules, fp16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from precision_planner.reporting.text import visible_data

if TYPE_CHECKING:
    from rich.console import Console

MOST_ROWS = 20
"""Rows of a table in the terminal."""

_HEAD = ("schema_version", "kind")


def sections(data: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """What a report says, part by part, in its own order: (title, form, content).

    Forms: "value" (a text), "table" (columns and rows of texts), "list" (texts); a mapping becomes a table of names and
    values. Empty parts are left out.
    """
    parts: list[tuple[str, str, Any]] = []
    for name, value in data.items():
        if name in _HEAD or value is None or value in ([], {}, ""):
            continue
        title = name.replace("_", " ")
        if isinstance(value, Mapping):
            parts.append((title, "table", (["name", "value"], [[key, _text(item)] for key, item in value.items()])))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            rows = [item for item in value if isinstance(item, Mapping)]
            if len(rows) == len(value):
                columns = list(dict.fromkeys(key for row in rows for key in row))
                parts.append((title, "table", (columns, [[_text(row.get(key)) for key in columns] for row in rows])))
            else:
                parts.append((title, "list", [_text(item) for item in value]))
        else:
            parts.append((title, "value", _text(value)))
    return parts


def _text(value: Any) -> str:
    """A value in one line: nested ones as `name value` and lists by commas."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(item) for item in value)
    return str(value)


def render_generic(data: Mapping[str, Any], console: Console) -> None:
    """Print a report part by part; long tables are cut, and say so."""
    from rich.table import Table

    for title, form, content in sections(visible_data(data)):
        if form == "value":
            console.print(f"{title}: {content}", soft_wrap=True)
            continue
        console.print(f"{title}:")
        if form == "list":
            for line in content:
                console.print(f"  {line}", soft_wrap=True)
            continue
        columns, rows = content
        table = Table(box=None, pad_edge=False, padding=(0, 1))
        for column in columns:
            table.add_column(column.replace("_", " "), overflow="fold")
        for row in rows[:MOST_ROWS]:
            table.add_row(*row)
        console.print(table)
        if len(rows) > MOST_ROWS:
            console.print(f"  ... and {len(rows) - MOST_ROWS} more (--html shows all)", style="dim")
