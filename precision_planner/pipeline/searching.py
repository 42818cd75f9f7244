"""Between the rules' choice and the final rewrite: the search, on the graph that the rewrite makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.model.inputs import Inputs
from precision_planner.numerics.metrics import HIGHER_IS_BETTER
from precision_planner.numerics.tolerance import Tolerance
from precision_planner.planning.decide import Choice
from precision_planner.planning.search import (
    DEFAULT_BUDGET,
    Clock,
    OwnMetric,
    Region,
    SearchOptions,
    SearchReport,
    Setting,
    find_plan,
)
from precision_planner.rewriting import rewrite
from precision_planner.targets import Target
from precision_planner.typing import Decision

__all__ = ["SearchRequest", "search_choice"]

MAX_BATCHES = 4
"""Batches that plans are judged on while searching; the prediction at the end takes all."""


@dataclass(frozen=True)
class SearchRequest:
    """What the user wants of a search.

    Attributes:
      clock: of the budget, for all plans that one call tries.
      jobs: evaluations at once.
      scheduler: address of a dask scheduler.
      metrics: the user's own metrics by name.
    """

    clock: Clock = field(default_factory=lambda: Clock(DEFAULT_BUDGET))
    jobs: int = 1
    scheduler: str | None = None
    metrics: Mapping[str, OwnMetric] = field(default_factory=dict)


def search_choice(
    choice: Choice,
    data: Inputs,
    target: Target,
    bounds: Sequence[Tolerance],
    request: SearchRequest,
    *,
    precision: str,
    fuse: Sequence[str],
    tf32: bool,
    options: Mapping[str, Any],
    progress: Callable[[str], None] | None = None,
) -> tuple[Choice, SearchReport]:
    """The choice with what the search adds to it and takes from it.

    Args:
      choice: what the rules led to.
      data: inputs; the first `MAX_BATCHES` batches are searched on.
      target: the build target.
      bounds: the tolerance.
      request: how to search.
      precision: the low precision.
      fuse: pattern kinds that become one node.
      tf32: whether the build may run kept products in TF32.
      options: those of `rewrite`, the user's selectors among them.
      progress: called with what is being done.
    """
    first = rewrite(choice.model, precision=precision, fuse=fuse, decisions=choice.decisions, verify=False, **options)
    assert first.assignment is not None
    index = GraphIndex(first.fused.proto)
    base = {node: decision for node, decision in first.decisions.items() if index.find(node) is not None}
    batches = [batch for _, batch in zip(range(MAX_BATCHES), data, strict=False)]
    setting = Setting(
        first.assignment.options,
        "strong" if target.strong else "weak",
        tuple(_tightened(bound, target.margin) for bound in bounds),
        dict(request.metrics),
        "inf" if options.get("weights") == "ieee" else "saturate",
        tf32 and target.tf32,
        target.sums,
    )
    report = find_plan(
        first.fused,
        batches,
        base,
        frozenset(node for node, decision in base.items() if decision.binding),
        target,
        setting,
        SearchOptions(
            request.clock,
            request.jobs,
            request.scheduler,
            _may_raise(target, data.synthesised),
            progress,
        ),
    )
    return replace(choice, decisions=_of_the_unfused(report.decisions, choice.model, first.fused)), report


def _of_the_unfused(decisions: Mapping[NodeId, Decision], model: Model, fused: Model) -> dict[NodeId, Decision]:
    """Decisions about the nodes of the fused model as decisions about the model that will be fused again.

    A node that a fusion writes has the output of what it replaces, and with it the identity of the last of these nodes.
    """
    if model is fused:
        return dict(decisions)
    index = GraphIndex(model.proto)
    return {node: decision for node, decision in decisions.items() if index.find(node) is not None}


def _tightened(bound: Tolerance, margin: float) -> Tolerance:
    """A bound that a prediction must keep for the result to keep the one given."""
    if bound.metric in HIGHER_IS_BETTER:
        return replace(bound, bound=1.0 - (1.0 - bound.bound) / margin)
    return replace(bound, bound=bound.bound - abs(bound.bound) * (1.0 - 1.0 / margin))


def _may_raise(target: Target, made_up: bool) -> Callable[[GraphIndex, Region], bool]:
    """What can be put into FP32: for the target, and never a product on the word of made-up data alone."""

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
