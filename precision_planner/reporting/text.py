"""Names as text in reports (`precision_planner._text`), and what reports say in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precision_planner._text import markdown_code, markdown_text, visible, visible_data

__all__ = ["markdown_code", "markdown_text", "nothing_found", "visible", "visible_data"]


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
