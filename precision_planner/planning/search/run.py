"""A whole search: regions, costs, evaluations, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from typing import Any

import numpy as np

from precision_planner.judging.judge import Judgement
from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.model.blocks import BlockChain, fetchable
from precision_planner.model.inputs import have_rows, input_specs
from precision_planner.planning.search.budget import DEFAULT_BUDGET, Clock
from precision_planner.planning.search.cost import CostModel, PlanCosts, plan_costs
from precision_planner.planning.search.evaluate import Batches, Candidate, Decisions, Evaluator, Question, Setting
from precision_planner.planning.search.noise import atoms_of
from precision_planner.planning.search.overflow import overflowing_nodes
from precision_planner.planning.search.regions import Region, find_regions
from precision_planner.planning.search.result import SearchReport, report_search
from precision_planner.planning.search.search import Found, search
from precision_planner.planning.search.states import Space, State, region_of
from precision_planner.planning.search.workers import Local, Workers, open_workers
from precision_planner.simulation.cutting import homes
from precision_planner.simulation.variants import Outputs
from precision_planner.targets import Target
from precision_planner.typing import Decision

__all__ = ["Judged", "SearchOptions", "find_plan", "judge_draft"]

SCREEN_ELEMENTS = 1 << 27
"""Values in a run that are enough to measure single roundings on: four rows of 128 tokens through BERT base."""


@dataclass(frozen=True)
class SearchOptions:
    """How a search runs.

    Attributes:
      clock: of the budget; one that other searches have used goes on.
      jobs: evaluations at once, each in a process of its own; 1 uses this process.
      scheduler: address of a dask scheduler, instead of processes.
      may_raise: whether a region, given the graph, should be put into FP32 for the target, while there is another way.
      progress: called with what is being done.
      exact: whether products in FP32 may run in FP32 where the setting allows TF32 too.
      margin: by how much the setting's bounds are tightened; a plan without that room is found where there is none
        with it.
    """

    clock: Clock = field(default_factory=lambda: Clock(DEFAULT_BUDGET))
    jobs: int = 1
    scheduler: str | None = None
    may_raise: Callable[[GraphIndex, Region], bool] = field(default=lambda index, region: True)
    progress: Callable[[str], None] | None = None
    exact: bool = True
    margin: float = 1.0


@dataclass(frozen=True)
class Judged:
    """What the rules' draft is worth.

    Attributes:
      judgement: of it.
      lowest: of the same with nothing kept that costs.
    """

    judgement: Judgement
    lowest: Judgement

    @property
    def rank(self) -> tuple[float, float]:
        """The better of two drafts has the smaller."""
        best = min((self.judgement, self.lowest), key=lambda found: (found.score, found.energy))
        return best.score, best.energy


def find_plan(
    model: Model,
    batches: Batches,
    base: Decisions,
    target: Target,
    setting: Setting,
    options: SearchOptions | None = None,
    *,
    references: Sequence[Outputs] | None = None,
    fixed: frozenset[NodeId] = frozenset(),
    guard: frozenset[NodeId] = frozenset(),
) -> SearchReport:
    """Search for a cheap plan of a model that meets a tolerance.

    Args:
      model: fused, in FP32, without local functions.
      batches: inputs to simulate on.
      base: what rules and user decided about its nodes.
      target: the build target.
      setting: types, semantics and tolerance.
      options: how to run it.
      references: what the model answers as it was given; None: what this one answers in FP32.
      fixed: nodes of whose decision nothing is taken back or added to.
      guard: nodes that are to stay in BF16 at least.
    """
    chosen = options or SearchOptions()
    shapes = measure_shapes(model, batches[0])
    screen = screening(model, batches, shapes)
    with Evaluator(model, batches, setting, screen=screen or None, references=references) as evaluator:
        index = evaluator.runner.index
        regions = all_regions(evaluator, base, fixed)

        in_brain = bf16_nodes(evaluator, base, regions) if target.has_bf16 else frozenset()

        def costs(tf32: bool) -> PlanCosts:
            return plan_costs(
                index, regions, shapes, CostModel(tf32, target.attention.fused, target.sandwich.convolutions)
            )

        space = Space(
            regions,
            costs(False),
            base,
            fixed,
            lambda region: chosen.may_raise(index, region),
            lambda region: target.has_bf16 and in_brain.issuperset(region.nodes),
            lambda candidate: atoms_of(
                evaluator.rounding(candidate),
                index,
                regions,
                tf32=bool(candidate.tf32 and setting.tf32),
                truncated=evaluator.truncated if candidate.tf32 else (),
            ),
            guard,
            costs(True) if setting.tf32 else None,
            chosen.exact or not setting.tf32,
            summing_low(evaluator, base),
        )
        numbers = region_of(regions)
        within = bodies(index)

        def find_overflow(candidate: Candidate) -> frozenset[int]:
            nodes = {node for batch in batches for node in overflowing_nodes(evaluator, candidate, batch)}
            inner = {node for holder in nodes for node in within.get(holder, ())}
            return frozenset(numbers[node] for node in nodes | inner if node in numbers)

        with open_workers(evaluator, batches, screen, jobs=chosen.jobs, scheduler=chosen.scheduler) as ask:
            found = _search(space, ask, chosen, find_overflow, evaluator)
        everything = costs(True).total(frozenset(range(len(regions))))
        return report_search(space, found, everything)


def judge_draft(
    model: Model, batches: Batches, references: Sequence[Outputs] | None, base: Decisions, setting: Setting
) -> Judged:
    """Evaluate what rules and user decided, and the same with nothing kept that costs; see `find_plan`."""
    lowest = {node: decision for node, decision in base.items() if decision.binding or decision.keep_as == "compute"}
    with Evaluator(model, batches, setting, references=references) as evaluator:
        return Judged(*(evaluator.answer(Question(Candidate(decisions))) for decisions in (base, lowest)))


def _search(
    space: Space,
    ask: Local | Workers,
    options: SearchOptions,
    find_overflow: Callable[[Candidate], frozenset[int]],
    evaluator: Evaluator,
) -> Found:
    """A plan whose quantile meets the tolerance, else whose prediction does; then with what should stay low, too."""
    restricted = space.raisable != space.liftable
    known: dict[State, Judgement] = {}
    likely = _Likely(space, evaluator)
    found: Found | None = None
    for whatever_helps in (False, True) if restricted else (True,):

        def once(limit: float, whatever_helps: bool = whatever_helps) -> Found:
            return search(
                space,
                ask,
                options.clock,
                limit=limit,
                whatever_helps=whatever_helps,
                known=known,
                find_overflow=find_overflow,
                progress=options.progress,
            )

        found = _with_room(once, likely, options)
        if found.passed or options.clock.stopped:
            return found
    assert found is not None
    return found


AIMS = 3
"""Searches, each for less error than the one before, that may be made for a plan whose quantile meets the tolerance."""

DRAFTED = (1.1, 2.0)
"""What the quantile of a plan by its prediction is expected to lie between, whatever that of the draft is."""


def _with_room(once: Callable[[float], Found], likely: _Likely, options: SearchOptions) -> Found:
    """Search for less error than the tolerance until the quantile of what is found meets it."""
    aim = 1.0 / likely.expected
    kept: Found | None = None
    for _ in range(AIMS):
        found = once(aim)
        if not found.passed:
            break
        score = likely.of(found.state)
        if score <= 1.0 or options.clock.ended:
            return replace(found, likely=score)
        if kept is None or score < (kept.likely or 0.0):
            kept = replace(found, likely=score)
        aim = min(0.9 * aim, 0.95 * found.judgement.score / score)
    if kept is not None:
        return kept
    for limit in (1.0, options.margin) if options.margin > 1.0 else (1.0,):
        found = once(limit)
        if found.passed or options.clock.stopped:
            return replace(found, likely=likely.of(found.state))
    return found


class _Likely:
    """The quantiles of plans, each computed once."""

    def __init__(self, space: Space, evaluator: Evaluator) -> None:
        self._space, self._evaluator = space, evaluator
        self._known: dict[State, float] = {}

    def of(self, state: State) -> float:
        """The score that a plan will hardly exceed on a device."""
        if state not in self._known:
            self._known[state] = self._evaluator.likely(self._space.candidate(state))
        return self._known[state]

    @property
    def expected(self) -> float:
        """Quantile by prediction, as the rules' draft has it."""
        draft = State(tf32=self._space.modes[0])
        score = self._evaluator.answer(Question(self._space.candidate(draft))).score
        ratio = self.of(draft) / score if score > 0.0 and isfinite(score) else DRAFTED[0]
        return min(max(ratio, DRAFTED[0]), DRAFTED[1])


