"""The network at a glance: where each value lies between the floor and the ceiling of a 16-bit format.

Geometry alone: `templates/ribbon.svg.j2` draws it. Places along the network are percentages, so that text and strokes
keep their size however narrow the page is; heights are pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from precision_planner.reporting.numbers import number

__all__ = ["Column", "Line", "Pin", "Ribbon", "analysis_ribbon", "bins_of"]

COLUMNS = 240
"""Columns at most; values of a longer network share them, and a column says the worst of its own."""

PINS_HEIGHT, PLOT_HEIGHT, AXIS_HEIGHT = 38, 220, 22
NEAR = 4.0
"""Closer to the ceiling than by this factor is near, as the rules' headroom has it unless another was asked for."""

_MARGIN_BINADES = 3
"""Binades drawn beyond the outermost limit, for values that pass it by little."""

_MOST_BINADES = 8
"""Binades drawn beyond the ceiling at most: what lies higher stands at the edge, and its tooltip has the number."""


@dataclass(frozen=True, slots=True)
class Column:
    """One place along the network.

    Attributes:
      left: where it begins, percent of the width.
      width: percent.
      top: pixel of the largest magnitude.
      bottom: pixel of the smallest one above zero.
      kind: "over" (passes the ceiling), "near", "tiny" (wholly below the normal range), "fine" or "unknown".
      title: what the tooltip says.
    """

    left: float
    width: float
    top: float
    bottom: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """A limit of the format: pixel, label, and whether it is a ceiling, the end of the normal range, or the floor."""

    y: float
    label: str
    kind: str


@dataclass(frozen=True, slots=True)
class Pin:
    """Findings at one place: percent, the gravest severity, the tooltip, the row it leads to, and a shown label."""

    x: float
    severity: str
    title: str
    target: str
    label: str


@dataclass(frozen=True, slots=True)
class Ribbon:
    """All that is drawn.

    Attributes:
      columns: in topological order.
      lines: the limits, ceiling first.
      pins: errors and warnings where they stand.
      name: of the format, "FP16".
      values: how many values there are.
      measured: of how many a range is known.
      said: the picture in a sentence, for those who do not see it.
    """

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    pins: tuple[Pin, ...]
    name: str
    values: int
    measured: int
    said: str
    pins_height: int = PINS_HEIGHT
    plot_height: int = PLOT_HEIGHT
    height: int = PINS_HEIGHT + PLOT_HEIGHT + AXIS_HEIGHT


def analysis_ribbon(data: Mapping[str, Any]) -> Ribbon | None:
    """The ribbon of an analysis; None where it has no values (one saved by an older version has none).

    Args:
      data: an analysis, as saved in JSON.
    """
    values, limits = list(data.get("values") or ()), data.get("format")
    if not values or not limits:
        return None
    scale = _Scale(limits["max_finite"], limits["smallest_normal"], limits["smallest_subnormal"])
    columns = tuple(
        _column([values[at] for at in members], left, width, scale)
        for members, left, width in bins_of(len(values), COLUMNS)
    )
    name = str(limits["name"]).upper()
    measured = sum(value["amax"] is not None for value in values)
    counts = {kind: sum(scale.kind_of(value) == kind for value in values) for kind in ("over", "near", "tiny")}
    said = (
        f"{len(values)} values in topological order, {measured} measured: {counts['over']} pass {name}'s largest value "
        f"{number(scale.ceiling)}, {counts['near']} come near it, {counts['tiny']} lie wholly below its normal range"
    )
    lines = (
        Line(scale.y(scale.ceiling), number(scale.ceiling, 5), "ceiling"),
        Line(scale.y(scale.normal), _power(scale.normal), "normal"),
        Line(scale.y(scale.floor), _power(scale.floor), "floor"),
    )
    return Ribbon(columns, lines, tuple(_pins(data["findings"], len(values))), name, len(values), measured, said)


