"""Inline SVG: the error along the network, and histograms. Text and colors come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from precision_planner.reporting.numbers import as_float, number

WIDTH, HEIGHT = 960, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 30
MARKERS = 600
"""Points of a long network that carry a tooltip; the line is drawn through all of them."""


def layer_plot(layers: Sequence[Mapping[str, Any]], first: Mapping[str, Any] | None = None) -> str:
    """Relative L2 error of every compared value in topological order, on a logarithmic axis.

    Values stored in FP32 are shaded; what is not finite stands at the top edge; the first divergence is marked.

    Args:
      layers: the diff's `layers`.
      first: its `first_divergence`.

    Returns:
      An <svg> element, "" for no layers.
    """
    points = [(layer, as_float(layer["rel_l2"])) for layer in layers]
    finite = [error for _, error in points if math.isfinite(error) and error > 0]
    if not finite:
        return ""
    low = math.floor(math.log10(max(min(finite), 1e-9)))
    high = max(low + 1, math.ceil(math.log10(max(finite))))
    count = max(1, len(points) - 1)

    def x(at: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * at / count, 1)

    def y(error: float) -> float:
        if not math.isfinite(error):
            return float(TOP)
        exponent = low if error <= 0 else min(max(math.log10(error), low), high)
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - exponent) / (high - low), 1)

    parts = [
        f'<svg id="layer-plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Relative error of {len(points)} values in topological order, from 1e{low} to 1e{high}">'
    ]
    parts += [_island(x(start - 0.5), x(stop - 0.5)) for start, stop in _islands(layers)]
    for exponent in range(low, high + 1):
        at = y(10.0**exponent)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4}" text-anchor="end">1e{exponent}</text>')
    line = " ".join(f"{x(at)},{y(error)}" for at, (_, error) in enumerate(points))
    parts.append(f'<polyline class="error" points="{line}"/>')
    step = max(1, len(points) // MARKERS)
    for at, (layer, error) in enumerate(points):
        lost = not math.isfinite(error)
        is_first = first is not None and layer["value"] == first["value"]
        if not (lost or is_first or at % step == 0):
            continue
        kind = "first" if is_first else "lost" if lost else "point"
        title = f"{layer['node']} ({layer['op_type']}): {number(layer['rel_l2'])}"
        parts.append(
            f'<circle class="{kind}" cx="{x(at)}" cy="{y(error)}" r="{5 if is_first else 2.2}">'
            f"<title>{escape(title)}</title></circle>"
        )
        if is_first:
            anchor = "end" if at > count / 2 else "start"
            parts.append(
                f'<text class="mark" x="{x(at)}" y="{max(y(error) + 18, TOP + 18)}" text-anchor="{anchor}">'
                "first divergence</text>"
            )
    parts.append(
        f'<text class="tick" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        "values in topological order; shaded: stored in FP32</text></svg>"
    )
    return "".join(parts)


def histogram_plot(histogram: Mapping[str, Any]) -> str:
    """Counts of absolute errors by decade, as an <svg>; "" where nothing differs."""
    counts, edges = histogram["counts"], histogram["edges"]
    bars = [(f"< 1e{edges[0]}", histogram.get("zero", 0) + counts[0])]
    bars += [(f"1e{edge}", count) for edge, count in zip(edges, counts[1:], strict=True)]
    if histogram.get("nonfinite"):
        bars.append(("inf", histogram["nonfinite"]))
    used = [at for at, (_, count) in enumerate(bars) if count]
    if not used or used == [0]:
        return ""
    bars = bars[used[0] : used[-1] + 1]
    top = max(count for _, count in bars)
    width, height, base = 30 * len(bars) + 10, 120, 96
    box = f"0 0 {width} {height}"
    parts = [f'<svg class="hist" viewBox="{box}" width="{width}" role="img" aria-label="Errors by decade">']
    for at, (label, count) in enumerate(bars):
        # the root shows the rare large errors beside the many small ones
        tall = round(80 * math.sqrt(count / top), 1)
        left = 8 + 30 * at
        parts.append(
            f'<rect class="bar" x="{left}" y="{base - tall}" width="22" height="{tall}">'
            f"<title>{escape(label)}: {count}</title></rect>"
            f'<text class="tick" x="{left + 11}" y="{base + 14}" text-anchor="middle">{escape(label)}</text>'
        )
    return "".join(parts) + "</svg>"


def _islands(layers: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Runs of values stored in FP32, [start, stop), where anything is stored low at all."""
    if all(layer["stored"] == "fp32" for layer in layers):
        return []
    runs: list[tuple[int, int]] = []
    start: int | None = None
    for at, layer in enumerate([*layers, {"stored": ""}]):
        if layer["stored"] == "fp32" and start is None:
            start = at
        elif layer["stored"] != "fp32" and start is not None:
            runs.append((start, at))
            start = None
    return runs


def _island(left: float, right: float) -> str:
    left = max(left, float(LEFT))
    return (
        f'<rect class="island" x="{left}" y="{TOP}" width="{round(max(1.0, right - left), 1)}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/>'
    )
