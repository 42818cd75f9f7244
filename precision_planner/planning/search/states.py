"""What a search varies: in which precision each region runs, on top of what rules and user decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from precision_planner.model import NodeId
from precision_planner.planning.search.cost import PlanCosts
from precision_planner.planning.search.evaluate import Candidate, Decisions
from precision_planner.planning.search.noise import Atom
from precision_planner.planning.search.regions import Region
from precision_planner.typing import Decision

__all__ = ["Space", "State"]

_RAISED = Decision("fp32", "kept in FP32 by the search", keep_as="island")
_BRAIN = Decision("bf16", "kept in BF16 by the search")
_SUMMED = Decision("fp16+", "summed in FP32 by the search")


@dataclass(frozen=True, slots=True)
class State:
    """One plan of the search: numbers of regions. A region in none of the sets is as the rules' draft has it.

    Attributes:
      raised: in FP32.
      brain: in BF16.
      dropped: low, although rules would keep something in them.
      tf32: products in FP32 take their operands in TF32.
      summed: in FP16, with the sums of their products in FP32.
    """

    raised: frozenset[int] = frozenset()
    brain: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()
    tf32: bool = False
    summed: frozenset[int] = frozenset()

    def raising(self, regions: frozenset[int]) -> State:
        """The same with more regions in FP32."""
        return replace(self._without(regions), raised=self.raised | regions)

    def softening(self, regions: frozenset[int]) -> State:
        """The same with regions in BF16."""
        return replace(self._without(regions), brain=self.brain | regions)

    def lowering(self, regions: frozenset[int], soft: frozenset[int]) -> State:
        """The same with regions low again; those of `soft` lose what rules kept in them."""
        return replace(self._without(regions), dropped=self.dropped | (regions & soft))

    def summing(self, regions: frozenset[int]) -> State:
        """The same with the sums of regions that are low in FP32."""
        return replace(self, summed=self.summed | (regions - self.high))

    def _without(self, regions: frozenset[int]) -> State:
        return State(
            self.raised - regions, self.brain - regions, self.dropped - regions, self.tf32, self.summed - regions
        )

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
      fixed: nodes whose decision is the user's: no search changes it.
      guard: nodes that rules keep from the edge of the range, by the user's headroom: FP32 or BF16, never lower.
      may_raise: whether a region should be put into FP32 for this target, while there is another way.
      brain_ok: whether a region can run in BF16 there.
      atoms: the roundings of a plan, by region.
      tf32_costs: as `costs`, where products in FP32 run in TF32; None where that may not be.
      exact: whether products in FP32 may run in FP32.
      products: nodes that sum in FP16 and can be told to sum in FP32.
    """

    regions: tuple[Region, ...]
    costs: PlanCosts
    base: Decisions
    fixed: frozenset[NodeId] = frozenset()
    may_raise: Callable[[Region], bool] = field(default=lambda region: True)
    brain_ok: Callable[[Region], bool] = field(default=lambda region: False)
    atoms: Callable[[Candidate], tuple[Atom, ...]] = field(default=lambda candidate: ())
    guard: frozenset[NodeId] = frozenset()
    tf32_costs: PlanCosts | None = None
    exact: bool = True
    products: frozenset[NodeId] = frozenset()

    @property
    def modes(self) -> tuple[bool, ...]:
        """Whether products in FP32 run in TF32: the values that may be, the cheaper first."""
        return ((True,) if self.tf32_costs is not None else ()) + ((False,) if self.exact else ())

    def candidate(self, state: State) -> Candidate:
        """What a state means, node by node."""
        found = dict(self.base)
        for number in state.dropped:
            for node in self.regions[number].nodes:
                if self._costs(node) and node not in self.fixed and node not in self.guard:
                    del found[node]
        for number in state.summed:
            nodes = self.products.intersection(self.regions[number].nodes)
            found.update((node, _SUMMED) for node in sorted(nodes) if node not in self.fixed and node not in found)
        for number in state.brain:
            found.update((node, _BRAIN) for node in self.regions[number].nodes if node not in self.fixed)
        for number in state.raised:
            found.update((node, _RAISED) for node in self.regions[number].nodes if self._is_open(node))
        return Candidate(found, state.tf32)

    def kept(self, state: State) -> frozenset[int]:
        """The regions that are above the low precision and might not be."""
        return state.high | (self.soft - state.dropped)

    def cost(self, state: State) -> float:
        """Microseconds over a plan that keeps nothing high."""
        return self.costs_around(state).total()

    def costs_around(self, state: State) -> PlanCosts:
        """What plans cost that raise more than a state does."""
        costs = self.tf32_costs if state.tf32 and self.tf32_costs is not None else self.costs
        return costs.within(
            self.kept(state) | (self.standing - state.dropped) | self.guarded, state.brain, state.summed
        )

    @property
    def raisable(self) -> tuple[int, ...]:
        """Regions that should go into FP32 where it helps; see `may_raise`."""
        return tuple(number for number in self.liftable if self.may_raise(self.regions[number]))

    @property
    def liftable(self) -> tuple[int, ...]:
        """Regions of which something is not in FP32 already and not the user's decision."""
        return tuple(number for number, region in enumerate(self.regions) if any(map(self._is_open, region.nodes)))

    @property
    def standing(self) -> frozenset[int]:
        """Regions that are wholly in FP32 by what rules and user decided."""
        return frozenset(number for number, region in enumerate(self.regions) if all(map(self._costs, region.nodes)))

    @property
    def guarded(self) -> frozenset[int]:
        """Regions that hold something in FP32 that the search must leave there, or in BF16."""
        return frozenset(
            number
            for number, region in enumerate(self.regions)
            if any(self._costs(node) and (node in self.guard or node in self.fixed) for node in region.nodes)
        )

    @property
    def summable(self) -> frozenset[int]:
        """Regions whose sums can be told to be in FP32."""
        return frozenset(n for n, region in enumerate(self.regions) if not self.products.isdisjoint(region.nodes))

    @property
    def soft(self) -> frozenset[int]:
        """Regions in which rules keep something that the search may take back. What costs nothing is left alone."""
        return frozenset(
            number
            for number, region in enumerate(self.regions)
            if any(self._costs(node) and node not in self.fixed and node not in self.guard for node in region.nodes)
        )

    def family(self, kinds: Sequence[str]) -> frozenset[int]:
        """The raisable regions of some kinds."""
        return frozenset(number for number in self.raisable if self.regions[number].kind in kinds)

    def _is_open(self, node: NodeId) -> bool:
        return node not in self.fixed and not self._costs(node)

    def _costs(self, node: NodeId) -> bool:
        decision = self.base.get(node)
        return decision is not None and decision.precision == "fp32" and decision.keep_as != "compute"


def region_of(regions: Sequence[Region]) -> Mapping[NodeId, int]:
    """Node -> the number of its region."""
    return {node: number for number, region in enumerate(regions) for node in region.nodes}
