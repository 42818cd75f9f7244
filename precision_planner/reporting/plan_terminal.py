"""A plan in the terminal: what was decided, what is predicted of it, what each kept region buys, why nodes are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from precision_planner.reporting.headline import unseen_told
from precision_planner.reporting.lanes import Kept, kept_regions, precision_word
from precision_planner.reporting.lines import middle
from precision_planner.reporting.numbers import number, share
from precision_planner.reporting.text import on_target_lines, visible_data

__all__ = ["METRICS", "ROWS", "metrics_told", "render_plan"]

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ROWS = 10
"""Rows of a table and lines of a list before the rest is counted; all with `verbose`."""

METRICS = (("sad", "SAD a row"), ("max_abs", "max"), ("rel_l2", "rel L2"), ("cosine", "cosine"), ("top1", "top-1"))
"""Of the prediction, with the words of a table's head."""


def render_plan(data: Mapping[str, Any], console: Console, *, verbose: bool = False, tf32: str = "") -> None:
    """Print a plan.

    Args:
      data: a plan, as saved in JSON.
      console: takes text literally.
      verbose: every region, every output, every reason.
      tf32: what `PrecisionPlan.tf32_instead` says.
    """
    data = visible_data(data)
    nodes = data["nodes"]
    counts = Counter(str(node["precision"]) for node in nodes)
    told = ", ".join(f"{count} {_short(precision_word(key))}" for key, count in sorted(counts.items()) if count)
    console.print(
        f"plan of {data['model'].get('name') or 'a model'} for {data['target']}: {len(nodes)} nodes: {told}; "
        f"{data['casts']} Casts; {len(data['fusions'])} patterns fused",
        soft_wrap=True,
    )
    for repair in data["repairs"]:
        names = repair["nodes"] if verbose else [middle(name) for name in repair["nodes"][:3]]
        more = f" and {len(repair['nodes']) - len(names)} more" if len(names) < len(repair["nodes"]) else ""
        console.print(f"repaired: {repair['repair']} ({repair['rule']}) at {', '.join(names)}{more}", soft_wrap=True)
    for line in on_target_lines(data, data["target"], most=200 if verbose else 3):
        console.print(line, soft_wrap=True)
    _predicted(data, console, verbose)
    _search(data.get("search") or {}, console)
    _regions(kept_regions(data), console, verbose)
    if tf32:
        console.print(tf32, soft_wrap=True)
    if data["inputs"].get("synthesized"):
        console.print("measured on synthesized inputs, so with low confidence; give --inputs", soft_wrap=True)
    unseen = unseen_told(data["inputs"])
    if unseen:
        console.print(f"{unseen}: rules alone decided there", soft_wrap=True)


def _predicted(data: Mapping[str, Any], console: Console, verbose: bool) -> None:
    """A line an output: what the simulation says, with what was asked of it."""
    predicted: Mapping[str, Mapping[str, Any]] = data.get("predicted") or {}
    if not predicted:
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("predicted", overflow="ellipsis", no_wrap=True)
    for _, title in METRICS:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("NaN/inf", justify="right", no_wrap=True)
    shown = list(predicted.items())[: None if verbose else ROWS]
    spread = data.get("distribution") or {}
    for name, found in shown:
        cells = (_cell(metric, found.get(metric)) for metric, _ in METRICS)
        table.add_row(middle(name, 30) if not verbose else name, *cells, str(found.get("nonfinite", 0)))
        likely = (spread.get("quantiles") or {}).get(name)
        if likely:
            cells = (_cell(metric, likely.get(metric)) for metric, _ in METRICS)
            lost = str(likely.get("nonfinite", "-"))
            table.add_row(f"  {spread['share']:.0%} of draws within", *cells, lost, style="dim")
    console.print(table)
    if len(predicted) > len(shown):
        console.print(f"and {len(predicted) - len(shown)} more outputs (-v lists them)", style="dim")
    for bound in data.get("tolerance") or ():
        where = f"{bound['output']}:" if bound.get("output") else ""
        console.print(f"asked: {where}{bound['metric']} {number(bound['bound'])}", soft_wrap=True)


def _cell(metric: str, value: Any) -> str:
    if value is None:
        return "-"
    return share(value) if metric == "top1" else number(value, 6 if metric == "cosine" else 3)


def _search(found: Mapping[str, Any], console: Console) -> None:
    """What the search did: how many evaluations, from what to what."""
    if not found:
        return
    ended = f" ({found['stopped']}; this is the best plan so far)" if found.get("stopped") else ""
    plural = "" if found["evaluations"] == 1 else "s"
    console.print(
        f"search: {found['evaluations']} evaluation{plural}{ended}; {metrics_told(found['before'])} by the rules, "
        f"{metrics_told(found['after'])} now",
        soft_wrap=True,
    )
    dropped = [region["region"] for region in found.get("regions", ()) if region["dropped"]]
    if dropped:
        more = f" and {len(dropped) - ROWS} more" if len(dropped) > ROWS else ""
        console.print(f"not needed, though rules keep it: {', '.join(dropped[:ROWS])}{more}", soft_wrap=True)


def _regions(kept: Sequence[Kept], console: Console, verbose: bool) -> None:
    """What is kept: what the search measured as a table, what a rule or a need keeps as a line each."""
    searched = [region for region in kept if region.cost_us is not None]
    if searched:
        shown = searched[: None if verbose else ROWS]
        console.print(_region_table(shown, console.width, verbose))
        if len(searched) > len(shown):
            rest = len(searched) - len(shown)
            console.print(f"and {rest} more regions, which bring less (-v lists them)", style="dim")
        if any("sums" in region.precision for region in shown):
            console.print("FP16+: FP16 values whose products sum in FP32", style="dim")
    for region in [each for each in kept if each.cost_us is None][: None if verbose else ROWS]:
        why = region.why if verbose else region.why.replace(region.region, middle(region.region))
        plural = "node" if region.nodes == 1 else "nodes"
        console.print(f"{region.nodes} {plural} in {region.precision}: {why}", soft_wrap=True)


def _region_table(shown: Sequence[Kept], width: int, verbose: bool) -> Table:
    """A row a region; its name takes what the other columns leave, cut in the middle."""
    from rich.table import Table

    # one metric is named once, in the head
    metrics = sorted({name for region in shown for name in region.without})
    alone = metrics[0] if len(metrics) == 1 else ""
    rows = [
        (
            _short(region.precision),
            "-" if region.share is None else f"{'' if region.how == 'measured' else '< '}{region.share:.1%}",
            str((region.without.get(alone) if alone else metrics_told(region.without)) or "not measured"),
            number(region.cost_us),
        )
        for region in shown
    ]
    titles = ("in", "of the error", f"without it\n{alone}" if alone else "without it", "cost, us")
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("kept region", no_wrap=True)
    taken = 0
    for at, title in enumerate(titles):
        table.add_column(title, justify="left" if at == 0 else "right", no_wrap=bool(alone) or at != 2)
        taken += 2 + max(len(cell) for cell in (*title.split("\n"), *(row[at] for row in rows)))
    room = max(width - taken - 1, 20)
    for region, row in zip(shown, rows, strict=True):
        table.add_row(region.region if verbose else middle(region.region, room), *row)
    return table


def _short(precision: str) -> str:
    return precision.replace(", FP32 sums", "+")


def metrics_told(values: Mapping[str, Any]) -> str:
    """Metrics in a line: ``probability:sad 4.05e-4``."""
    return ", ".join(f"{name} {value if isinstance(value, str) else number(value)}" for name, value in values.items())
