"""How the values of an analysis show themselves in a notebook: small tables without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precision_planner.analysis.analysis import Analysis
    from precision_planner.analysis.tensorrt import TensorRTWarnings
    from precision_planner.analysis.weights import WeightCensus, Weights

__all__ = ["analysis_html", "table_html", "tensor_html", "warnings_html", "weights_html"]

SHOWN = 12
"""Rows shown of a long table; a DataFrame has them all."""

_CELL = "style='text-align:left;padding:2px 10px 2px 0;vertical-align:top'"


def analysis_html(analysis: Analysis) -> str:
    """The model in numbers, the findings and the normalizations."""
    info, counts = analysis.info, analysis.by_severity
    decomposed = sum(norm.form == "decomposed" for norm in analysis.normalizations)
    facts = [
        f"opset {info.opset}, {info.nodes} nodes, {info.weight_bytes / 1e6:.1f} MB of weights",
        f"{len(analysis.normalizations)} normalizations, {decomposed} of them decomposed",
        f"{counts['error']} errors, {counts['warning']} warnings, {counts['info']} notes for "
        f"{analysis.precision.upper()} on {analysis.target}",
    ]
    title = f"<b>Analysis of {escape(info.path or 'a model in memory')}</b>"
    rows = [(finding.rule, finding.severity, finding.subject, finding.message) for finding in analysis.findings]
    listed = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    table = (
        table_html(("rule", "severity", "subject", "message"), rows) if rows else f"<p>{_nothing_found(analysis)}</p>"
    )
    return f"<div>{title}<ul>{listed}</ul>{table}</div>"


def _nothing_found(analysis: Analysis) -> str:
    asked, name = len(analysis.evaluation.rules), analysis.precision.upper()
    return f"none of the {asked} rules about {name} fired" if asked else f"no rule is about {name}"


def weights_html(weights: Weights) -> str:
    """The tensors that the cast hurts most."""
    rows = [
        (tensor.name, tensor.role, tensor.stats.size, tensor.assessment.verdict, tensor.assessment.sentence)
        for tensor in weights.ranked()
    ]
    title = f"<b>{len(weights)} float tensors, {weights.scanned_bytes / 1e6:.1f} MB, the worst first</b>"
    return f"<div>{title}{table_html(('tensor', 'role', 'values', 'verdict', 'why'), rows)}</div>"


def tensor_html(tensor: WeightCensus) -> str:
    """Everything about one tensor, FP16 beside BF16."""
    stats = tensor.stats
    low, wide = stats.fp16.to_dict(), stats.bf16.to_dict()
    rows = [(name, _text(low[name]), _text(wide[name])) for name in low]
    about = (
        f"<b>{escape(tensor.name)}</b> {escape(str(list(tensor.shape)))} {stats.dtype}, {escape(tensor.role)}: "
        f"{escape(tensor.assessment.sentence)}<br>{stats.size} values, {stats.zeros} zeros, magnitudes "
        f"{_text(stats.min_abs)} to {_text(stats.max_abs)}; read by {escape(', '.join(tensor.readers) or 'nothing')}"
    )
    return f"<div>{about}{table_html(('', 'FP16', 'BF16'), rows, shown=len(rows))}</div>"


def warnings_html(warnings: TensorRTWarnings) -> str:
    """TensorRT's warnings in its wording, each with what it means and what to do."""
    from precision_planner.analysis.tensorrt_words import CATEGORIES, LAYERNORM_CURE, LAYERNORM_EXPLANATION

    rows: list[tuple[Any, ...]] = [
        (len(warnings.tensors[category.name]), category.wording, category.explanation, category.cure)
        for category in CATEGORIES
    ]
    if warnings.layernorm_in_fp16:
        wording = "Detected layernorm nodes in FP16"
        rows.append((len(warnings.layernorm_in_fp16), wording, LAYERNORM_EXPLANATION, LAYERNORM_CURE))
    if warnings.folded:
        names = ", ".join(weight.name for weight in warnings.folded[:SHOWN])
        meaning = f"{names}: in range by themselves; TensorRT folds the attention scale into them first."
        rows.append((len(warnings.folded), "underflow after a folded scale", meaning, "As for underflow."))
    return f"<div>{table_html(('weights', 'what TensorRT says', 'what it means', 'what to do'), rows)}</div>"


def table_html(header: Sequence[str], rows: Iterable[Sequence[Any]], *, shown: int = SHOWN) -> str:
    """A plain table; of a long one the first rows and how many there are."""
    rows = list(rows)
    head = "".join(f"<th {_CELL}>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td {_CELL}>{escape(_text(cell))}</td>" for cell in row) + "</tr>" for row in rows[:shown]
    )
    more = f"<p>and {len(rows) - shown} more</p>" if len(rows) > shown else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _text(cell: Any) -> str:
    if cell is None:
        return "infinite"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
