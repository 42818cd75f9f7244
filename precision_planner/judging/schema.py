"""What the JSON of a difference says of its metrics, made of their records: the schema names no metric by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from precision_planner.judging.metrics import Metric
from precision_planner.judging.ulps import metrics_of

__all__ = ["metrics_schema"]

NUMBER: Mapping[str, Any] = {"$ref": "#/$defs/number"}
NOTHING: Mapping[str, Any] = {"type": "null"}


def metrics_schema(records: Iterable[Metric] | None = None) -> dict[str, Any]:
    """JSON schema of every metric, by name; it refers to a definition `number`, which takes "nan" and "inf" too.

    Args:
      records: None takes those of a diff.
    """
    return {record.name: _schema(record) for record in (metrics_of() if records is None else records)}


def _schema(record: Metric) -> dict[str, Any]:
    value = {"type": "integer", "minimum": 0} if record.count else dict(NUMBER)
    title = f"{record.title}, in {record.unit}" if record.unit else record.title
    # without classes nothing can flip, which the diff says with null
    if record.optional or record.name == "flipped":
        return {"description": title, "anyOf": [value, dict(NOTHING)]}
    return {"description": title, **value}
