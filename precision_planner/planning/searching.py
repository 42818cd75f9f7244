"""Between the rules' draft and the final rewrite: the search, on the graph that the rewrite makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from precision_planner.judging.tolerance import tightened
from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.planning.ground import Ground
from precision_planner.planning.request import Request
from precision_planner.planning.search import (
    Judged,
    Region,
    SearchOptions,
    SearchReport,
    Setting,
    find_plan,
    judge_draft,
)
from precision_planner.planning.variants import Draft
from precision_planner.rules import Evidence, RuleBook
from precision_planner.targets import Target
from precision_planner.typing import Decision

__all__ = ["Searched", "look_at", "search_draft"]


@dataclass(frozen=True)
class Searched:
    """A search's result on a draft.

    Attributes:
      draft: the draft.
      report: what was found.
      plans: decisions about the draft's model, with what the search says of them: the plan, then others that meet the
        tolerance should it not do on all data.
    """

    draft: Draft
    report: SearchReport
    plans: tuple[tuple[Mapping[NodeId, Decision], SearchReport], ...]

    @property
    def passed(self) -> bool:
        """Whether the plan meets the tolerance as simulated."""
        return bool(self.report.data["passed"])


@dataclass(frozen=True)
class _Subject:
    """A draft's fused model, with what was decided about its nodes."""

    fused: Model
    base: dict[NodeId, Decision]
    setting: Setting


def look_at(draft: Draft, ground: Ground, request: Request) -> Judged:
    """What a draft is worth as the rules have it."""
    subject = _subject(draft, request)
    return judge_draft(subject.fused, ground.batches, ground.references, subject.base, subject.setting)


def search_draft(
    draft: Draft, ground: Ground, request: Request, progress: Callable[[str], None] | None = None
) -> Searched:
    """Search for what the tolerance needs besides a draft, and what it does not need of it.

    Args:
      draft: what the rules led to.
      ground: the model and its data.
      request: what is asked.
      progress: called with what is being done.
    """
    subject, search = _subject(draft, request), request.search
    target = request.aim.target
    report = find_plan(
        subject.fused,
        ground.batches,
        subject.base,
        target,
        subject.setting,
        SearchOptions(
            search.clock,
            search.jobs,
            search.scheduler,
            _may_raise(target, ground.data.synthesised),
            progress,
            request.tf32[1],
            target.margin,
        ),
        references=ground.references,
        fixed=frozenset(node for node, decision in subject.base.items() if _is_users(decision))
        | _unseen(subject.fused, draft.choice.evidence),
        guard=frozenset(node for node, decision in subject.base.items() if _guards(decision, draft.choice.rulebook)),
    )
    plans = [
        (_of_the_unfused(found.decisions, draft.choice.model, subject.fused), found)
        for found in (report, *report.others)
    ]
    return Searched(draft, report, tuple(plans))


def _subject(draft: Draft, request: Request) -> _Subject:
    aim = request.aim
    first = draft.rewritten(aim)
    assert first.assignment is not None
    index = GraphIndex(first.fused.proto)
    base = {node: decision for node, decision in first.decisions.items() if index.find(node) is not None}
    setting = Setting(
        first.assignment.options,
        "strong" if aim.target.strong else "weak",
        tuple(tightened(bound, aim.target.margin) for bound in aim.bounds),
        dict(aim.metrics),
        "inf" if draft.variant.options.get("weights") == "ieee" else "saturate",
        request.tf32[0] and aim.target.tf32,
        aim.target.sums,
        aim.target.lowering,
        aim.target.chains,
    )
    return _Subject(first.fused, base, setting)


def _unseen(model: Model, evidence: Evidence) -> frozenset[NodeId]:
    """The nodes of bodies that the data did not run: no simulation says what they need, so what rules say holds."""
    index = GraphIndex(model.proto)
    return frozenset(index.node_id(scope, at) for scope, at, _ in index.nodes() if not evidence.saw(scope.path))


def _is_users(decision: Decision) -> bool:
    """Whether the user said so, by a selector."""
    return decision.binding and decision.rule is None


def _guards(decision: Decision, rulebook: RuleBook) -> bool:
    """Whether a rule keeps it from the edge of the range: data shows a lower bound, and the headroom is the user's."""
    rule = rulebook.get(decision.rule) if decision.rule else None
    about_range = rule is not None and "range" in rule.tags
    return about_range or any(name.endswith("headroom") for name in decision.evidence)


def _of_the_unfused(decisions: Mapping[NodeId, Decision], model: Model, fused: Model) -> dict[NodeId, Decision]:
    """Decisions about the nodes of the fused model as decisions about the model that will be fused again.

    A node that a fusion writes has the output of what it replaces, and with it the identity of the last of these nodes.
    """
    if model is fused:
        return dict(decisions)
    index = GraphIndex(model.proto)
    return {node: decision for node, decision in decisions.items() if index.find(node) is not None}


def _may_raise(target: Target, made_up: bool) -> Callable[[GraphIndex, Region], bool]:
    """What should be put into FP32: for the target, and a product on the word of made-up data alone only if it must."""

    def may(index: GraphIndex, region: Region) -> bool:
        if made_up and region.kind == "gemm":
            return False
        return target.norm_beside_fp32 or _is_beside_no_norm(index, region)

    return may


def _is_beside_no_norm(index: GraphIndex, region: Region) -> bool:
    """Whether no node of a region is a LayerNormalization or read by one; see `Target.norm_beside_fp32`."""
    for identity in region.nodes:
        found = index.find(identity)
        if found is None:
            continue
        scope, position = found
        node = scope.nodes[position]
        readers = [scope.nodes[use.position] for name in node.output if name for use in scope.consumers(name)]
        if any(other.op_type == "LayerNormalization" for other in (node, *readers)):
            return False
    return True
