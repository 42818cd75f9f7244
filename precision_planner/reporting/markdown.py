"""A diff as Markdown for a pull request: the verdict, the outputs, where it went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precision_planner.reporting.numbers import number, share, size

MARKS = {"identical": "✅", "fine": "✅", "degraded": "⚠️", "garbage": "❌", "nonfinite": "❌"}


def render_markdown(data: Mapping[str, Any]) -> str:
    """A diff as GitHub Markdown.

    Args:
      data: the diff's JSON.
    """
    mark = "❌" if data.get("failures") else MARKS.get(str(data.get("grade")), "")
    lines = [f"### {mark} {data.get('grade', '')}: {_text(data['verdict'])}", ""]
    titles = ["output", "SAD/row", "max", "rel L2", "cosine", "top-1", "NaN/inf"]
    lines += ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for name, found in data["outputs"].items():
        cells = [
            f"`{name}`",
            number(found["sad"]),
            number(found["max_abs"]),
            number(found["rel_l2"]),
            number(found["cosine"], 6),
            share(found["top1"]),
            str(found["nonfinite"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    lines += [
        f"- beyond tolerance: `{failure['output']}` {failure['metric']} {number(failure['value'])}, bound "
        f"{number(failure['bound'])}"
        for failure in data.get("failures", ())
    ]
    first = data.get("first_divergence")
    if first:
        lines.append(f"- first divergence: `{first['node']}` ({first['op_type']}): {_text(first['reason'])}")
    graph = data.get("graph")
    if graph:
        lines.append(
            f"- graph: {graph['nodes'][0]} → {graph['nodes'][1]} nodes, {graph['casts'][0]} → {graph['casts'][1]} "
            f"Casts, weights {size(graph['bytes'][0])} → {size(graph['bytes'][1])}"
        )
    inputs = data.get("inputs") or {}
    if inputs.get("source"):
        lines.append(f"- inputs: {_text(inputs['source'])}, {inputs.get('batches')} batches")
    command = (data.get("environment") or {}).get("command")
    if command:
        lines += ["", "```", command, "```"]
    return "\n".join(lines) + "\n"


def _text(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
