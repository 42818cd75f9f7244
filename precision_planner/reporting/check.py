"""Whether a saved report is whole: people edit them, and other programs write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precision_planner.reporting.html import kind_of
from precision_planner.reporting.schemas import published_schema


def check_report(data: Mapping[str, Any]) -> str:
    """The kind of a saved report, see `kind_of`.

    Raises:
      ValueError: it is none of these, or not whole; the message says where.
    """
    import jsonschema

    kind = kind_of(data)
    version = data.get("schema_version", 1)
    if version != 1:
        raise ValueError(f"of schema version {version}, this planner reads 1")
    schema = schema_of(kind)
    # a plan's schema allows no further keys, a report of one may have the difference that it predicts
    known = {key: value for key, value in data.items() if key in schema["properties"]} if kind == "plan" else data
    error = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(known)), None)
    if error is not None:
        place = "/".join(map(str, error.absolute_path)) or "the top"
        raise ValueError(f"a broken {kind}: at {place}, {error.message[:200]}")
    return kind


def schema_of(kind: str) -> dict[str, Any]:
    """The published JSON schema of a kind of report."""
    return published_schema(kind)
