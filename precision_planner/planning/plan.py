"""`plan`: request, ground, draft, variants, search, choice."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from precision_planner.judging.judge import Tolerance
from precision_planner.judging.tolerance import check_metrics, guarded, parse_tolerances
from precision_planner.model.sources import InputSource, ModelSource
from precision_planner.planning.finishing import Finished, PlannedModel, finish, with_layernorms
from precision_planner.planning.ground import Ground, lay_ground
from precision_planner.planning.profiles import Shapes
from precision_planner.planning.request import Aim, Asked, Profiles, Request, SearchRequest
from precision_planner.planning.search import Clock, OwnMetric, parse_budget
from precision_planner.planning.searching import Searched, look_at, search_draft
from precision_planner.planning.variants import Draft, Variant, as_given, draft, in_types_of, without_repairs
from precision_planner.planning.weak import is_cheaper, layernorms, left_to_gain, with_norms
from precision_planner.rewriting.options import selectors_about
from precision_planner.targets import DEFAULT_TARGET, get_target

__all__ = ["plan"]

ALIKE = 1.05
"""Predictions that differ by less do not say whether a repair helps."""

ROUGHLY = {"rel_l2": 0.05}
"""What is asked of a plan without a tolerance whose outputs the rules alone do not keep finite."""

Say = Callable[[str], None]


def plan(
    source: ModelSource,
    *,
    target: str = DEFAULT_TARGET,
    precision: str = "fp16",
    inputs: InputSource = None,
    tolerance: Mapping[str, float] | Iterable[str | Tolerance] | None = None,
    headroom: float = 4.0,
    policy: str = "auto",
    rules: Sequence[str | os.PathLike[str]] = (),
    only: Sequence[str] = (),
    disable: Sequence[str] = (),
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
    build: Mapping[str, Any] | None = None,
    calibrate: bool = True,
    surgery: str | None = None,
    fuse: Sequence[str] = ("layernorm",),
    verify: bool = True,
    budget: str | int | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    metrics: Mapping[str, OwnMetric] | None = None,
    stop: Callable[[], bool] | None = None,
    without: Sequence[str] = (),
    hold_low: bool = False,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> PlannedModel:
    """Decide the precision of a model for one build target, and predict the result.

    Calibrates on the inputs, asks the rules, applies their repairs, searches for what else the tolerance needs (and
    what it does not need), types the graph, and simulates what comes out against the FP32 model.

    Args:
      source: a path, a ModelProto or a `Model`.
      target: see `precision_planner.targets.TARGETS`.
      precision: "fp16" or "bf16".
      inputs: as `planner --inputs`, arrays by name, or None: synthesized.
      tolerance: {"sad": 1e-3}, or the command's ``[OUTPUT:]METRIC=VALUE`` strings.
      headroom: keep what comes closer to the largest finite value than this factor.
      policy: "auto"; "rules" and "torch-amp" do not search.
      rules: folders of further rules.
      only: ids or tags of the only rules asked.
      disable: ids or tags of rules not asked.
      min_shapes: input -> smallest shape of the optimization profile.
      opt_shapes: input -> usual shape.
      max_shapes: input -> longest shape.
      build: builder settings that replace the defaults: tf32, workspace_bytes, optimization_level, ...
      calibrate: measure activation ranges (needs onnxruntime); without, only what holds without data is decided.
      surgery: "FILE.py[:FUNCTION]", run first.
      fuse: pattern kinds that become one node.
      verify: run the fused and the typed model in onnxruntime.
      budget: of the search, where there is a tolerance to meet: evaluations (400 by default) or seconds ("90s").
      jobs: evaluations at once, in processes of their own.
      scheduler: address of a dask scheduler whose workers evaluate.
      metrics: one's own metrics for tolerances, name -> function of (reference, candidate) arrays; larger is worse.
      stop: asked before each evaluation; True ends the search with the best plan so far, as KeyboardInterrupt does.
      without: repairs that are not applied (`planner rules` names them). Others are only where the simulation with
        them is no worse than the one without.
      hold_low: constrain the layers in the low precision, too, for a weakly typed target: the engine is then what the
        plan says also where the builder finds another type faster.
      progress: called with what is being done.
      options: those of `rewrite`: keep_fp32, keep_bf16, only_low, keep_as, io_types, int32_inputs, weights, plugins.

    Raises:
      TargetError: no such target, or one that cannot express the precision.
      PlanError: shapes that do not fit.
    """
    chosen, bounds = get_target(target), tuple(parse_tolerances(tolerance))
    own = guarded(metrics)
    check_metrics(bounds, own)
    layernorm = str(options.pop("layernorm", "onnx"))
    request = Request(
        Aim(chosen, precision, bounds, own),
        Asked(policy, headroom, tuple(rules), tuple(only), tuple(disable), tuple(without)),
        SearchRequest(Clock(parse_budget(budget), stop), jobs, scheduler),
        tuple(fuse),
        options,
        dict(build or {}),
        Profiles(min_shapes, opt_shapes, max_shapes),
        calibrate,
        verify,
        hold_low,
        layernorm,
    )
    say = progress or (lambda text: None)
    ground = lay_ground(source, request, inputs, surgery)
    options = selectors_about(options, ground.whole or ground.model, ground.model)
    request = replace(request, rewriting=options)
    say("measuring activations" if calibrate and not ground.obstacle else "reading weights")
    first = draft(ground, request, Variant(fuse=request.fuse, options=options))
    if request.searches and not ground.obstacle:
        return with_layernorms(_searched(first, ground, request, say), layernorm)
    return with_layernorms(_by_rules(first, ground, request, say), layernorm)


def _by_rules(first: Draft, ground: Ground, request: Request, say: Say) -> PlannedModel:
    """The draft of the rules, with those of its repairs that do not make the prediction worse."""
    best, kept = first, _finished(first, ground, request, say)
    for variant in without_repairs(first) if not ground.obstacle else ():
        other = draft(ground, request, variant, first.choice.measured)
        finished = _finished(other, ground, request, say)
        is_needed = kept.planned.passed is False and bool(finished.planned.passed)
        # in the same types: what rules keep instead of a repair makes less error, and costs more
        harms = _finished(in_types_of(first, other), ground, request, say).worst * ALIKE < kept.worst
        if is_needed or harms:
            best, kept = other, finished
    if kept.mixed and _has_fused_norms(best, ground, request):
        kept = _finished(_decomposed(best, ground, request), ground, request, say)
    if math.isinf(kept.worst) and request.rules.policy == "auto" and not ground.model.proto.functions:
        return _finite(first, ground, request, say)
    return kept.planned


def _finite(first: Draft, ground: Ground, request: Request, say: Say) -> PlannedModel:
    """Without a tolerance too, what is finite in FP32 is to stay finite: the cheapest plan that is roughly right."""
    aimed = replace(request, aim=replace(request.aim, bounds=tuple(parse_tolerances(ROUGHLY))))
    planned = _searched(first, ground, aimed, say)
    return replace(planned, plan=replace(planned.plan, tolerance=(), passed=None))


def _finished(drafted: Draft, ground: Ground, request: Request, say: Say) -> Finished:
    return finish(drafted, ground, request, drafted.choice.decisions, tf32=request.tf32[0], progress=say)


def _searched(first: Draft, ground: Ground, request: Request, say: Say) -> PlannedModel:
    """The cheapest plan that was found to meet the tolerance; where none does, the one with the least error."""
    tried: list[Finished] = []
    for drafted in _promising_first(first, ground, request, say):
        tried.append(_carried_out(search_draft(drafted, ground, request, say), ground, request, say))
        if tried[-1].planned.passed or request.search.clock.stopped:
            return min(tried, key=_rank).planned
    if first.variant.fuse:
        # the last resort is the model as it is: a fused LayerNormalization sums in another order
        plain = draft(ground, request, as_given(first.variant), first.choice.measured)
        tried.append(_first_that_holds(search_draft(plain, ground, request, say), ground, request, say))
    return min(tried, key=_rank).planned


def _promising_first(first: Draft, ground: Ground, request: Request, say: Say) -> list[Draft]:
    """The draft and those without its repairs, the ones first that do better by themselves."""
    variants = without_repairs(first)
    if not variants:
        return [first]
    say("what the repairs are worth")
    drafts = [first, *(draft(ground, request, variant, first.choice.measured) for variant in variants)]
    alike = [first, *(in_types_of(first, drafted) for drafted in drafts[1:])]
    ranks = [look_at(drafted, ground, request).rank for drafted in alike]
    return [drafts[number] for number in sorted(range(len(drafts)), key=lambda number: (ranks[number], number))]


def _carried_out(searched: Searched, ground: Ground, request: Request, say: Say) -> Finished:
    """The plan of a search, or the next dearer one where it does not hold on all the data."""
    found = _first_that_holds(searched, ground, request, say)
    drafted = searched.draft
    if not _has_fused_norms(drafted, ground, request):
        return found
    gain = not request.search.clock.ended and left_to_gain(searched.report.data)
    if found.mixed or gain:
        other = search_draft(_decomposed(drafted, ground, request), ground, request, say)
        decomposed = _first_that_holds(other, ground, request, say)
        better = decomposed.planned.passed and is_cheaper(other.report.data, searched.report.data)
        if found.mixed or better or not found.planned.passed:
            return decomposed
    return found


def _has_fused_norms(drafted: Draft, ground: Ground, request: Request) -> bool:
    """Whether there are LayerNormalizations that might be decomposed, for a target where that makes a difference."""
    if request.aim.target.norm_beside_fp32 or not drafted.variant.fuse or request.layernorm != "onnx":
        return False
    return layernorms(drafted.rewritten(request.aim).fused) > layernorms(ground.model)


def _first_that_holds(searched: Searched, ground: Ground, request: Request, say: Say) -> Finished:
    """The first of a search's plans that holds on all the data: by its quantile if the search found that it does."""
    tried: list[Finished] = []
    for decisions, found in searched.plans:
        tried.append(
            finish(searched.draft, ground, request, decisions, tf32=found.tf32, search=found.data, progress=say)
        )
        plan = tried[-1].planned.plan
        if plan.passed and (plan.distribution.get("passed") is not False or not searched.report.is_likely):
            return tried[-1]
    return next((one for one in tried if one.planned.passed), None) or min(tried, key=_rank)


def _decomposed(drafted: Draft, ground: Ground, request: Request) -> Draft:
    """The same with LayerNormalizations as their parts, in FP32."""
    options = {**request.rewriting, "keep_as": "island", "keep_fp32": with_norms(request.rewriting)}
    variant = replace(drafted.variant, fuse=(), options=options)
    return draft(ground, request, variant, None)


def _rank(finished: Finished) -> tuple[bool, float]:
    planned = finished.planned
    return not planned.passed, finished.worst