def all_regions(evaluator: Evaluator, base: Decisions, fixed: Collection[NodeId] = ()) -> tuple[Region, ...]:
    """The regions of an evaluator's model: with all of them in FP32, nothing is low that a decision can change."""
    runner = evaluator.runner
    draft = evaluator.assign(base)
    regions = find_regions(runner.model, runner.index, evaluator.types, draft)
    raised = {node: Decision("fp32", "") for region in regions for node in region.nodes if node not in fixed}
    left = [
        node
        for node, typing in evaluator.assign({**base, **raised}).nodes.items()
        if typing.compute != "fp32" and not typing.forced and node not in raised and node not in fixed
    ]
    return regions if not left else find_regions(runner.model, runner.index, evaluator.types, draft, left)


def bodies(index: GraphIndex) -> dict[NodeId, frozenset[NodeId]]:
    """Nodes of the main graph that hold bodies -> every node inside."""
    found: dict[NodeId, frozenset[NodeId]] = {}
    for path, position in homes(index).items():
        holder = index.node_id(index.main, position)
        scope = index.by_path[path]
        inside = {index.node_id(scope, at) for at in range(len(scope.nodes))}
        found[holder] = found.get(holder, frozenset()) | inside
    return found


def screening(model: Model, batches: Batches, shapes: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Fewer rows of the batches, where a run of all of them makes more values than are needed; else nothing.

    Args:
      model: takes the batches.
      batches: all rows.
      shapes: of every value on the first batch.
    """
    total = sum(prod(shape) for shape in shapes.values())
    specs = input_specs(model)
    if total <= SCREEN_ELEMENTS or not have_rows(specs):
        return []
    rows = max(1, int(len(batches[0][specs[0].name]) * SCREEN_ELEMENTS / total))
    return [{name: array[:rows] for name, array in batch.items()} for batch in batches[:1]]


def measure_shapes(model: Model, batch: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, tuple[int, ...]]:
    """The shape of every value of the main graph on a batch, by running it once."""
    shapes = {name: tuple(array.shape) for name, array in batch.items()}
    with BlockChain(model, fetchable(model)) as chain:
        shapes.update((name, tuple(np.shape(value))) for name, value in chain.run(batch))
    return shapes


def bf16_nodes(evaluator: Evaluator, base: Decisions, regions: Sequence[Region]) -> frozenset[NodeId]:
    """The nodes that would compute in BF16 if everything were asked to: operator, opset and runtimes allow it."""
    asked = {node: Decision("bf16", "") for region in regions for node in region.nodes}
    assignment = evaluator.assign({**base, **asked})
    return frozenset(node for node, typing in assignment.nodes.items() if typing.compute == "bf16")


def summing_low(evaluator: Evaluator, base: Decisions) -> frozenset[NodeId]:
    """The products that sum in FP16 by the rules' draft or would if it kept nothing that costs."""
    if evaluator.setting.options.precision != "fp16":
        return frozenset()
    lowest = {node: decision for node, decision in base.items() if decision.binding or decision.keep_as == "compute"}
    places = evaluator.rounding(Candidate(lowest)).accumulated
    index = evaluator.runner.index
    return frozenset(index.node_id(index.by_path[path], position) for path, position in places)
