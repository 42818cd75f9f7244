"""A plan's precision along the network, and what each kept region buys. Geometry alone; templates draw it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from precision_planner.reporting.numbers import as_float, number
from precision_planner.reporting.ribbon import COLUMNS, bins_of

__all__ = ["Cell", "Kept", "Lane", "Lanes", "kept_regions", "plan_lanes", "precision_word"]

_LANES = ("fp32", "bf16", "fp16+", "fp16", "")
"""From the widest to the lowest; "" is what neither format names: it only moves values."""

LANE_HEIGHT = 38


def precision_word(precision: str, low: str = "fp16") -> str:
    """A precision as people say it: "fp16+" is FP16 whose products sum in FP32, "low" the plan's own."""
    precision = low if precision == "low" else precision
    return {"fp16+": "FP16, FP32 sums", "": "other"}.get(precision, precision.upper())


@dataclass(frozen=True, slots=True)
class Cell:
    """Neighbours of one precision: percent, how much of the place is theirs (0 to 1), the tooltip."""

    left: float
    width: float
    share: float
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One precision's line: its key, its words, how many nodes it has, its top in pixels, its cells."""

    key: str
    word: str
    nodes: int
    top: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Lanes:
    """All that is drawn: the lanes in use, how many nodes, and the picture in a sentence."""

    lanes: tuple[Lane, ...]
    nodes: int
    said: str
    lane_height: int = LANE_HEIGHT

    @property
    def height(self) -> int:
        """Pixels in all, the axis included."""
        return len(self.lanes) * LANE_HEIGHT + 22


def plan_lanes(data: Mapping[str, Any]) -> Lanes | None:
    """Which node computes in what, in the order of the graph; None for a plan without nodes.

    Args:
      data: a plan, as saved in JSON.
    """
    nodes: Sequence[Mapping[str, Any]] = data.get("nodes") or ()
    if not nodes:
        return None
    counts = Counter(str(node["precision"]) for node in nodes)
    bins = list(bins_of(len(nodes), COLUMNS))
    used = [key for key in _LANES if counts[key]] + sorted(set(counts) - set(_LANES))
    lanes = tuple(
        Lane(key, precision_word(key), counts[key], at * LANE_HEIGHT, tuple(_cells(nodes, bins, key)))
        for at, key in enumerate(used)
    )
    told = ", ".join(f"{lane.nodes} in {lane.word}" for lane in lanes)
    return Lanes(lanes, len(nodes), f"Precision of {len(nodes)} nodes in topological order: {told}")


def _cells(nodes: Sequence[Mapping[str, Any]], bins: Iterable[tuple[range, float, float]], key: str) -> Iterable[Cell]:
    for members, left, width in bins:
        here = [nodes[at] for at in members if nodes[at]["precision"] == key]
        if not here:
            continue
        told = next((node for node in here if node.get("reason")), here[0])
        more = f" and {len(here) - 1} more" if len(here) > 1 else ""
        why = f": {told['reason']}" if told.get("reason") else ""
        title = f"{told['node']} ({told['op_type']}){more} in {precision_word(key)}{why}"
        yield Cell(left, width, round(len(here) / len(members), 2), title)


@dataclass(frozen=True, slots=True)
class Kept:
    """A region that stays above the plan's low precision, and what that buys.

    Attributes:
      region: its name.
      nodes: how many.
      precision: what it computes in, in words.
      share: of the error of everything low that is this region's, None where it was not measured.
      how: "measured" or "bounded".
      without: metric -> value of the plan without it; empty where that was not measured.
      cost_us: what it costs by the search's estimate, microseconds; None where there was no search.
      why: the rule, or the first node's reason.
    """

    region: str
    nodes: int
    precision: str
    share: float | None
    how: str
    without: Mapping[str, str]
    cost_us: float | None
    why: str


def kept_regions(data: Mapping[str, Any]) -> list[Kept]:
    """What a plan keeps, what brings most first: by the search where it measured, else by rule.

    Args:
      data: a plan, as saved in JSON.
    """
    low = str(data.get("precision", "fp16"))
    search = data.get("search") or {}
    found = [
        Kept(
            region["region"],
            region["nodes"],
            precision_word(region["precision"], low),
            region.get("share"),
            region.get("how", ""),
            {name: number(value) if not isinstance(value, bool) else "yes" for name, value in region["without"].items()}
            if "without" in region
            else {},
            region.get("cost_us"),
            ", ".join(region.get("rules") or ()) or "the search",
        )
        for region in search.get("regions", ())
        if region["precision"] != "low" and not region.get("dropped")
    ]
    found.sort(key=lambda each: -(as_float(each.share) if each.share is not None else -1.0))
    return found + _by_rule(data)


def _by_rule(data: Mapping[str, Any]) -> list[Kept]:
    """Nodes that a rule or the target keeps, a rule each; a region of the search has its own."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for node in data.get("nodes", ()):
        if node["precision"] not in (data.get("precision"), "") and node.get("reason"):
            if "by the search" in node["reason"]:
                continue
            why = str(node.get("rule") or node["reason"])
            groups.setdefault((why, node["precision"]), []).append(node)
    return [
        Kept(
            members[0]["node"],
            len(members),
            precision_word(precision),
            None,
            "",
            {},
            None,
            why if why == members[0]["reason"] else f"{why}: {_without_rule(members[0])}",
        )
        for (why, precision), members in groups.items()
    ]


def _without_rule(node: Mapping[str, Any]) -> str:
    return str(node["reason"]).replace(f" (rule {node.get('rule')})", "")
