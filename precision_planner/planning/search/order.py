"""Which regions are raised for an expected error: a cheap cover, by the noise model alone.

Greedy takes the largest gain per cost first, of a region alone or together with what it needs. What greedy takes last
may be dearer than needed, so the end of its way is also tried with the cheapest single step to the goal, and what a
later step made unnecessary is taken back. All of this costs no simulation.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

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


class Cover:
    """Cheap sets of regions for any expected error.

    Args:
      space: of the search.
      model: expected errors.
      free: the regions that may be raised.
    """

    def __init__(self, space: Space, model: NoiseModel, free: Sequence[int]) -> None:
        self._space, self._model = space, model
        allowed = frozenset(free)
        offers = dict.fromkeys(frozenset({number}) for number in free)
        offers |= dict.fromkeys(frozenset({number, *(model.readers(number) & allowed)}) for number in free)
        offers |= dict.fromkeys(space.family(kinds) & allowed for kinds in FAMILIES)
        self._offers = [offer for offer in offers if offer]
        self._prefixes = self._greedy(allowed)

    def raised(self, energy: float) -> frozenset[int]:
        """A cheap set that brings the expected squared error down to `energy`; all that helps where none does."""
        reached = next((n for n, raised in enumerate(self._prefixes) if self._model.energy(raised) <= energy), None)
        if reached is None:
            return self._prefixes[-1]
        best = self._trimmed(self._prefixes[reached], energy)
        for raised in self._prefixes[max(0, reached - LOOK_BACK) : reached]:
            step = self._step(raised, energy, self._cost(best))
            if step is not None:
                best = min(
                    best, self._trimmed(raised | step, energy), key=lambda plan: (self._cost(plan), sorted(plan))
                )
        return best

    def _cost(self, regions: frozenset[int]) -> float:
        return sum(self._space.costs[number] for number in sorted(regions))

    def _step(self, raised: frozenset[int], energy: float, limit: float) -> frozenset[int] | None:
        """The cheapest single offer that reaches the goal for less than `limit` in all."""
        missing = self._model.energy(raised) - energy
        spent = self._cost(raised)
        found = None
        for offer in self._offers:
            cost = spent + self._cost(offer - raised)
            if cost < limit and self._model.saved(offer - raised, raised) >= missing:
                found, limit = offer, cost
        return found

    def _trimmed(self, raised: frozenset[int], energy: float) -> frozenset[int]:
        """Without what is not needed, the dearest first."""
        for number in sorted(raised, key=lambda number: (-self._space.costs[number], number)):
            if self._model.energy(raised - {number}) <= energy:
                raised -= {number}
        return raised

    def _greedy(self, allowed: frozenset[int]) -> list[frozenset[int]]:
        """Sets that grow by one offer at a time until everything that helps is raised."""
        near: dict[int, set[frozenset[int]]] = {}
        for offer in self._offers:
            for number in offer:
                for other in (number, *self._model.readers(number)):
                    near.setdefault(other, set()).add(offer)
        raised: frozenset[int] = frozenset()

        def worth(offer: frozenset[int]) -> float:
            left = offer - raised
            return self._model.saved(left, raised) / max(1e-9, self._cost(left))

        # an offer changes its worth when something around it is raised; the old entry stays in the heap, out of date
        version = dict.fromkeys(self._offers, 0)
        heap = [(-worth(offer), tuple(sorted(offer)), 0, offer) for offer in self._offers]
        heapq.heapify(heap)
        prefixes = [raised]
        while heap and raised != allowed:
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
