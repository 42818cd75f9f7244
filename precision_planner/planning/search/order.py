"""In which order regions are raised: the largest expected gain per cost first, alone or with what it needs."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from precision_planner.planning.search.noise import NoiseModel
from precision_planner.planning.search.states import Space

__all__ = ["FAMILIES", "order_regions"]

FAMILIES: tuple[tuple[str, ...], ...] = (
    ("softmax",),
    ("normalization",),
    ("residual",),
    ("residual", "normalization"),
    ("pointwise", "other"),
)
"""Kinds that may also be raised all at once: a stream that stays in FP32 gains what none of its parts gains alone."""


def order_regions(space: Space, model: NoiseModel, free: Sequence[int]) -> list[frozenset[int]]:
    """Steps that raise all of the free regions, one after the other.

    A step is a region, a region with those that read what it hands on, or a family. Greedy: after each step the gains
    of the regions around it are computed anew.

    Args:
      space: of the search.
      model: expected errors.
      free: the regions that may be raised.
    """
    allowed = frozenset(free)
    offers = dict.fromkeys(frozenset({number}) for number in free)
    offers |= dict.fromkeys(frozenset({number, *(model.readers(number) & allowed)}) for number in free)
    offers |= dict.fromkeys(space.family(kinds) & allowed for kinds in FAMILIES)
    near: dict[int, set[frozenset[int]]] = {}
    for offer in offers:
        for number in offer:
            for other in (number, *model.readers(number)):
                near.setdefault(other, set()).add(offer)
    raised: frozenset[int] = frozenset()

    def worth(offer: frozenset[int]) -> float:
        left = offer - raised
        return model.saved(left, raised) / max(1e-9, sum(space.costs[number] for number in left)) if left else 0.0

    # an offer changes its worth when something around it is raised; the old entry stays in the heap, out of date
    version = dict.fromkeys(offers, 0)
    heap = [(-worth(offer), tuple(sorted(offer)), 0, offer) for offer in offers if offer]
    heapq.heapify(heap)
    steps = []
    while heap and len(raised) < len(allowed):
        _, _, made, offer = heapq.heappop(heap)
        if made != version[offer] or not offer - raised:
            continue
        step = offer - raised
        steps.append(step)
        raised |= step
        affected = {found for number in step for found in near.get(number, ())}
        for changed in sorted(affected, key=sorted):
            if changed - raised:
                version[changed] += 1
                heapq.heappush(heap, (-worth(changed), tuple(sorted(changed)), version[changed], changed))
    return steps
