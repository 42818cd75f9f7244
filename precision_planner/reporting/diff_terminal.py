"""A diff in the terminal: the verdict, one line an output, where it went wrong. Fits 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from precision_planner.reporting.numbers import as_float, number, share, size
from precision_planner.reporting.text import visible_data

if TYPE_CHECKING:
    from rich.console import Console

GRADE_STYLES = {
    "identical": "bold green",
    "fine": "bold green",
    "degraded": "bold yellow",
    "garbage": "bold red",
    "nonfinite": "bold red",
}
WORST_LAYERS = 8
"""Lines of the table of the values where the error grows most."""


def render_diff(data: Mapping[str, Any], console: Console) -> None:
    """Print a diff.

    Args:
      data: `Diff.to_dict()`, or what was read back from its JSON.
      console: takes text literally.
    """
    from rich.text import Text

    data = visible_data(data)
    grade = str(data.get("grade", ""))
    console.print(Text.assemble((grade.upper(), GRADE_STYLES.get(grade, "bold")), "  ", str(data["verdict"])))
    _sides(data, console)
    _outputs(data, console)
    _failures(data, console)
    _divergence(data, console)
    _growth(data, console)
    _graph(data, console)
    _notes(data, console)


def _sides(data: Mapping[str, Any], console: Console) -> None:
    for role in ("reference", "candidate"):
        side = data.get(role) or {}
        if side:
            console.print(f"{role:<10} {side.get('label', '')} ({side.get('run', '')})", style="dim", soft_wrap=False)
    inputs = data.get("inputs") or {}
    if inputs.get("source"):
        count = inputs.get("batches", 0)
        console.print(f"{'inputs':<10} {inputs['source']}, {count} batch{'' if count == 1 else 'es'}", style="dim")


def _outputs(data: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("output", overflow="fold", min_width=8)
    for title in ("SAD/row", "mean", "max", "rel L2", "cosine", "top-1", "NaN/inf"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, found in data["outputs"].items():
        table.add_row(
            name,
            number(found["sad"]),
            number(found.get("sad_mean")),
            number(found["max_abs"]),
            number(found["rel_l2"]),
            _cosine(found["cosine"]),
            share(found["top1"]),
            str(found["nonfinite"]),
        )
    console.print()
    console.print(table)
    for name, found in data["outputs"].items():
        extra = _extra(found)
        if extra:
            console.print(f"  {name}: {extra}", style="dim")


def _extra(found: Mapping[str, Any]) -> str:
    parts = []
    if found.get("sqnr_db") not in (None, "inf", "nan", "-inf"):
        parts.append(f"SQNR {as_float(found['sqnr_db']):.1f} dB".replace(" -0.0 ", " 0.0 "))
    # integers, booleans and strings have no spacing in a 16-bit type
    if found.get("max_ulp") is not None and "float" in str(found.get("dtype", "float")):
        parts.append(f"ULPs max {number(found['max_ulp'])}, mean {number(found.get('mean_ulp'))}")
    if found.get("kl") is not None:
        parts.append(f"KL {number(found['kl'])}")
    if found.get("flipped"):
        parts.append(f"{found['flipped']} of {found['rows']} rows flipped")
    if found.get("detections"):
        sets = found["detections"]
        parts.append(f"boxes matched {sets.get('matched')} of {sets.get('reference')}")
    return ", ".join(parts)


def _failures(data: Mapping[str, Any], console: Console) -> None:
    for failure in data.get("failures", ()):
        console.print(
            f"beyond tolerance: {failure['output']} {failure['metric']} {number(failure['value'])}, "
            f"bound {number(failure['bound'])}",
            style="red",
        )
    if data.get("tolerances") and not data.get("failures"):
        console.print(f"within tolerance: {', '.join(data['tolerances'])}", style="green")


def _divergence(data: Mapping[str, Any], console: Console) -> None:
    first = data.get("first_divergence")
    if not first:
        return
    console.print()
    console.print(f"first divergence: {first['node']} ({first['op_type']}), value {first['value']}", style="bold")
    console.print(f"  {first['reason']}")
    if first.get("candidate_node") not in (None, "", first["node"]):
        console.print(f"  the candidate makes it at {first['candidate_node']}")
    if first.get("rule"):
        console.print(f"  rule {first['rule']}: planner rules {first['rule']}")


def _growth(data: Mapping[str, Any], console: Console) -> None:
    """The values whose node multiplied the error most."""
    from rich.table import Table

    layers = [layer for layer in data.get("layers", ()) if as_float(layer["rel_l2"]) > 0]
    if not layers:
        return

    def growth(layer: Mapping[str, Any]) -> float:
        own, read = as_float(layer["rel_l2"]), as_float(layer["inherited"])
        if read == float("inf") or read != read:
            return -1.0
        return float("inf") if own != own or own == float("inf") else own - read

    worst = sorted(layers, key=growth, reverse=True)[:WORST_LAYERS]
    worst = sorted((layer for layer in worst if growth(layer) > 0), key=lambda layer: layer["position"])
    if not worst:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("where the error grows most", overflow="fold", ratio=1)
    for title in ("op", "rel L2", "read", "amax", "as"):
        table.add_column(title, justify="right" if title != "op" else "left", no_wrap=True)
    for layer in worst:
        table.add_row(
            layer["node"],
            layer["op_type"][:14],
            number(layer["rel_l2"]),
            number(layer["inherited"]),
            number(layer["ref_amax"]),
            layer["stored"],
        )
    console.print()
    console.print(table)


def _graph(data: Mapping[str, Any], console: Console) -> None:
    graph = data.get("graph")
    if not graph:
        return
    nodes, casts, weights, opset = graph["nodes"], graph["casts"], graph["bytes"], graph["opset"]
    console.print()
    console.print(
        f"graph: {nodes[0]} -> {nodes[1]} nodes, {casts[0]} -> {casts[1]} Casts, weights {size(weights[0])} -> "
        f"{size(weights[1])}, opset {opset[0]} -> {opset[1]}",
        style="dim",
    )


def _notes(data: Mapping[str, Any], console: Console) -> None:
    check = data.get("reference_check") or {}
    if check.get("reason"):
        console.print(f"onnxruntime cannot load the reference with its optimizations: {check['reason']}", style="dim")
    else:
        off = [as_float(found["rel_l2"]) for found in check.values()]
        if off and max(off) > 1e-4:
            console.print(
                f"note: onnxruntime's own optimizations change the reference by {number(max(off))} (relative L2)",
                style="yellow",
            )
    inputs = data.get("inputs") or {}
    if inputs.get("synthesised"):
        console.print("note: synthesised inputs; give --inputs with real ones for a verdict to rely on", style="yellow")
    for skipped in inputs.get("skipped", ()):
        console.print(f"note: batch left out, {skipped}", style="yellow")


def _cosine(value: Any) -> str:
    found = as_float(value)
    return f"{found:.6f}".rstrip("0").rstrip(".") if found == found else "nan"
