"""One self-contained HTML file: no network, light and dark, usable with the keyboard."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2

from precision_planner.reporting.drawings import subgraph_drawing
from precision_planner.reporting.numbers import number, share, size
from precision_planner.reporting.plots import exponent_plot, histogram_plot, layer_plot


def render_html(data: Mapping[str, Any]) -> str:
    """A report as HTML.

    Args:
      data: a diff, an analysis or a plan, as saved in JSON.
    """
    kind = kind_of(data)
    plot = layer_plot(data.get("layers") or (), data.get("first_divergence")) if kind == "diff" else ""
    return _environment().get_template(f"{kind}.html.j2").render(data=data, plot=plot)


def kind_of(data: Mapping[str, Any]) -> str:
    """What a saved JSON is: "diff", "analysis" or "plan"; ValueError for anything else."""
    if data.get("kind") in ("diff", "analysis", "plan"):
        return str(data["kind"])
    if "outputs" in data and "verdict" in data:
        return "diff"
    if "findings" in data and "weights" in data and "normalizations" in data:
        return "analysis"
    if "target" in data and "nodes" in data:
        return "plan"
    raise ValueError("neither a diff nor an analysis nor a plan")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("precision_planner.reporting"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, share=share, size=size, histogram=histogram_plot)
    environment.filters.update(exponents=exponent_plot, drawing=subgraph_drawing)
    return environment
