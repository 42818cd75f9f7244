"""Which regions are raised for an expected error: a cheap cover, by the noise model alone.

Greedy takes the largest gain per cost first, of a region alone or together with what it needs. What greedy takes last
may be dearer than needed, so the end of its way is also tried with the cheapest single step to the goal; and as it may
pay to go further (neighbors in FP32 need no Casts between them), so is what comes behind the goal. What a later step
made unnecessary is taken back, and what costs less high than low is raised. All of this costs no simulation.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from precision_planner.planning.search.cost import PlanCosts
from precision_planner.planning.search.noise import NoiseModel
from precision_planner.planning.search.states import Space

__all__ = ["FAMILIES", "Cover"]

FAMILIES: tuple[tuple[str, ...], ...] = (
    ("softmax",),
    ("normalization",),
    ("residual",),
    ("residual", "normalization"),
    ("pointwise", "other"),
)
"""Kinds that may also be raised all at once: a stream that stays in FP32 gains what none of its parts gains alone."""


LOOK_BACK = 32
"""Steps before the goal from which a direct step to it is tried."""

MOST_ROUNDS = 8
"""How often a plan is gone over for what should be taken back or raised besides; each time it gets cheaper."""

NOTHING = 1e-9
"""Microseconds that are no difference."""


class Cover:
    """Cheap sets of regions for any expected error.

    Args:
      space: of the search.
      model: expected errors.
      free: the regions that may be raised.
      costs: of raising them.
    """

    def __init__(self, space: Space, model: NoiseModel, free: Sequence[int], costs: PlanCosts) -> None:
        self._space, self._model, self._costs = space, model, costs
        self._allowed = frozenset(free)
        offers = dict.fromkeys(frozenset({number}) for number in free)
        offers |= dict.fromkeys(frozenset({number, *(model.readers(number) & self._allowed)}) for number in free)
        offers |= dict.fromkeys(space.family(kinds) & self._allowed for kinds in FAMILIES)
        self._offers = [offer for offer in offers if offer]
        self._prefixes = self._greedy()
        self._prices = [self._costs.total(raised) for raised in self._prefixes]
        self._energies = [self._model.energy(raised) for raised in self._prefixes]

    def raised(self, energy: float) -> frozenset[int]:
        """A cheap set that brings the expected squared error down to `energy`; the best there is where none does."""
        reaching = [n for n, found in enumerate(self._energies) if found <= energy]
        if not reaching:
            return self._prefixes[min(range(len(self._prefixes)), key=lambda n: (self._energies[n], n))]
        reached, further = reaching[0], min(reaching, key=lambda n: self._prices[n])
        plans = [self._polished(self._prefixes[n], energy) for n in dict.fromkeys((reached, further))]
        best = min(plans, key=self._rank)
        for raised in self._prefixes[max(0, reached - LOOK_BACK) : reached]:
            step = self._step(raised, energy, self._costs.total(best))
            if step is not None:
                best = min(best, self._polished(raised | step, energy), key=self._rank)
        return best

    def _rank(self, plan: frozenset[int]) -> tuple[float, list[int]]:
        return self._costs.total(plan), sorted(plan)

    def _step(self, raised: frozenset[int], energy: float, limit: float) -> frozenset[int] | None:
        """The cheapest single offer that reaches the goal for less than `limit` in all."""
        missing = self._model.energy(raised) - energy
        spent = self._costs.total(raised)
        found = None
        for offer in self._offers:
            cost = spent + self._costs.added(offer, raised)
            if cost < limit and self._model.saved(offer - raised, raised) >= missing:
                found, limit = offer, cost
        return found

    def _polished(self, raised: frozenset[int], energy: float) -> frozenset[int]:
        """Without what is not needed, the dearest first, and with what costs less high than low."""
        for _ in range(MOST_ROUNDS):
            before = raised
            for number in sorted(raised, key=lambda number: (-self._costs.regions[number], number)):
                lower = raised - {number}
                if self._costs.added(frozenset({number}), lower) >= 0 and self._model.energy(lower) <= energy:
                    raised = lower
            for number in sorted(self._allowed - raised):
                more = raised | {number}
                if self._costs.added(frozenset({number}), raised) < -NOTHING and self._model.energy(more) <= energy:
                    raised = more
            if raised == before:
                break
        return raised

    def _greedy(self) -> list[frozenset[int]]:
        """Sets that grow by one offer at a time until everything that helps is raised."""
        near: dict[int, set[frozenset[int]]] = {}
        for offer in self._offers:
            for number in offer:
                for other in (number, *self._model.readers(number), *self._costs.neighbors(number)):
                    near.setdefault(other, set()).add(offer)
        raised: frozenset[int] = frozenset()

        def worth(offer: frozenset[int]) -> float:
            left = offer - raised
            return self._model.saved(left, raised) / max(NOTHING, self._costs.added(left, raised))

        # an offer changes its worth when something around it is raised; the old entry stays in the heap, out of date
        version = dict.fromkeys(self._offers, 0)
        heap = [(-worth(offer), tuple(sorted(offer)), 0, offer) for offer in self._offers]
        heapq.heapify(heap)
        prefixes = [raised]
        while heap and raised != self._allowed:
            _, _, made, offer = heapq.heappop(heap)
            if made != version[offer] or offer <= raised:
                continue
            step = offer - raised
            raised |= step
            prefixes.append(raised)
            affected = {found for number in step for found in near.get(number, ())}
            for changed in sorted(affected, key=sorted):
                if not changed <= raised:
                    version[changed] += 1
                    heapq.heappush(heap, (-worth(changed), tuple(sorted(changed)), version[changed], changed))
        return prefixes
