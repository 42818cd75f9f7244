"""An analysis's weights by what they are read as: embeddings, matrices, gammas, epsilons, masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from precision_planner.reporting.numbers import as_float

__all__ = ["WeightClass", "weight_classes"]

VERDICTS = ("overflow", "lost", "degraded", "not finite", "noise", "clean")
"""What a cast does to a tensor, the worst first."""


@dataclass(frozen=True, slots=True)
class WeightClass:
    """All tensors of one role.

    Attributes:
      role: what they are read as.
      tensors: how many.
      size: values in all.
      verdicts: what the cast does to them, the worst first -> how many.
      worst: the tensor that the cast hurts most.
      rel_error: its relative error.
      exponents: exponent of two -> values, over all of them.
    """

    role: str
    tensors: int
    size: int
    verdicts: Mapping[str, int]
    worst: str
    rel_error: float
    exponents: Mapping[int, int]


def weight_classes(data: Mapping[str, Any]) -> list[WeightClass]:
    """The weights of an analysis by role: the worst class first, then the largest.

    Args:
      data: an analysis, as saved in JSON.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for tensor in data["weights"].get("tensors", ()):
        groups.setdefault(str(tensor.get("role", "weight")), []).append(tensor)
    found = [_class(role, members) for role, members in groups.items()]
    return sorted(found, key=lambda each: (VERDICTS.index(next(iter(each.verdicts))), -each.size))


def _class(role: str, members: list[Mapping[str, Any]]) -> WeightClass:
    counts = Counter(str(tensor.get("verdict", "clean")) for tensor in members)
    worst = max(members, key=lambda tensor: (-VERDICTS.index(tensor.get("verdict", "clean")), _error(tensor)))
    exponents: Counter[int] = Counter()
    for tensor in members:
        exponents.update({int(power): count for power, count in tensor.get("exponents", {}).items()})
    return WeightClass(
        role,
        len(members),
        sum(tensor["size"] for tensor in members),
        {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]},
        worst["name"],
        _error(worst),
        exponents,
    )


def _error(tensor: Mapping[str, Any]) -> float:
    found = as_float(tensor.get("rel_error"))
    return found if found == found else 0.0
