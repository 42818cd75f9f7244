"""The figures of an analysis: one look for all, units on the axes, the ranges of the formats behind the values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from precision_planner._extras import require
from precision_planner.numerics import BF16, FP16, Format, ValueBits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORS", "bits_figure", "exponent_figure", "look"]

COLORS = {
    "values": "#3b6fb6",
    "after": "#d9822b",
    "normal": "#dcebdc",
    "subnormal": "#fbeecb",
    "lost": "#f3d0cc",
    "sign": "#b55a5a",
    "exponent": "#3b6fb6",
    "fraction": "#6a9f58",
    "text": "#222222",
}

_LOOK = {
    "figure.figsize": (9.0, 3.6),
    "figure.dpi": 96,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@contextmanager
def look() -> Iterator[Any]:
    """The look of every figure, as a context; yields matplotlib.

    Raises:
      MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", extra="notebook", purpose="a figure")
    with matplotlib.rc_context(_LOOK):
        yield matplotlib


def exponent_figure(
    histograms: Mapping[str, Mapping[int, int]], title: str, formats: Sequence[Format] = (FP16, BF16)
) -> Figure:
    """How many values have which exponent, against the ranges of the formats: one panel a format.

    Args:
      histograms: label -> (exponent -> count); the first in blue, a second (after a change) in orange.
      title: what the values are.
      formats: the formats to show the ranges of.
    """
    with look():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 2.9 * len(formats)))
        axes = figure.subplots(len(formats), 1, squeeze=False, sharey=True)[:, 0]
        used = sorted({exponent for counts in histograms.values() for exponent in counts}) or [0]
        for at, (axis, fmt) in enumerate(zip(axes, formats, strict=True)):
            low, high = _limits(used, fmt)
            _ranges(axis, fmt, low, high)
            _bars(axis, histograms)
            axis.set_xlim(low, high)
            axis.set_yscale("log")
            axis.set_ylim(0.7, None)
            axis.set_ylabel("values (count, log scale)")
            axis.set_title(f"{title} in {fmt.name.upper()}" if at == 0 else fmt.name.upper())
            if len(histograms) > 1 and at == 0:
                axis.legend(loc="upper left")
        axes[-1].set_xlabel("exponent of the magnitude, floor(log2 |w|)")
        return figure


def bits_figure(values: Sequence[ValueBits]) -> Figure:
    """The bits of values, a row each: sign, exponent and fraction in a colour of their own."""
    with look():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 0.5 + 0.85 * len(values)))
        axis = figure.subplots()
        for row, value in enumerate(values):
            y = len(values) - 1 - row
            column = 0
            for part, text in zip(("sign", "exponent", "fraction"), value.fields, strict=True):
                for bit in text:
                    _cell(axis, column, y, bit, COLORS[part])
                    column += 1
            label = f"{value.text} in {value.format.upper()}"
            axis.text(-0.4, y + 0.4, label, ha="right", va="center", color=COLORS["text"])
            stored = f"{value.decoded:.9g}  ({value.outcome})"
            axis.text(16.4, y + 0.4, stored, ha="left", va="center", color=COLORS["text"])
        for part, x in (("sign", 0), ("exponent", 3.5), ("fraction", 11)):
            axis.text(x, len(values) + 0.05, part, color=COLORS[part], ha="left" if x == 0 else "center")
        axis.set_xlim(-6, 25)
        axis.set_ylim(-0.2, len(values) + 0.5)
        axis.axis("off")
        return figure


def _limits(used: Sequence[int], fmt: Format) -> tuple[float, float]:
    """What the horizontal axis shows: all values, and the format's range as far as that stays legible."""
    low = min(used[0], max(fmt.min_subnormal_exponent - 4, -45))
    high = max(used[-1], min(fmt.max_exponent, 24)) + 1
    return low - 1.5, high + 1.5


def _ranges(axis: Axes, fmt: Format, low: float, high: float) -> None:
    """Shade and name the format's ranges; bars are centred on their exponent, so that edges lie between two."""
    edges = [
        ("becomes 0", "lost", low, fmt.min_subnormal_exponent - 0.5),
        ("subnormal", "subnormal", fmt.min_subnormal_exponent - 0.5, fmt.min_exponent - 0.5),
        ("normal", "normal", fmt.min_exponent - 0.5, fmt.max_exponent + 0.5),
        ("becomes inf", "lost", fmt.max_exponent + 0.5, high),
    ]
    for name, color, left, right in edges:
        left, right = max(left, low), min(right, high)
        if right - left <= 0:
            continue
        axis.axvspan(left, right, color=COLORS[color], zorder=0, linewidth=0)
        if right - left > (high - low) * 0.07:
            axis.text((left + right) / 2, 0.97, name, transform=axis.get_xaxis_transform(), ha="center", va="top",
                      fontsize=9, color=COLORS["text"])  # fmt: skip


def _bars(axis: Axes, histograms: Mapping[str, Mapping[int, int]]) -> None:
    width = 0.8 / len(histograms)
    for at, (label, counts) in enumerate(histograms.items()):
        shift = (at - (len(histograms) - 1) / 2) * width
        places = [exponent + shift for exponent in counts]
        color = COLORS["values" if at == 0 else "after"]
        axis.bar(places, list(counts.values()), width=width, color=color, label=label, zorder=2)


def _cell(axis: Axes, column: int, y: float, bit: str, color: str) -> None:
    from matplotlib.patches import Rectangle

    face = color if bit == "1" else "white"
    axis.add_patch(Rectangle((column, y), 0.92, 0.8, facecolor=face, edgecolor=color))
    axis.text(column + 0.46, y + 0.38, bit, ha="center", va="center", color="white" if bit == "1" else color)
