"""One self-contained HTML file: no network, light and dark, usable with the keyboard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2

from precision_planner.reporting.analysis_terminal import action_told
from precision_planner.reporting.drawings import subgraph_drawing
from precision_planner.reporting.generic import sections
from precision_planner.reporting.headline import analysis_headline, measured_told, next_command, plan_headline
from precision_planner.reporting.lanes import kept_regions, plan_lanes
from precision_planner.reporting.load_plot import load_plot
from precision_planner.reporting.numbers import as_float, number, share, size
from precision_planner.reporting.plots import exponent_plot, histogram_plot, layer_plot
from precision_planner.reporting.ribbon import analysis_ribbon
from precision_planner.reporting.roles import weight_classes
from precision_planner.reporting.text import visible_data


def render_html(data: Mapping[str, Any], *, most_values: int | None = None) -> str:
    """A report as HTML.

    Args:
      data: of one of `KINDS`, as saved in JSON.
      most_values: rows in the table of values at most: those with the largest errors; None takes all.
    """
    data = visible_data(data, keep="\n\t")
    kind = kind_of(data)
    # a plan may bring the difference that it predicts; an inspection's layers are a number
    compared = (data.get("diff") or {}) if kind == "plan" else data if kind == "diff" else {}
    layers = list(compared.get("layers") or ())
    plot = layer_plot(layers, compared.get("first_divergence")) if kind in ("diff", "plan") else ""
    shown = layers if most_values is None else _worst(layers, most_values)
    return (
        _environment()
        .get_template(f"{kind if kind in OWN_PAGE else 'generic'}.html.j2")
        .render(data=data, plot=plot, shown=shown)
    )


def _worst(layers: list[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """Those with the largest relative errors, NaN first of all, in the order they had."""

    def size(layer: Mapping[str, Any]) -> float:
        error = as_float(layer.get("rel_l2"))
        return math.inf if math.isnan(error) else error

    worst = sorted(range(len(layers)), key=lambda at: -size(layers[at]))[:most]
    return [layers[at] for at in sorted(worst)]


def _worst_outputs(outputs: Mapping[str, Mapping[str, Any]], most: int) -> list[tuple[str, Mapping[str, Any]]]:
    """Those that lost values, then those with the largest relative errors, in the order they had."""

    def badness(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, float]:
        error = as_float(item[1].get("rel_l2"))
        return bool(item[1].get("new_nonfinite")), math.inf if math.isnan(error) else error

    chosen = {name for name, _ in sorted(outputs.items(), key=badness, reverse=True)[:most]}
    return [(name, found) for name, found in outputs.items() if name in chosen]


OWN_PAGE = ("diff", "analysis", "plan", "triton_repository", "triton_check", "triton_load")
"""Kinds with a template of their name; `precision_plan`, as a plan's folder has it, is a plan."""

KINDS = (*OWN_PAGE, "rewrite", "build", "inspection", "migration", "rules", "rule_cases", "fp16", "check")
"""What a saved JSON may be."""


def kind_of(data: Mapping[str, Any]) -> str:
    """What a saved JSON is, one of `KINDS`; ValueError for anything else."""
    if data.get("kind") in KINDS:
        return str(data["kind"])
    if "outputs" in data and "verdict" in data:
        return "diff"
    if "findings" in data and "weights" in data and "normalizations" in data:
        return "analysis"
    if "target" in data and "nodes" in data:
        return "plan"
    raise ValueError(f"none of the planner's reports ({', '.join(KINDS)})")


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
    environment.filters.update(load_plot=load_plot, action=action_told, measured=measured_told)
    environment.filters.update(analysis_headline=analysis_headline, plan_headline=plan_headline)
    environment.filters.update(sections=sections, next_command=next_command)
    environment.filters.update(ribbon=analysis_ribbon, weight_classes=weight_classes)
    environment.filters.update(lanes=plan_lanes, kept_regions=kept_regions)
    environment.filters.update(exponents=exponent_plot, drawing=subgraph_drawing, worst=_worst_outputs)
    return environment