def bins_of(count: int, most: int) -> Iterable[tuple[range, float, float]]:
    """Share out `count` places in order into at most `most` columns: (members, left, width), percent of the whole."""
    columns = min(count, most)
    for at in range(columns):
        first, last = count * at // columns, count * (at + 1) // columns
        yield range(first, last), round(100 * first / count, 3), round(100 * (last - first) / count, 3)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Magnitudes to pixels, by powers of two; what lies beyond stands at the edge."""

    ceiling: float
    normal: float
    floor: float

    @property
    def top(self) -> float:
        return math.log2(self.ceiling) + _MOST_BINADES

    @property
    def bottom(self) -> float:
        return math.log2(self.floor) - _MARGIN_BINADES

    def y(self, magnitude: float) -> float:
        exponent = min(max(math.log2(magnitude), self.bottom), self.top) if magnitude > 0 else self.bottom
        return round(PINS_HEIGHT + PLOT_HEIGHT * (self.top - exponent) / (self.top - self.bottom), 1)

    def kind_of(self, value: Mapping[str, Any]) -> str:
        amax = _largest(value)
        if amax is None:
            return "unknown"
        if amax > self.ceiling:
            return "over"
        if amax * NEAR > self.ceiling:
            return "near"
        return "tiny" if 0 < amax < self.normal else "fine"


_GRAVEST = ("over", "near", "tiny", "fine", "unknown")


def _largest(value: Mapping[str, Any]) -> float | None:
    """The largest magnitude of a value, inside the node that makes it too."""
    seen = [float(found) for found in (value.get("amax"), value.get("inside_amax")) if found is not None]
    return max(seen, default=None)


def _column(members: Sequence[Mapping[str, Any]], left: float, width: float, scale: _Scale) -> Column:
    known = [value for value in members if _largest(value) is not None]
    if not known:
        return Column(left, width, 0.0, 0.0, "unknown", f"{_who(members[0])}: not measured")
    kinds = {scale.kind_of(value) for value in known}
    kind = next(kind for kind in _GRAVEST if kind in kinds)
    # of a tiny column the smallest is the one to name, of any other the largest
    pick = min if kind == "tiny" else max
    worst = pick((value for value in known if scale.kind_of(value) == kind), key=lambda value: _largest(value) or 0.0)
    high = max(_largest(value) or 0.0 for value in known)
    lows = [value["amin"] for value in known if value.get("amin")]
    top = scale.y(high)
    return Column(left, width, top, max(scale.y(min(lows, default=high)), top + 1), kind, _title(worst, len(members)))


def _title(value: Mapping[str, Any], shared: int) -> str:
    inside, amax = value.get("inside_amax"), value.get("amax")
    said = f"{_who(value)}: " + ("all zeros" if amax == 0 else f"|x| up to {number(amax)}")
    if value.get("amin"):
        said += f", down to {number(value['amin'])}"
    if inside is not None and inside > (amax or 0.0):
        said += f"; squares inside up to {number(inside)}"
    return said + (f" (the worst of {shared} values here)" if shared > 1 else "")


def _who(value: Mapping[str, Any]) -> str:
    return f"{value['node']} ({value['op_type']})" if value["node"] else f"input {value['value']}"


def _power(value: float) -> str:
    return f"2^{round(math.log2(value))}"


LABEL_ROOM = 12.0
"""Percent of the width that a rule's name takes on a page of 500 pixels."""


def _pins(findings: Iterable[Mapping[str, Any]], count: int) -> Iterable[Pin]:
    """Errors and warnings by column; a rule is named where no pin of its row stands upon its name."""
    columns = min(count, COLUMNS)
    found: dict[int, list[tuple[int, Mapping[str, Any]]]] = {}
    grave = [finding for finding in findings if finding["severity"] in ("error", "warning")]
    for row, finding in enumerate(grave):
        if finding.get("at") is not None:
            found.setdefault(finding["at"] * columns // count, []).append((row, finding))
    beyond = dict.fromkeys(("error", "warning"), math.inf)
    pins = []
    for column in sorted(found, reverse=True):
        members = sorted(found[column], key=lambda item: item[1]["severity"] != "error")
        row, first = members[0]
        severity, x = str(first["severity"]), round(100 * (column + 0.5) / columns, 2)
        more = f" and {len(members) - 1} more findings here" if len(members) > 1 else ""
        label = str(first["rule"]) if beyond[severity] - x >= LABEL_ROOM else ""
        beyond[severity] = x
        pins.append(Pin(x, severity, f"{first['rule']}: {first['message']}{more}", f"finding-{row}", label))
    return reversed(pins)
