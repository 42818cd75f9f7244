"""The parts of a plan that a report shows, and a plan as a notebook shows it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precision_planner.planning.finishing import PlannedModel

LISTED = 12
"""Names listed in a group; all are counted."""


def planned_html(planned: PlannedModel) -> str:
    """A plan as a notebook shows it: the predicted difference, what was done for it, drawings, nodes and reasons."""
    from precision_planner.diffing.drawings import drawings, reasons
    from precision_planner.reporting.notebook import notebook_html

    data = planned.plan.to_dict()
    name = str(data["model"].get("file") or "model.onnx")
    source = Path(str(data["inputs"].get("source") or ""))
    told: dict[str, Any] = {
        "plan": plan_summary(data, "done", plan_command(name, "plan", source if source.suffix else None, data)),
        "drawings": [],
    }
    if planned.original is not None:
        told["drawings"] = drawings(planned.original, planned.model, dict(planned.report["names"]), reasons(data))
    if planned.diff is not None:
        data["diff"] = planned.diff.to_dict()
    return notebook_html({**data, "explanation": told}, f"<p>{escape(planned.summary)}</p>")


def plan_summary(plan: Mapping[str, Any], status: str, command: str) -> dict[str, Any]:
    """The parts of a plan that a report shows; nodes kept for one reason become one group.

    Args:
      plan: the plan's JSON.
      status: "done" or "proposed".
      command: what makes such a plan.
    """
    nodes: Sequence[Mapping[str, Any]] = plan.get("nodes") or ()
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for node in nodes:
        if node.get("precision") != plan.get("precision") and node.get("precision"):
            key = (str(node.get("op_type")), str(node.get("precision")), str(node.get("rule") or ""))
            groups.setdefault(key, []).append(node)
    return {
        "status": status,
        "command": command,
        "target": plan.get("target"),
        "precision": plan.get("precision"),
        "counts": dict(Counter(str(node.get("precision")) for node in nodes if node.get("precision"))),
        "casts": plan.get("casts", 0),
        "fused": dict(Counter(str(item["kind"]) for item in plan.get("fusions") or ())),
        "repairs": [dict(item) for item in plan.get("repairs") or ()],
        "kept": [
            {
                "op_type": op_type,
                "precision": precision,
                "rule": rule,
                "count": len(found),
                "nodes": [str(node.get("node")) for node in found[:LISTED]],
                "reason": _worst_reason(found),
            }
            for (op_type, precision, rule), found in groups.items()
        ],
        "weights": [dict(item) for item in (plan.get("weights") or ())[:LISTED]],
        "predicted": dict(plan.get("predicted") or {}),
        "verdict": "",
        "grade": "",
    }


def _worst_reason(nodes: Sequence[Mapping[str, Any]]) -> str:
    """The reason whose evidence is the largest value: the most telling of a group."""

    def amax(node: Mapping[str, Any]) -> float:
        numbers = [value for name, value in (node.get("evidence") or {}).items() if name.endswith("amax")]
        return max((float(value) for value in numbers if isinstance(value, (int, float))), default=0.0)

    return str(max(nodes, key=amax).get("reason") or "")


def plan_command(reference: str, folder: str, inputs: Any, plan: Mapping[str, Any]) -> str:
    """The command that makes such a plan of a reference."""
    words = ["planner", "plan", reference, "-o", str(Path(folder))]
    words += ["--target", str(plan.get("target"))] if plan.get("target") else []
    words += ["--precision", "bf16"] if plan.get("precision") == "bf16" else []
    words += ["--inputs", str(inputs)] if isinstance(inputs, (str, PurePath)) else []
    return shlex.join(words)
