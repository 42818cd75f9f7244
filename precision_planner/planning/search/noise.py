"""Where the error comes from: what each rounding alone does to the outputs, and what a plan's roundings do together.

Two simulations that differ in one region differ in all roundings behind it too, so their errors differ by luck, and
leaving out almost any region seems to take away, or to add, a large part of the error. What one rounding does *alone*,
everything else in FP32, is not a matter of luck, and independent roundings add up in the squared error. So
contributions are measured from the FP32 side, and a plan's expected error is the sum over its roundings.

A region's roundings are of two sorts. Its own (weights, what it reads from an FP32 value, values that stay inside, sums
in FP16) go where the region is in FP32. Those of the values that it hands on go where their readers are in FP32 too:
otherwise the Cast in front of a reader rounds them all the same.

What TF32 truncates comes instead of going: a product of two computed values that is raised takes those of its operands
truncated that are in FP32 themselves. Such an atom adds its error where the regions that it needs are all raised.
Truncation has a bias, so that of several products is more than the sum of squares; only a simulated plan shows it all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from precision_planner.model import GraphIndex
from precision_planner.operators import is_product
from precision_planner.planning.search.flow import Flow
from precision_planner.planning.search.regions import Region
from precision_planner.simulation.rounding import EdgeKey, NodeKey, RoundingPlan, ValueKey
from precision_planner.simulation.schemas import TF32_TRUNCATED

__all__ = ["NOBODY", "Atom", "NoiseModel", "atoms_of"]

NOBODY = -1
"""The region of roundings that nothing takes away."""


@dataclass(frozen=True, slots=True)
class Atom:
    """Roundings that go away together, or come together.

    Attributes:
      region: number of the region.
      handed_on: values that other regions read; else the region's own roundings.
      values: values rounded where they are made.
      edges: values and constants rounded where they are read.
      readers: the regions that read what is handed on; of what is added, all regions that have to be in FP32 for it.
      products: nodes that add up in FP16.
      added: operands that TF32 truncates, which comes with FP32 instead of going with it.
    """

    region: int
    handed_on: bool
    values: tuple[ValueKey, ...]
    edges: tuple[EdgeKey, ...]
    readers: frozenset[int] = frozenset()
    products: tuple[NodeKey, ...] = ()
    added: bool = False


def atoms_of(
    plan: RoundingPlan,
    index: GraphIndex,
    regions: Sequence[Region],
    *,
    tf32: bool = False,
    truncated: Collection[EdgeKey] = (),
) -> tuple[Atom, ...]:
    """The roundings of a plan, by region; those that nothing takes away are `NOBODY`'s.

    A value that was only moved belongs to the region that made it. What comes from constants or inputs through nodes
    that only move (an embedding's table) belongs to those that read it.

    Args:
      plan: of the graph, with everything low that the search may raise.
      index: of the graph.
      regions: of the graph.
      tf32: raised products use TF32.
      truncated: operands that it truncates where everything is in FP32.
    """
    flow = Flow(index, regions)
    own: dict[int, tuple[list[ValueKey], list[EdgeKey]]] = {}
    handed: dict[tuple[int, frozenset[int]], tuple[list[ValueKey], list[EdgeKey]]] = {}
    for key in plan.values:
        scope = index.by_path[key[0]]
        origin, readers = flow.origin(scope, key[1]), flow.readers(scope, key[1])
        if origin is not None and readers <= {origin} and not scope.is_output(key[1]):
            own.setdefault(origin, ([], []))[0].append(key)
        else:
            handed.setdefault(_holder(origin, readers), ([], []))[0].append(key)
    for edge in plan.edges:
        scope, node = index.by_path[edge[0]], index.by_path[edge[0]].nodes[edge[1]]
        number = flow.region(scope, edge[1])
        if tf32 and is_product(node):
            # TF32 rounds the operands of a raised product as FP16 does: nothing is gained there
            own.setdefault(NOBODY, ([], []))[1].append(edge)
        elif number is not None:
            own.setdefault(number, ([], []))[1].append(edge)
        else:
            readers = frozenset().union(*(flow.readers(scope, name) for name in node.output if name))
            handed.setdefault(_holder(None, readers), ([], []))[1].append(edge)
    products: dict[int, list[NodeKey]] = {}
    for product in plan.accumulated:
        number = flow.region(index.by_path[product[0]], product[1])
        home = NOBODY if number is None else number
        own.setdefault(home, ([], []))
        products.setdefault(home, []).append(product)
    found = [
        Atom(n, False, tuple(values), tuple(edges), products=tuple(products.get(n, ())))
        for n, (values, edges) in own.items()
    ]
    found += [Atom(n, True, tuple(values), tuple(edges), readers) for (n, readers), (values, edges) in handed.items()]
    found += _added(plan, index, flow, truncated)
    return tuple(sorted(found, key=lambda atom: (atom.region, atom.added, atom.handed_on, sorted(atom.readers))))


def _added(plan: RoundingPlan, index: GraphIndex, flow: Flow, truncated: Collection[EdgeKey]) -> list[Atom]:
    """The truncations of products that a plan has in 16 bits, or whose operands it has in 16 bits, which are exact."""
    found: dict[tuple[int, frozenset[int]], list[EdgeKey]] = {}
    for edge in truncated:
        scope, position = index.by_path[edge[0]], edge[1]
        node, number = scope.nodes[position], flow.region(scope, position)
        value = node.input[edge[2]]
        holder = index.resolve(scope, value)
        needed: set[int | None] = set()
        if (scope.path, node.output[0]) in plan.stored:
            needed.add(number)
        if holder is not None and (holder.path, value) in plan.stored:
            needed.add(flow.origin(holder, value))
        regions = frozenset(n for n in needed if n is not None)
        if number is not None and regions and None not in needed:  # else it is never truncated, or is so already
            found.setdefault((number, regions), []).append(edge)
    return [Atom(n, False, (), tuple(sorted(edges)), needed, added=True) for (n, needed), edges in found.items()]


def _holder(origin: int | None, readers: frozenset[int]) -> tuple[int, frozenset[int]]:
    """(region, other readers) of what is handed on; the first reader's where no region made it."""
    if origin is None:
        origin = min(readers, default=NOBODY)
    return origin, readers - {origin}


def restricted(plan: RoundingPlan, atoms: Iterable[Atom]) -> RoundingPlan:
    """A plan that rounds what some atoms round, and nothing else."""
    chosen = tuple(atoms)
    return RoundingPlan(
        {key: plan.values[key] for atom in chosen for key in atom.values},
        {key: TF32_TRUNCATED if atom.added else plan.edges[key] for atom in chosen for key in atom.edges},
        plan.weights,
        accumulated={key: plan.accumulated[key] for atom in chosen for key in atom.products},
    )


class NoiseModel:
    """The expected squared error of plans.

    Args:
      atoms: the roundings.
      energies: the squared error that each makes alone; see `Judgement.energy`.
      standing: regions that are in FP32 whatever is raised.
    """

    def __init__(
        self, atoms: Sequence[Atom], energies: Sequence[float], standing: frozenset[int] = frozenset()
    ) -> None:
        self._atoms = tuple(
            replace(atom, readers=atom.readers - standing) if standing & atom.readers else atom for atom in atoms
        )
        self._energies = tuple(energies)
        self._of: dict[int, list[int]] = {}
        for number, atom in enumerate(self._atoms):
            for region in {atom.region, *atom.readers}:
                self._of.setdefault(region, []).append(number)

    @property
    def total(self) -> float:
        """Of the plan that raises nothing."""
        return self.energy(frozenset())

    def energy(self, raised: frozenset[int]) -> float:
        """Of the plan with these regions in FP32."""
        return math.fsum(e for a, e in zip(self._atoms, self._energies, strict=True) if not _gone(a, raised))

    def saved(self, more: frozenset[int], raised: frozenset[int]) -> float:
        """What raising more regions takes away, on top of those raised, less what it adds."""
        after = raised | more
        touched = {number for region in more for number in self._of.get(region, ())}
        return math.fsum(
            self._energies[number] * (_gone(self._atoms[number], after) - _gone(self._atoms[number], raised))
            for number in sorted(touched)
        )

    def readers(self, region: int) -> frozenset[int]:
        """The regions that read what a region hands on."""
        return frozenset().union(*(self._atoms[n].readers for n in self._made_by(region)))

    def of_region(self, region: int) -> float:
        """The energies of a region's atoms."""
        return math.fsum(self._energies[n] for n in self._made_by(region))

    def _made_by(self, region: int) -> list[int]:
        found = [(n, self._atoms[n]) for n in self._of.get(region, ())]
        return [n for n, atom in found if atom.region == region and not atom.added]


def _gone(atom: Atom, raised: frozenset[int]) -> bool:
    if atom.added:
        return not atom.readers <= raised
    return atom.region in raised and (not atom.handed_on or atom.readers <= raised)
