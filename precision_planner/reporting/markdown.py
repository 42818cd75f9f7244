"""A diff as Markdown for a pull request: the verdict, the outputs, where it went wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from precision_planner.reporting.numbers import number, share, size
from precision_planner.reporting.text import markdown_code, markdown_text, visible_data

MARKS = {"identical": "✅", "fine": "✅", "degraded": "⚠️", "garbage": "❌", "nonfinite": "❌"}


def render_markdown(data: Mapping[str, Any]) -> str:
    """A diff as GitHub Markdown.

    Args:
      data: the diff's JSON.
    """
    data = visible_data(data)
    mark = "❌" if data.get("failures") else MARKS.get(str(data.get("grade")), "")
    lines = [f"### {mark} {data.get('grade', '')}: {markdown_text(data['verdict'])}", ""]
    titles = ["output", "SAD/row", "max", "rel L2", "cosine", "top-1", "NaN/inf"]
    lines += ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for name, found in data["outputs"].items():
        cells = [
            markdown_code(name, in_table=True),
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
        f"- beyond tolerance: {markdown_code(failure['output'])} {failure['metric']} {number(failure['value'])}, bound "
        f"{number(failure['bound'])}"
        for failure in data.get("failures", ())
    ]
    first = data.get("first_divergence")
    if first:
        where = f"{markdown_code(first['node'])} ({markdown_text(first['op_type'])})"
        lines.append(f"- first divergence: {where}: {markdown_text(first['reason'])}")
    graph = data.get("graph")
    if graph:
        lines.append(
            f"- graph: {graph['nodes'][0]} → {graph['nodes'][1]} nodes, {graph['casts'][0]} → {graph['casts'][1]} "
            f"Casts, weights {size(graph['bytes'][0])} → {size(graph['bytes'][1])}"
        )
    inputs = data.get("inputs") or {}
    if inputs.get("source"):
        count = inputs.get("batches", 0)
        lines.append(f"- inputs: {markdown_text(inputs['source'])}, {count} batch{'' if count == 1 else 'es'}")
    command = (data.get("environment") or {}).get("command")
    if command:
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", command)), default=0))
        lines += ["", fence, command, fence]
    return "\n".join(lines) + "\n"
