"""The published JSON schemas of what can be saved and rendered again."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def published_schema(kind: str) -> dict[str, Any]:
    """The schema of a kind: "plan", "diff", ..."""
    text = resources.files("precision_planner.reporting").joinpath(f"{kind}.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
