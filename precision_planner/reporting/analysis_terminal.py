"""An analysis in the terminal: what breaks first, then what TensorRT would say, then the noise. Fits 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from precision_planner.reporting.numbers import number, size
from precision_planner.reporting.text import nothing_found, on_target_lines

if TYPE_CHECKING:
    from rich.console import Console

SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
SHOWN = 3
"""Findings of one rule and severity that are printed before the rest is counted; all with `verbose`."""


def render_analysis(data: Mapping[str, Any], console: Console, *, verbose: bool = False) -> None:
    """Print an analysis.

    Args:
      data: `Analysis.to_dict()`, or what was read back from its JSON.
      console: takes text literally.
      verbose: every finding and every tensor's name.
    """
    model = data["model"]
    console.print(
        f"{model.get('path') or 'model'}: opset {model['opset']}, {model['nodes']} nodes, "
        f"{size(model['weight_bytes'])} of weights",
        soft_wrap=True,
    )
    _normalizations(data, console)
    _findings(data, console, verbose)
    _tensorrt(data["tensorrt_warnings"], console, verbose)
    _on_target(data, console)
    _open_questions(data, console)


def _on_target(data: Mapping[str, Any], console: Console) -> None:
    """What the target does not take, and what its builder is known to do wrong: one line each."""
    for line in on_target_lines(data, data["target"]):
        console.print(line, soft_wrap=True, markup=False)


def _normalizations(data: Mapping[str, Any], console: Console) -> None:
    counts = Counter((norm["kind"], norm["form"], bool(norm["fusable"])) for norm in data["normalizations"])
    for (kind, form, fusable), count in sorted(counts.items()):
        fate = "" if form == "native" else ", can be fused" if fusable else ", not fused"
        console.print(f"{count:5d}  {kind} ({form}{fate})")
    reasons = Counter(norm["reason"] for norm in data["normalizations"] if norm["reason"])
    for reason, count in reasons.most_common():
        console.print(f"       {count} because: {reason}", soft_wrap=True)
    for norm in data.get("near_misses", ()):
        console.print(f"       near miss at {norm['name']}: {norm['reason']}", soft_wrap=True)


def _findings(data: Mapping[str, Any], console: Console, verbose: bool) -> None:
    from rich.text import Text

    findings = data["findings"]
    if not findings:
        console.print(nothing_found(data))
        return
    counts = Counter(finding["severity"] for finding in findings)
    console.print("findings: " + ", ".join(f"{counts[name]} {name}" for name in SEVERITY_STYLES if counts[name]))
    for severity, group in _groups(findings):
        shown = group if verbose else group[: 1 if severity == "info" else SHOWN]
        for finding in shown:
            text = Text(f"{severity:<8}", style=SEVERITY_STYLES[severity])
            text.append(f"{finding['rule']:<7}", style="bold")
            text.append(finding["message"], style="default")
            console.print(text, soft_wrap=True)
            if finding.get("assessment"):
                console.print(f"{'':15}{finding['assessment']}", soft_wrap=True, style="dim")
            action = action_told(finding.get("action"))
            if action:
                console.print(f"{'':15}-> {action}", soft_wrap=True)
        if len(group) > len(shown):
            console.print(f"{'':15}and {len(group) - len(shown)} more of {group[0]['rule']} (-v lists them)")


def _groups(findings: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Findings by severity and rule, gravest first, in the order they came."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for finding in findings:
        groups.setdefault((finding["severity"], finding["rule"]), []).append(finding)
    order = list(SEVERITY_STYLES)
    return [(severity, group) for (severity, _), group in sorted(groups.items(), key=lambda g: order.index(g[0][0]))]


def action_told(action: Mapping[str, Any] | None) -> str:
    """What a finding proposes, in a few words; "" where it proposes nothing."""
    if not action or action.get("kind") in (None, "warn"):
        return ""
    kind, nodes = str(action["kind"]), action.get("nodes") or []
    said = f"{kind} {action['repair']}" if action.get("repair") else kind
    if action.get("parameters"):
        said += " " + ", ".join(f"{name} {number(value)}" for name, value in action["parameters"].items())
    where = f"{nodes[0]}" + (f" and {len(nodes) - 1} more" if len(nodes) > 1 else "") if nodes else ""
    return f"{said}: {where}" if where else said


def _tensorrt(warnings: Mapping[str, Any], console: Console, verbose: bool) -> None:
    """What weakly typed TensorRT prints for this model, and what it means."""
    categories = [
        (name, warnings[name]) for name in ("subnormal", "underflow", "overflow") if warnings.get(name, {}).get("count")
    ]
    norms = warnings.get("layernorm_in_fp16") or []
    if not categories and not norms:
        console.print("TensorRT would warn about nothing")
        return
    console.print("TensorRT 8.6 would warn with --fp16 (10.6, 11 and RTX say nothing):", style="bold")
    for _, found in categories:
        console.print(f"  - {found.get('message') or found['count']}", soft_wrap=True)
        names = found["tensors"]
        listed = names if verbose else names[:SHOWN]
        more = "" if len(listed) == len(names) else f" and {len(names) - len(listed)} more"
        console.print(f"      {', '.join(listed)}{more}", soft_wrap=True, style="dim")
        for key in ("explanation", "cure"):
            if found.get(key):
                console.print(f"      {found[key]}", soft_wrap=True)
        for folded in found.get("folded") or ():
            console.print(
                f"      {folded if isinstance(folded, str) else folded.get('message', folded)}", soft_wrap=True
            )
    if norms:
        console.print(
            f"  - Detected layernorm nodes in FP16: {', '.join(norms if verbose else norms[:SHOWN])}"
            + ("" if verbose or len(norms) <= SHOWN else f" and {len(norms) - SHOWN} more"),
            soft_wrap=True,
        )


def _open_questions(data: Mapping[str, Any], console: Console) -> None:
    inputs = data.get("inputs")
    if inputs:
        made = ": low confidence; give --inputs" if inputs.get("synthesized") else ""
        console.print(f"activations measured on {inputs['source']}{made}", soft_wrap=True)
        return
    waiting = sum(1 for entry in data.get("undecided", ()) if entry.get("needs_data"))
    if waiting:
        console.print(f"{waiting} questions of the rules stay open without activation ranges; give --inputs")
