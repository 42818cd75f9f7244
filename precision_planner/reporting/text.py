"""Names as text in reports (`precision_planner._text`), and what reports say in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precision_planner._text import markdown_code, markdown_text, visible, visible_data

__all__ = ["markdown_code", "markdown_text", "nothing_found", "on_target_lines", "visible", "visible_data"]


def on_target_lines(data: Mapping[str, Any], target: str, *, most: int = 20) -> list[str]:
    """What an analysis or plan says of its target besides precision: a line a refused node, a line a known defect.

    Args:
      data: the analysis or the plan as JSON data.
      target: its target's name.
      most: lines of either; the rest is counted.
    """
    lines = [
        f"{target} refuses {entry['node']} ({entry['op_type']}): {entry['reason']}; {entry['instead']}"
        for entry in data.get("refused", ())
    ]
    lines = _cut(lines, most)
    by_defect: dict[str, list[Mapping[str, Any]]] = {}
    for entry in data.get("known_defects", ()):
        by_defect.setdefault(entry["key"], []).append(entry)
    for entries in by_defect.values():
        first = entries[0]
        more = f" and {len(entries) - 1} more places" if len(entries) > 1 else ""
        lines.append(
            f"known defect near {' -> '.join(first['nodes'])}{more}: {first['title']}; {first['breaker']} "
            f"({first['reference']})"
        )
    return lines


def _cut(lines: list[str], most: int) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more (--json lists them)"]


def nothing_found(data: Mapping[str, Any]) -> str:
    """What to say of an analysis without findings: how many rules were asked, or that none is about the format.

    Args:
      data: an analysis as JSON; one saved by an older version does not say which rules were asked.
    """
    name = str(data.get("precision", "the low precision")).upper()
    asked = data.get("rules_asked")
    if asked is None:
        return "no rule fired"
    return f"none of the {len(asked)} rules about {name} fired" if asked else f"no rule is about {name}"
