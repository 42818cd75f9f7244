"""The figures of an analysis: one look for all, units on the axes, the ranges of the formats behind the values."""

from __future__ import annotations

import io
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

WINDOW = (-45, 24)
"""The exponents that a histogram shows one by one: all of FP16 and what trained weights have."""

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
    """How many values have which exponent, against the ranges of the formats: one panel a format, one scale for all.

    What lies outside of `WINDOW` is gathered in the first and the last bar, and said to be.

    Args:
      histograms: label -> (exponent -> count); the first in blue, a second (after a change) in orange.
      title: what the values are.
      formats: the formats to show the ranges of.
    """
    with look():
        figure = _new_figure(figsize=(9.0, 2.9 * len(formats)))
        axes = figure.subplots(len(formats), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        used = [exponent for counts in histograms.values() for exponent in counts]
        highest = max((count for counts in histograms.values() for count in counts.values()), default=1)
        low, high = WINDOW[0] - 1.5, WINDOW[1] + 1.5
        for at, (axis, fmt) in enumerate(zip(axes, formats, strict=True)):
            _ranges(axis, fmt, low, high)
            _bars(axis, {label: _gathered(counts) for label, counts in histograms.items()})
            axis.set_xlim(low, high)
            axis.set_yscale("log")
            axis.set_ylim(0.7, highest * 12)  # room for the names of the ranges above the bars
            axis.set_ylabel("values (count)")
            axis.set_title(f"{title}, against the range of {fmt.name.upper()}")
            if len(histograms) > 1 and at == 0:
                axis.legend(loc="center left")
        axes[-1].set_xlabel(f"exponent of the magnitude, floor(log2 |w|){_outside(used)}")
        return figure


def _new_figure(figsize: tuple[float, float]) -> Figure:
    """A figure that shows itself in a notebook, with or without `%matplotlib inline`."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            image = io.BytesIO()
            self.savefig(image, format="png")
            return image.getvalue()

    return NotebookFigure(figsize=figsize)


def _gathered(counts: Mapping[int, int]) -> dict[int, int]:
    """A histogram with everything outside of the window in its first and last bar."""
    out: dict[int, int] = {}
    for exponent, count in counts.items():
        at = min(max(exponent, WINDOW[0]), WINDOW[1])
        out[at] = out.get(at, 0) + count
    return out


def _outside(used: Sequence[int]) -> str:
    """What the axis says about values outside of the window."""
    ends = []
    if min(used, default=0) < WINDOW[0]:
        ends.append(f"first bar: down to {min(used)}")
    if max(used, default=0) > WINDOW[1]:
        ends.append(f"last bar: up to {max(used)}")
    return f"   ({'; '.join(ends)})" if ends else ""


def bits_figure(values: Sequence[ValueBits]) -> Figure:
    """The bits of values, a row each: sign, exponent and fraction in a colour of their own."""
    with look():
        figure = _new_figure(figsize=(9.0, 0.5 + 0.85 * len(values)))
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


def _ranges(axis: Axes, fmt: Format, low: float, high: float) -> None:
    """Shade and name the format's ranges; bars are centred on their exponent, so that edges lie between two."""
    edges = [
        ("underflow", "lost", low, fmt.min_subnormal_exponent - 0.5),
        ("subnormal", "subnormal", fmt.min_subnormal_exponent - 0.5, fmt.min_exponent - 0.5),
        ("normal", "normal", fmt.min_exponent - 0.5, fmt.max_exponent + 0.5),
        ("overflow", "lost", fmt.max_exponent + 0.5, high),
    ]
    for name, color, left, right in edges:
        left, right = max(left, low), min(right, high)
        if right - left <= 0:
            continue
        axis.axvspan(left, right, color=COLORS[color], zorder=0, linewidth=0)
        if right - left > (high - low) * 0.05:
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
