"""What a diff report says beyond the difference: what plain 16 bits do, what the plan did, the weights, drawings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precision_planner.errors import PlannerError
from precision_planner.planning.plan_summary import LISTED, plan_command, plan_summary

if TYPE_CHECKING:
    from precision_planner.diffing import Diff
    from precision_planner.diffing.sources import Side
    from precision_planner.model import Model

WORST_TENSORS = 12
"""So many weights are listed, those that the cast hurts most."""

CENSUS_BYTES = 4 << 30
"""Weights past this are not scanned for a report unasked."""

_OUTPUT_KEYS = ("sad", "max_abs", "rel_l2", "cosine", "top1", "nonfinite", "rows", "flipped")


def explain(reference: Any, candidate: Any, found: Diff, inputs: Any = None) -> dict[str, Any]:
    """Collect what a newcomer needs to understand a diff.

    Args:
      reference: what is right, as given to `compare`.
      candidate: what is judged, likewise.
      found: the diff.
      inputs: what it was made on, likewise.

    Returns:
      JSON-ready: `plain` (what 16 bits everywhere do, None where the diff itself shows that), `plan` (what was done,
      or what the planner would do), `weights`, `drawings`, and `notes` (what could not be collected, and why).
    """
    from precision_planner.diffing.drawings import drawings, reasons, side_drawings
    from precision_planner.diffing.sources import open_side

    told: dict[str, Any] = {"plain": None, "plan": None, "weights": None, "drawings": [], "notes": []}
    ref, cand = open_side(reference), open_side(candidate)
    if ref.model is None:
        told["notes"].append("the reference is no model, so neither weights nor a plan can be shown")
        return told
    precision = _precision(found, cand)
    told["drawings"] = side_drawings(ref, cand)
    if cand.plan:
        told["plan"] = plan_summary(cand.plan, "done", plan_command(ref.label, cand.label, inputs, cand.plan))
    elif found.grade in ("degraded", "garbage", "nonfinite") or found.failures:
        try:
            planned = _propose(ref.model, inputs, precision)
        except PlannerError as error:
            told["notes"].append(f"no plan could be made: {error}")
        else:
            data = planned.plan.to_dict()
            told["plan"] = {
                **plan_summary(data, "proposed", plan_command(ref.label, "plan", inputs, data)),
                "predicted": {} if planned.diff is None else _outputs(planned.diff),
                "verdict": "" if planned.diff is None else planned.diff.verdict,
                "grade": "" if planned.diff is None else planned.diff.grade,
            }
            told["drawings"] = drawings(ref.model, planned.model, dict(planned.report["names"]), reasons(data))
    if _is_rewritten(found, cand):
        told["plain"] = _plain(ref.model, inputs, precision)
    if ref.model.weight_bytes <= CENSUS_BYTES:
        told["weights"] = _weights(ref.model, precision)
    else:
        told["notes"].append("the weights are past 4 GB: planner analyze scans them")
    return told


def _precision(found: Diff, side: Side) -> str:
    if side.plan.get("precision") in ("fp16", "bf16"):
        return str(side.plan["precision"])
    return "bf16" if "bf16" in str(found.candidate.get("run", "")) else "fp16"


def _is_rewritten(found: Diff, candidate: Side) -> bool:
    """Whether the candidate is more than the reference in 16 bits, so that the contrast says something."""
    if candidate.model is None or bool(candidate.plan):
        return True
    graph = found.graph or {}
    return bool(graph.get("retyped") or graph.get("fused") or graph.get("added"))


def _propose(model: Model, inputs: Any, precision: str) -> Any:
    from precision_planner.planning import plan

    return plan(model, inputs=inputs, precision=precision)


def _plain(model: Model, inputs: Any, precision: str) -> dict[str, Any] | None:
    """What 16 bits everywhere do to the model, as TensorRT's kernels would round."""
    from precision_planner.diffing import compare
    from precision_planner.simulation import is_typed_low

    if is_typed_low(model):
        return None
    found = compare(model, model, inputs, simulate=precision, semantics="fused", self_check=False)
    return {
        "verdict": found.verdict,
        "grade": found.grade,
        "outputs": _outputs(found),
        "first_divergence": None if found.first_divergence is None else dict(found.first_divergence),
    }


def _outputs(found: Diff) -> dict[str, Any]:
    return {
        name: {key: value for key, value in output.to_dict().items() if key in _OUTPUT_KEYS}
        for name, output in found.outputs.items()
    }


def _weights(model: Model, precision: str) -> dict[str, Any]:
    from precision_planner.analysis import analyze

    found = analyze(model, precision=precision)
    warnings = found.tensorrt_warnings.to_dict()
    return {
        "precision": precision,
        "tensors": len(found.weights),
        "scanned_bytes": found.weights.scanned_bytes,
        "exponents": {str(exponent): count for exponent, count in found.weights.exponents().items()},
        "warnings": {
            name: {
                "count": warnings[name]["count"],
                "message": warnings[name].get("message", ""),
                "explanation": warnings[name].get("explanation", ""),
                "cure": warnings[name].get("cure", ""),
                "tensors": list(warnings[name]["tensors"][:LISTED]),
            }
            for name in ("subnormal", "underflow", "overflow")
        },
        "layernorm_in_fp16": len(warnings["layernorm_in_fp16"]),
        "worst": [
            {
                "name": tensor.name,
                "role": tensor.role,
                "size": tensor.stats.size,
                "max_abs": _json(tensor.stats.max_abs),
                "rel_error": _json(tensor.assessment.cost),
                "verdict": tensor.assessment.verdict,
                "sentence": tensor.assessment.sentence,
                "exponents": {str(exponent): count for exponent, count in sorted(tensor.stats.exponents.items())},
            }
            for tensor in found.weights.ranked()[:WORST_TENSORS]
        ],
    }


def _json(value: float | None) -> Any:
    from precision_planner.judging.metrics import json_number

    return None if value is None else json_number(value)
