"""What was served, checked and measured, in the terminal: pure functions of the JSON. Fits 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from precision_planner.reporting.diff_terminal import render_diff
from precision_planner.reporting.text import visible_data

if TYPE_CHECKING:
    from rich.console import Console


def render_repository(data: Mapping[str, Any], console: Console) -> None:
    """Print a saved `triton_repository`."""
    data = visible_data(data)
    for model in data["models"]:
        most = model["max_batch_size"]
        batch = f"batches of up to {most}" if most else "no batching"
        kept = ", its config.pbtxt kept and valid" if model["validated"] else ""
        console.print(
            f"{model['name']}: version {model['version']}, {model['platform']}, {batch}{kept}", soft_wrap=True
        )
        for kind in ("inputs", "outputs"):
            for name, tensor in model[kind].items():
                console.print(f"  {kind[:-1]:6} {name}: {tensor['datatype']} {tensor['dims']}", soft_wrap=True)


def render_check(data: Mapping[str, Any], console: Console) -> None:
    """Print a `triton_check`: who answered, and the diff of the answers."""
    data = visible_data(data)
    plural = "" if data["requests"] == 1 else "s"
    console.print(
        f"{data['server']} {data['model']}: {data['requests']} request{plural} by {data['wire']}", soft_wrap=True
    )
    for kind in ("inputs", "outputs"):
        for name, tensor in data[kind].items():
            console.print(
                f"  {kind[:-1]:6} {name}: {tensor['datatype']} {tensor['shape']}", style="dim", soft_wrap=True
            )
    render_diff(data["diff"], console)


def render_load(data: Mapping[str, Any], console: Console) -> None:
    """Print a `triton_load`: a line a level, the baseline below the model, times in milliseconds."""
    from rich.table import Table

    data = visible_data(data)
    rows = f", {data['rows']} rows each" if data["rows"] != 1 else ""
    console.print(f"{data['server']}: {data['client']}{rows}; {data['inputs']}", style="dim", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("at", justify="right")
    table.add_column("model", overflow="fold", min_width=6)
    for title in ("req/s", "mean", "p50", "p90", "p95", "p99", "queue", "comp.", "rows"):
        table.add_column(title, justify="right", no_wrap=True)
    for level in data["levels"]:
        server = level.get("server")
        own = ("-", "-", "-") if server is None else (_ms(server["queue_ms"]), _ms(server["compute_ms"]), "")
        if server is not None:
            size = server["rows_per_execution"]
            own = (*own[:2], f"{size:.1f}" if size else "-")
        times = (_ms(level[f"{name}_ms"]) for name in ("mean", "p50", "p90", "p95", "p99"))
        table.add_row(str(level["concurrency"]), level["model"], f"{level['requests_per_s']:.0f}", *times, *own)
    console.print(table)
    console.print(
        "at: requests under way; latency, queue and compute in ms; rows: put together per execution", style="dim"
    )
    for concurrency, found in data["speedup"].items():
        if found is not None:
            console.print(f"at {concurrency}: {found:.2f} times the throughput of {data['against']}", soft_wrap=True)
    for text in data["notes"]:
        console.print(f"note: {text}", style="dim", soft_wrap=True)


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
