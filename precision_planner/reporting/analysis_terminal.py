"""An analysis in the terminal: the verdict, the next command, what breaks, what TensorRT would say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from precision_planner.reporting.headline import analysis_headline, measured_told, next_command, severities_told
from precision_planner.reporting.lines import MOST_NAME, middle, print_command
from precision_planner.reporting.numbers import number, size
from precision_planner.reporting.text import on_target_lines

if TYPE_CHECKING:
    from rich.console import Console

SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
HEADLINE_STYLES = {"error": "bold red", "warning": "bold yellow", "passed": "bold green"}
SHOWN = 3
"""Errors of one rule that are printed before the rest is counted; of warnings one; all with `verbose`."""


def render_analysis(data: Mapping[str, Any], console: Console, *, verbose: bool = False) -> None:
    """Print an analysis: the verdict, the next command, what breaks, then what is only said.

    Args:
      data: `Analysis.to_dict()`, or what was read back from its JSON.
      console: takes text literally.
      verbose: every finding with what it means, every tensor's name.
    """
    _head(data, console)
    _findings(data, console, verbose)
    _tensorrt(data["tensorrt_warnings"], console, verbose)
    _normalizations(data, console, verbose)
    for line in on_target_lines(data, data["target"], most=200 if verbose else SHOWN):
        console.print(line, soft_wrap=True, markup=False)


def _head(data: Mapping[str, Any], console: Console) -> None:
    from rich.text import Text

    head, model = analysis_headline(data), data["model"]
    counts = Counter(str(finding["severity"]) for finding in data["findings"])
    grave = counts["error"] or counts["warning"]
    said = severities_told(counts) if grave else head.sentence
    console.print(Text.assemble((f"{head.word.upper()}: ", HEADLINE_STYLES[head.style]), said), soft_wrap=True)
    print_command(console, next_command(data), "next:")
    console.print(
        f"{model.get('path') or 'model'}: opset {model['opset']}, {model['nodes']} nodes, "
        f"{size(model['weight_bytes'])} of weights",
        soft_wrap=True,
    )
    measured = measured_told(data)
    if measured not in said:
        console.print(measured, soft_wrap=True)


def _findings(data: Mapping[str, Any], console: Console, verbose: bool) -> None:
    told: set[str] = set()
    for severity, group in _groups(data["findings"]):
        if severity == "info" and not verbose:
            continue
        shown = group if verbose else group[: SHOWN if severity == "error" else 1]
        for finding in shown:
            _finding(finding, console, verbose, told)
        rest = len(group) - len(shown)
        if rest:
            console.print(f"{'':{_INDENT}}and {rest} more of {group[0]['rule']} (-v lists them)", style="dim")
    notes = Counter(finding["rule"] for finding in data["findings"] if finding["severity"] == "info")
    if notes and not verbose:
        listed = ", ".join(f"{count} of {rule}" for rule, count in notes.items())
        console.print(f"{'note':<8} {listed}: noise that changes nothing (-v lists it)", soft_wrap=True, style="dim")


_INDENT = 16


def _finding(finding: Mapping[str, Any], console: Console, verbose: bool, told: set[str]) -> None:
    """A finding: what, what it means where that was not said before, what to do."""
    from rich.text import Text

    severity, subject = finding["severity"], str(finding["subject"])
    message = finding["message"] if verbose else finding["message"].replace(subject, middle(subject))
    text = Text.assemble((f"{severity:<8} ", SEVERITY_STYLES[severity]), (f"{finding['rule']:<5}  ", "bold"), message)
    console.print(text, soft_wrap=True)
    means = finding.get("assessment")
    if means and means not in told:
        told.add(means)
        console.print(f"{'':{_INDENT}}{means}", soft_wrap=True, style="dim")
    action = action_told(finding.get("action"), most=200 if verbose else MOST_NAME)
    if action:
        console.print(f"{'':{_INDENT}}-> {action}", soft_wrap=True)


def _groups(findings: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Findings by severity and rule, gravest first, in the order they came."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for finding in findings:
        groups.setdefault((finding["severity"], finding["rule"]), []).append(finding)
    order = list(SEVERITY_STYLES)
    return [(severity, group) for (severity, _), group in sorted(groups.items(), key=lambda g: order.index(g[0][0]))]


def _normalizations(data: Mapping[str, Any], console: Console, verbose: bool) -> None:
    counts = Counter((norm["kind"], norm["form"], bool(norm["fusable"])) for norm in data["normalizations"])
    for (kind, form, fusable), count in sorted(counts.items()):
        fate = "" if form == "native" else ", can be fused" if fusable else ", not fused"
        console.print(f"{count} {kind} ({form}{fate})", soft_wrap=True)
    reasons = Counter(norm["reason"] for norm in data["normalizations"] if norm["reason"])
    for reason, count in reasons.most_common():
        console.print(f"  {count} because: {reason}", soft_wrap=True)
    near = list(data.get("near_misses", ()))
    for norm in near if verbose else near[:SHOWN]:
        name = norm["name"] if verbose else middle(norm["name"])
        console.print(f"  near miss at {name}: {norm['reason']}", soft_wrap=True)
    if len(near) > SHOWN and not verbose:
        console.print(f"  and {len(near) - SHOWN} more near misses (-v lists them)", style="dim")


def action_told(action: Mapping[str, Any] | None, most: int = 200) -> str:
    """What a finding proposes, in a few words; "" where it proposes nothing.

    Args:
      action: of the finding.
      most: letters of a node's name.
    """
    if not action or action.get("kind") in (None, "warn"):
        return ""
    kind, nodes = str(action["kind"]), action.get("nodes") or []
    said = f"{kind} {action['repair']}" if action.get("repair") else kind
    if action.get("parameters"):
        said += " " + ", ".join(f"{name} {number(value)}" for name, value in action["parameters"].items())
    where = middle(str(nodes[0]), most) + (f" and {len(nodes) - 1} more" if len(nodes) > 1 else "") if nodes else ""
    return f"{said}: {where}" if where else said


def _tensorrt(warnings: Mapping[str, Any], console: Console, verbose: bool) -> None:
    """What weakly typed TensorRT prints for this model; with `verbose` which tensors, and what it means."""
    categories = {
        name: warnings[name] for name in ("subnormal", "underflow", "overflow") if warnings.get(name, {}).get("count")
    }
    norms = warnings.get("layernorm_in_fp16") or []
    if not categories and not norms:
        console.print("TensorRT would warn about nothing")
        return
    parts = [f"{found['count']} {name}" for name, found in categories.items()]
    weights = [f"weights that are {', '.join(parts)}"] if parts else []
    layers = [f"{len(norms)} layernorm nodes"] if norms else []
    console.print(
        f"TensorRT 8.6 would warn with --fp16 of {' and of '.join([*weights, *layers])}; 10.6, 11 and RTX say nothing"
        + ("" if verbose else " (-v explains)"),
        soft_wrap=True,
    )
    if not verbose:
        return
    for found in categories.values():
        console.print(f"  - {found.get('message') or found['count']}", soft_wrap=True)
        console.print(f"    {', '.join(found['tensors'])}", soft_wrap=True, style="dim")
        for key in ("explanation", "cure"):
            if found.get(key):
                console.print(f"    {found[key]}", soft_wrap=True)
        for folded in found.get("folded") or ():
            said = folded if isinstance(folded, str) else folded.get("message", folded)
            console.print(f"    {said}", soft_wrap=True)
    if norms:
        console.print(f"  - Detected layernorm nodes in FP16: {', '.join(norms)}", soft_wrap=True)
