"""A whole search: regions, costs, evaluations, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.model.blocks import BlockChain, fetchable
from precision_planner.model.inputs import have_rows, input_specs
from precision_planner.planning.search.budget import DEFAULT_BUDGET, Clock
from precision_planner.planning.search.cost import CostModel, plan_costs
from precision_planner.planning.search.evaluate import Batches, Decisions, Evaluator, Setting
from precision_planner.planning.search.noise import atoms_of
from precision_planner.planning.search.overflow import overflowing_nodes
from precision_planner.planning.search.regions import Region, find_regions
from precision_planner.planning.search.result import SearchReport, report_search
from precision_planner.planning.search.search import search
from precision_planner.planning.search.states import Space, region_of
from precision_planner.planning.search.workers import open_workers
from precision_planner.rules.alternatives import runs_in_bf16
from precision_planner.targets import Target

__all__ = ["SearchOptions", "find_plan"]

SCREEN_ELEMENTS = 1 << 27
"""Values in a run that are enough to measure single roundings on: four rows of 128 tokens through BERT base."""


@dataclass(frozen=True)
class SearchOptions:
    """How a search runs.

    Attributes:
      clock: of the budget; one that other searches have used goes on.
      jobs: evaluations at once, each in a process of its own; 1 uses this process.
      scheduler: address of a dask scheduler, instead of processes.
      may_raise: whether a region, given the graph, can be put into FP32 for the target.
      progress: called with what is being done.
    """

    clock: Clock = field(default_factory=lambda: Clock(DEFAULT_BUDGET))
    jobs: int = 1
    scheduler: str | None = None
    may_raise: Callable[[GraphIndex, Region], bool] = field(default=lambda index, region: True)
    progress: Callable[[str], None] | None = None


def find_plan(
    model: Model,
    batches: Batches,
    base: Decisions,
    fixed: frozenset[NodeId],
    target: Target,
    setting: Setting,
    options: SearchOptions | None = None,
) -> SearchReport:
    """Search for a cheap plan of a model that meets a tolerance.

    Args:
      model: fused, in FP32, without local functions.
      batches: inputs to simulate on.
      base: what rules and user decided about its nodes.
      fixed: nodes of whose decision nothing is taken back or added to.
      target: the build target.
      setting: types, semantics and tolerance.
      options: how to run it.
    """
    chosen = options or SearchOptions()
    shapes = measure_shapes(model, batches[0])
    screen = screening(model, batches, shapes)
    with Evaluator(model, batches, setting, screen=screen or None) as evaluator:
        index = evaluator.runner.index
        regions = find_regions(evaluator.runner.model, index, evaluator.types, evaluator.assign(base))
        space = Space(
            regions,
            plan_costs(index, regions, shapes, CostModel(bool(setting.tf32), target.attention.fused)),
            base,
            fixed,
            lambda region: chosen.may_raise(index, region),
            lambda region: target.has_bf16 and _all_in_bf16(index, region),
            lambda decisions: atoms_of(
                evaluator.rounding(decisions),
                index,
                regions,
                tf32=bool(setting.tf32),
                truncated=evaluator.truncated,
            ),
        )
        numbers = region_of(regions)

        def find_overflow(decisions: Decisions) -> frozenset[int]:
            nodes = (node for batch in batches for node in overflowing_nodes(evaluator, decisions, batch))
            return frozenset(numbers[node] for node in nodes if node in numbers)

        with open_workers(evaluator, batches, screen, jobs=chosen.jobs, scheduler=chosen.scheduler) as ask:
            found = search(space, ask, chosen.clock, find_overflow=find_overflow, progress=chosen.progress)
        everything = plan_costs(index, regions, shapes, CostModel(True, target.attention.fused))
        return report_search(space, found, everything.total(frozenset(range(len(regions)))))


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


def _all_in_bf16(index: GraphIndex, region: Region) -> bool:
    places = [index.find(node) for node in region.nodes]
    return all(place is not None and runs_in_bf16(place[0].nodes[place[1]]) for place in places)
