"""What a search decided and found, as plan.json holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from precision_planner.judging.judge import Judgement
from precision_planner.judging.metrics import json_number
from precision_planner.model import NodeId
from precision_planner.planning.search.evaluate import Decisions
from precision_planner.planning.search.search import Found
from precision_planner.planning.search.states import Space
from precision_planner.typing import Decision

__all__ = ["SearchReport", "report_search"]


@dataclass(frozen=True)
class SearchReport:
    """A search's result.

    Attributes:
      decisions: node -> precision, for every node that is not simply low; with reasons and evidence.
      data: JSON-ready, without times, so that the same search gives the same text: {evaluations, stopped, passed,
        before, after, aim (the part of the tolerance that was searched for), likely (the part of it that a device will
        hardly exceed), cost_us, tf32_us, regions}.
      tf32: whether products in FP32 use TF32.
      others: plans that meet the tolerance too, should this one not do on all data.
      is_likely: the quantile of the plan's draws meets the tolerance.
      rank: of two searches of one model's variants the better one has the smaller.
    """

    decisions: Mapping[NodeId, Decision]
    data: Mapping[str, Any] = field(default_factory=dict)
    tf32: bool = False
    others: tuple[SearchReport, ...] = ()
    rank: tuple[float, ...] = ()
    is_likely: bool = False


def report_search(space: Space, found: Found, tf32_us: float) -> SearchReport:
    """Say for every region that is kept, or could have been: the rule, or what the search measured.

    Args:
      space: of the search.
      found: its result.
      tf32_us: what everything in FP32 costs, where products use TF32.
    """
    chosen = dict(space.candidate(found.state).decisions)
    regions = []
    kept, sums = space.kept(found.state), found.contributions
    for number, region in enumerate(space.regions):
        without = found.without.get(number)
        looked_at = sums is not None and number in space.liftable and number not in found.state.brain
        precision = "bf16" if number in found.state.brain else "fp32" if number in kept else "low"
        if precision == "low" and number in found.state.summed:
            precision = "fp16+"
        facts: dict[str, Any] = {}
        if sums is not None and looked_at:
            facts["share"] = round(sums.share(number), 6)
            facts["how"] = "measured" if number in sums.measured else "bounded"
        if without is not None:
            facts["without"] = _values(without)
            if sums is not None:
                facts["expected_without"] = round(sums.expected(found.state.high - {number}), 4)
        if number in found.state.high | found.state.summed:
            reason = _reason(precision, found.judgement, without, found.limit)
            for node in region.nodes:
                if chosen.get(node) != space.base.get(node):
                    chosen[node] = Decision(chosen[node].precision, reason, None, chosen[node].keep_as, facts)
        if number in kept or number in found.state.dropped or number in found.state.summed or looked_at:
            regions.append(
                {
                    "region": region.name,
                    "kind": region.kind,
                    "nodes": len(region.nodes),
                    "precision": precision,
                    "expected": None if sums is None else round(sums.expected(found.state.high), 4),
                    "cost_us": round(space.costs.regions[number], 3),
                    "rules": _rules(space.base, region.nodes),
                    "dropped": number in found.state.dropped,
                    **facts,
                }
            )
    data = {
        "evaluations": found.evaluations,
        "stopped": found.stopped,
        "passed": found.passed,
        "before": _values(found.baseline),
        "after": _values(found.judgement),
        "additivity": None if sums is None or not sums.simulated else round(sums.additivity, 3),
        "likely": None if found.likely is None else json_number(round(found.likely, 4)),
        "aim": round(found.limit, 6),
        "tf32": found.state.tf32,
        "tf32_alone": None
        if found.tf32 is None
        else {**_values(found.tf32), "passed": found.tf32.score <= max(1.0, found.limit)},
        "cost_us": round(space.cost(found.state), 3),
        "tf32_us": round(tf32_us, 3),
        "regions": regions,
    }
    rank = (float(not found.passed), space.cost(found.state) if found.passed else found.judgement.score)
    others = (
        report_search(space, replace(found, state=state, judgement=judgement, without={}, fallbacks=()), tf32_us)
        for state, judgement in found.fallbacks
    )
    is_likely = found.likely is not None and found.likely <= 1.0
    return SearchReport(chosen, data, found.state.tf32, tuple(others), rank, is_likely)


def _rules(base: Decisions, nodes: tuple[NodeId, ...]) -> list[str]:
    return sorted({base[node].rule or "" for node in nodes if node in base} - {""})


def _values(judgement: Judgement) -> dict[str, Any]:
    found = {name: json_number(float(f"{value:.6g}")) for name, value in judgement.values.items()}
    return found if judgement.finite else {**found, "nonfinite": True}


def _reason(precision: str, judgement: Judgement, without: Judgement | None, limit: float) -> str:
    said = "summed in FP32 by the search" if precision == "fp16+" else f"kept in {precision.upper()} by the search"
    if without is None:
        return f"{said}, which ended before its worth was measured alone"
    if not without.finite:
        return f"{said}: without it an output is not finite"
    worst = max(judgement.values, key=lambda name: abs(without.values[name] - judgement.values[name]))
    output, _, metric = worst.rpartition(":")
    said += f": {metric} of '{output}' is {judgement.values[worst]:.3g}, without it {without.values[worst]:.3g}"
    if without.score > limit:
        return said
    return f"{said}; lowering it would save less than the Casts that it calls for cost"
