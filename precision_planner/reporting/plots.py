"""Inline SVG: the error along the network, and histograms. Text and colors come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from precision_planner.reporting.numbers import as_float, number

HEIGHT = 260
TOP, BOTTOM = 14, 30
MARKERS = 600
"""Points of a long network that carry a tooltip; the line is drawn through all of them."""


def layer_plot(layers: Sequence[Mapping[str, Any]], first: Mapping[str, Any] | None = None) -> str:
    """Relative L2 error of every compared value in topological order, on a logarithmic axis.

    Nodes that compute in FP32 amid 16-bit ones are shaded; what is not finite stands at the top edge, what did not
    change at all on the line of its own at the bottom; the first divergence is marked.

    Args:
      layers: the diff's `layers`.
      first: its `first_divergence`.

    Returns:
      An <svg> element, "" for no layers.
    """
    points = [(layer, as_float(layer["rel_l2"])) for layer in layers]
    finite = [error for _, error in points if math.isfinite(error) and error > 0]
    lost = any(not math.isfinite(error) for _, error in points)
    if not finite and not lost:
        return ""
    low = math.floor(math.log10(max(min(finite, default=1e-3), 1e-9)))
    high = max(low + 1, math.ceil(math.log10(min(max(finite, default=1.0), 1e6))))
    count = max(1, len(points) - 1)
    top, bottom = TOP + (16 if lost else 0), HEIGHT - BOTTOM - 16

    def x(at: float) -> float:
        """Percent of the width: text and strokes keep their size however narrow the page is."""
        return round(100 * at / count, 2)

    def y(error: float) -> float:
        if not math.isfinite(error):
            return float(TOP)
        if error <= 0:
            return float(HEIGHT - BOTTOM)
        exponent = min(max(math.log10(error), low), high)
        return round(top + (bottom - top) * (high - exponent) / (high - low), 1)

    parts = [
        f'<svg id="layer-plot" class="fluid" width="100%" height="{HEIGHT}" role="img" '
        f'aria-label="Relative error of {len(points)} values in topological order, from 1e{low} to 1e{high}">'
    ]
    islands = _islands(layers)
    parts += [_island(x(start - 0.5), x(stop - 0.5)) for start, stop in islands]
    step = max(1, math.ceil((high - low) / 7))
    rows = [(y(10.0**exponent), f"1e{exponent}") for exponent in range(low, high + 1, step)]
    rows += [(y(0.0), "0")] + ([(y(math.inf), "inf")] if lost else [])
    parts += [f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>' for at, _ in rows]
    # values that did not change (shapes, masks) would draw the line to the ground and back
    line = " ".join(f"{x(at)},{y(error)}" for at, (_, error) in enumerate(points) if error != 0)
    parts.append(
        f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 100 {HEIGHT}" preserveAspectRatio="none" overflow="visible">'
        f'<polyline class="trace" vector-effect="non-scaling-stroke" points="{line}"/></svg>'
    )
    parts += [f'<text class="tick" x="2" y="{round(at - 3, 1)}">{label}</text>' for at, label in rows]
    every = max(1, len(points) // MARKERS)
    mark = ""
    for at, (layer, error) in enumerate(points):
        gone = not math.isfinite(error)
        is_first = first is not None and layer["value"] == first["value"]
        if not (gone or is_first or at % every == 0):
            continue
        kind = "first" if is_first else "lost" if gone else "same" if error == 0 else "point"
        title = f"{layer['node']} ({layer['op_type']}): {number(layer['rel_l2'])}"
        circle = (
            f'<circle class="{kind}" cx="{x(at)}%" cy="{y(error)}" r="{5 if is_first else 2.2}">'
            f"<title>{escape(title)}</title></circle>"
        )
        if not is_first:
            parts.append(circle)
            continue
        anchor, shift = ("end", -9) if at > count / 2 else ("start", 9)
        down = y(error) + (34 if y(error) < top + 24 else -8)
        mark = (
            f'<line class="guide" x1="{x(at)}%" x2="{x(at)}%" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>{circle}'
            f'<text class="mark" x="{x(at)}%" dx="{shift}" y="{round(down, 1)}" text-anchor="{anchor}">'
            "first divergence</text>"
        )
    parts.append(mark)
    legend = "values in topological order" + ("; shaded: computed in FP32" if islands else "")
    parts.append(f'<text class="tick" x="50%" y="{HEIGHT - 8}" text-anchor="middle">{legend}</text></svg>')
    return "".join(parts)


def histogram_plot(histogram: Mapping[str, Any]) -> str:
    """Counts of absolute errors by decade, as an <svg>; "" where nothing differs."""
    counts, edges = histogram["counts"], histogram["edges"]
    bars = [(f"< 1e{edges[0]}", histogram.get("zero", 0) + counts[0], "bar")]
    bars += [(f"1e{edge}", count, "bar") for edge, count in zip(edges, counts[1:], strict=True)]
    if histogram.get("nonfinite"):
        bars.append(("inf", histogram["nonfinite"], "bar over"))
    used = [at for at, (_, count, _) in enumerate(bars) if count]
    if not used or used == [0]:
        return ""
    return _bars(bars[used[0] : used[-1] + 1], 30, "Absolute errors by decade")


def exponent_plot(exponents: Mapping[str, Any], precision: str = "fp16", wide: bool = True) -> str:
    """How many weights have which power of two, what the format loses in other colors; "" for no weights.

    Args:
      exponents: exponent of two -> count.
      precision: "fp16": normal from 2^-14, subnormal from 2^-24, ends below 2^16; "bf16": float32's own range.
      wide: with labels; without, a small picture for a table's cell.
    """
    found = {int(exponent): int(count) for exponent, count in exponents.items() if count}
    if not found:
        return ""
    normal, least, end = (-14, -24, 15) if precision == "fp16" else (-126, -133, 127)
    # masks of 2^127 beside weights of 2^-5 would make a picture of nothing: far ones share the outermost bars
    first, last = max(min(found), min(least - 6, 0)), min(max(found), end + 3)
    last = max(first, last)
    gathered: dict[int, int] = dict.fromkeys(range(first, last + 1), 0)
    for exponent, count in found.items():
        gathered[min(max(exponent, first), last)] += count
    bars = []
    for exponent, count in gathered.items():
        kind = "over" if exponent > end else "under" if exponent < least else "sub" if exponent < normal else ""
        more = "up to " if exponent == first > min(found) else "from " if exponent == last < max(found) else ""
        bars.append((f"{more}2^{exponent}", count, f"bar {kind}".strip()))
    return _bars(bars, 18, "Weights by power of two", every=4) if wide else _spark([bar[1:] for bar in bars])


def _bars(bars: Sequence[tuple[str, int, str]], pitch: int, label: str, every: int = 1) -> str:
    top = max(count for _, count, _ in bars) or 1
    width, height, base = pitch * len(bars) + 16, 120, 96
    box = f"0 0 {width} {height}"
    parts = [f'<svg class="hist" viewBox="{box}" width="{width}" height="{height}" role="img" aria-label="{label}">']
    for at, (name, count, kind) in enumerate(bars):
        # the root shows the rare large ones beside the many small ones
        tall = round(max(80 * math.sqrt(count / top), 2.0 if count else 0.0), 1)
        left = 8 + pitch * at
        parts.append(
            f'<rect class="{kind}" x="{left}" y="{round(base - tall, 1)}" width="{pitch - 5}" height="{tall}">'
            f"<title>{escape(name)}: {count}</title></rect>"
        )
        if at % every == 0:
            shown = escape(name.split()[-1] if every > 1 else name)
            middle = left + (pitch - 5) / 2
            parts.append(f'<text class="tick" x="{middle}" y="{base + 14}" text-anchor="middle">{shown}</text>')
    return "".join(parts) + "</svg>"


def _spark(bars: Sequence[tuple[int, str]]) -> str:
    top = max(count for count, _ in bars) or 1
    width = 3 * len(bars)
    parts = [f'<svg class="spark" viewBox="0 0 {width} 18" width="{width}" height="18" aria-hidden="true">']
    for at, (count, kind) in enumerate(bars):
        if count:
            tall = round(max(18 * math.sqrt(count / top), 1.5), 1)
            parts.append(f'<rect class="{kind}" x="{3 * at}" y="{round(18 - tall, 1)}" width="2.4" height="{tall}"/>')
    return "".join(parts) + "</svg>"


def _islands(layers: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Runs of values that FP32 islands make, [start, stop)."""
    runs: list[tuple[int, int]] = []
    start: int | None = None
    for at, layer in enumerate([*layers, {}]):
        if layer.get("island") and start is None:
            start = at
        elif not layer.get("island") and start is not None:
            runs.append((start, at))
            start = None
    return runs


def _island(left: float, right: float) -> str:
    left = max(left, 0.0)
    return (
        f'<rect class="island" x="{left}%" y="{TOP}" width="{round(max(0.2, min(right, 100) - left), 2)}%" '
        f'height="{HEIGHT - TOP - BOTTOM}"/>'
    )
