"""What a search varies: which regions are above the low precision, on top of what rules and user decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from precision_planner.model import NodeId
from precision_planner.planning.search.cost import PlanCosts
from precision_planner.planning.search.evaluate import Decisions
from precision_planner.planning.search.noise import Atom
from precision_planner.planning.search.regions import Region
from precision_planner.typing import Decision

__all__ = ["Space", "State"]

_RAISED = Decision("fp32", "kept in FP32 by the search", keep_as="island")
_BRAIN = Decision("bf16", "kept in BF16 by the search")


@dataclass(frozen=True, slots=True)
class State:
    """One plan of the search: numbers of regions.

    Attributes:
      raised: in FP32.
      brain: in BF16.
      dropped: low, although rules would keep something in them.
    """

    raised: frozenset[int] = frozenset()
    brain: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()

    def raising(self, regions: frozenset[int]) -> State:
        """The same with more regions in FP32."""
        return replace(self, raised=self.raised | regions, brain=self.brain - regions, dropped=self.dropped - regions)

    def lowering(self, regions: frozenset[int], soft: frozenset[int]) -> State:
        """The same with regions low again; those of `soft` lose what rules kept in them."""
        return State(self.raised - regions, self.brain - regions, self.dropped | (regions & soft))

    @property
    def high(self) -> frozenset[int]:
        """The regions that the search itself keeps up."""
        return self.raised | self.brain


@dataclass(frozen=True)
class Space:
    """The regions and what may be done with each.

    Attributes:
      regions: in graph order.
      costs: of keeping them in FP32.
      base: what rules and user decided.
      fixed: nodes whose decision no search takes back: the user's, and those that a rule keeps from overflow.
      may_raise: whether a region can be put into FP32 for this target.
      brain_ok: whether a region can run in BF16 there.
      atoms: the roundings of decisions, by region.
    """

    regions: tuple[Region, ...]
    costs: PlanCosts
    base: Decisions
    fixed: frozenset[NodeId] = frozenset()
    may_raise: Callable[[Region], bool] = field(default=lambda region: True)
    brain_ok: Callable[[Region], bool] = field(default=lambda region: False)
    atoms: Callable[[Decisions], tuple[Atom, ...]] = field(default=lambda decisions: ())

    def decisions(self, state: State) -> dict[NodeId, Decision]:
        """What a state means, node by node."""
        found = dict(self.base)
        for number in state.dropped:
            for node in self.regions[number].nodes:
                if node not in self.fixed:
                    found.pop(node, None)
        for number in state.brain:
            found.update((node, _BRAIN) for node in self.regions[number].nodes if node not in self.fixed)
        for number in state.raised:
            found.update((node, _RAISED) for node in self.regions[number].nodes if node not in self.fixed)
        return found

    def kept(self, state: State) -> frozenset[int]:
        """The regions that are above the low precision and might not be."""
        return state.high | (self.soft - state.dropped)

    def cost(self, state: State) -> float:
        """Microseconds over a plan that keeps nothing high."""
        return self.costs_around(state).total()

    def costs_around(self, state: State) -> PlanCosts:
        """What plans cost that raise more than a state does."""
        return self.costs.within(self.kept(state) | (self.standing - state.dropped), state.brain)

    @property
    def raisable(self) -> tuple[int, ...]:
        """Regions that the search may put into FP32: nothing about them is fixed, and they are not there already."""
        return tuple(
            number
            for number, region in enumerate(self.regions)
            if not self.fixed.intersection(region.nodes) and not self._is_island(region) and self.may_raise(region)
        )

    @property
    def standing(self) -> frozenset[int]:
        """Regions that are wholly in FP32 by what rules and user decided."""
        return frozenset(number for number, region in enumerate(self.regions) if self._is_island(region))

    @property
    def soft(self) -> frozenset[int]:
        """Regions in which rules keep something that the search may take back. What costs nothing is left alone."""
        return frozenset(
            number
            for number, region in enumerate(self.regions)
            if any(self._costs(node) and node not in self.fixed for node in region.nodes)
        )

    def family(self, kinds: Sequence[str]) -> frozenset[int]:
        """The raisable regions of some kinds."""
        return frozenset(number for number in self.raisable if self.regions[number].kind in kinds)

    def _costs(self, node: NodeId) -> bool:
        decision = self.base.get(node)
        return decision is not None and decision.precision == "fp32" and decision.keep_as != "compute"

    def _is_island(self, region: Region) -> bool:
        return all(self._costs(node) for node in region.nodes)


def region_of(regions: Sequence[Region]) -> Mapping[NodeId, int]:
    """Node -> the number of its region."""
    return {node: number for number, region in enumerate(regions) for node in region.nodes}
