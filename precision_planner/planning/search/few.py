"""Which subsets of a few regions are worth trying: by cost alone there are too many, by the error that is known few."""

from __future__ import annotations

from itertools import combinations

from precision_planner.planning.search.contributions import Contributions
from precision_planner.planning.search.states import Space, State

__all__ = ["FEW", "cheaper_choices"]

FEW = 12
"""Regions of which every subset is looked at: 4,096 costs."""

MOST = 256
"""Subsets that are named."""

WORTH = 0.95
"""Of the cost so far: what saves less is not tried."""


def cheaper_choices(space: Space, top: State, limit: float, contributions: Contributions | None) -> list[State]:
    """The subsets of FP32 regions that cost less than a plan that is known, the most promising first.

    Args:
      space: of the search.
      top: everything in FP32.
      limit: cost of the cheapest plan that is known to meet the tolerance.
      contributions: what each region adds to the error, where that was measured.
    """
    free = sorted(top.raised)
    if not free or len(free) > FEW:
        return []
    lower = top.lowering(frozenset(free) | space.soft, space.soft)
    found: list[tuple[float, float, State]] = []
    for size in range(len(free) + 1):
        for chosen in combinations(free, size):
            raised = frozenset(chosen)
            for summed in dict.fromkeys((frozenset(), space.summable - raised)):
                state = lower.raising(raised).summing(summed)
                cost = space.cost(state)
                if cost < WORTH * limit:
                    expected = contributions.expected(raised) if contributions is not None else -float(size)
                    found.append((expected, cost, state))
    found.sort(key=lambda entry: (entry[0], entry[1], sorted(entry[2].raised)))
    return [state for _, _, state in found[:MOST]]
