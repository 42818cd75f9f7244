"""Inline SVG of a load test: throughput and latency over the concurrency, a line a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 16, 40


def load_plot(levels: Sequence[Mapping[str, Any]], key: str, title: str) -> str:
    """One quantity over the concurrency.

    The first model's line is solid, the second's dashed: they differ without their color, too.

    Args:
      levels: of a `triton_load`.
      key: what is drawn, such as "requests_per_s".
      title: what it is, with its unit.

    Returns:
      An <svg> element, "" for no levels.
    """
    if not levels:
        return ""
    models = list(dict.fromkeys(level["model"] for level in levels))
    at = sorted({int(level["concurrency"]) for level in levels})
    top = _ceiling(max(float(level[key]) for level in levels))

    def x(concurrency: float) -> float:
        span = max(at[-1] - at[0], 1)
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (concurrency - at[0]) / span, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top, 1)

    parts = [f'<svg class="load" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for step in range(5):
        value = top * step / 4
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value:g}</text>')
    for concurrency in at:
        parts.append(f'<text x="{x(concurrency)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{concurrency}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">requests under way</text>')
    for number, model in enumerate(models):
        points = [(int(level["concurrency"]), float(level[key])) for level in levels if level["model"] == model]
        dash = ' stroke-dasharray="5 4"' if number else ""
        line = " ".join(f"{x(concurrency)},{y(value)}" for concurrency, value in points)
        parts.append(f'<polyline class="trace"{dash} points="{line}"/>')
        for concurrency, value in points:
            told = escape(f"{model} at {concurrency}: {value:.4g}")
            parts.append(
                f'<circle class="point" r="3" cx="{x(concurrency)}" cy="{y(value)}"><title>{told}</title></circle>'
            )
    return "".join([*parts, "</svg>"])


def _ceiling(value: float) -> float:
    """A round number at or above a positive value: 1, 2, 4 or 8 times a power of ten."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(next(step * unit for step in (1, 2, 4, 8, 10) if step * unit >= value))
