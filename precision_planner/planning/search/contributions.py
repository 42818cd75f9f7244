"""Measuring what each region adds to the error, in as many evaluations as the budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from precision_planner.judging.judge import Judgement
from precision_planner.planning.search.budget import Clock
from precision_planner.planning.search.evaluate import Candidate, Question
from precision_planner.planning.search.noise import NOBODY, Atom, NoiseModel
from precision_planner.planning.search.states import Space

__all__ = ["Contributions", "measure_contributions"]

SHARE = 0.35
"""Of the budget: so much of it is used at this point at most."""

GROUPS = 24
"""Groups of neighbors that are measured first; those that matter are taken apart."""

MOST = 1e30
"""Stands for the energy of what is not finite, so that energies can be subtracted."""

NEGLIGIBLE = 0.01
"""Of the error that may stay: a group that adds less is not taken apart."""


@dataclass(frozen=True)
class Contributions:
    """What each region adds to the error.

    Attributes:
      model: the expected error of plans.
      measured: the regions that were measured by themselves; those of a group are bounded by the group's contribution.
      per_root: score for each square root of energy, from the plan that was simulated; None where its score says
        nothing about the error (a bound without any room, integers): then only simulation decides.
      simulated: energy of that plan; beside `model.total` it says how well contributions add up.
    """

    model: NoiseModel
    measured: frozenset[int]
    per_root: float | None
    simulated: float

    def expected(self, raised: Collection[int]) -> float:
        """The score that a plan is expected to have with these regions in FP32; 0 where nothing can be expected."""
        if self.per_root is None:
            return 0.0
        return self.per_root * math.sqrt(self.model.energy(frozenset(raised)))

    def energy_for(self, score: float) -> float:
        """The expected squared error at which a plan is expected to have a score."""
        if self.per_root is None:
            return self.model.total * score**2 / 2
        return (score / self.per_root) ** 2 if self.per_root else 0.0

    @property
    def additivity(self) -> float:
        """The sum of all contributions over what they make together; 1 where they add up."""
        return self.model.total / self.simulated if self.simulated else 1.0

    def share(self, region: int) -> float:
        """A region's part of the squared error, 0 to 1."""
        return self.model.of_region(region) / self.model.total if self.model.total else 0.0


def measure_contributions(
    space: Space,
    candidate: Candidate,
    regions: Sequence[int],
    simulated: Judgement,
    everything: Judgement,
    answer: Callable[[Sequence[Question]], Sequence[Judgement]],
    clock: Clock,
    allowed: float = 1.0,
) -> Contributions:
    """Measure the roundings of regions: of groups of neighbors first, then of parts of those that matter.

    A group's energy is shared evenly among its members, which is right on average; the group that adds most is taken
    apart first as long as there is room.

    Args:
      space: of the search.
      candidate: the plan whose roundings are measured.
      regions: those that may be raised.
      simulated: judgement of that plan.
      everything: judgement of the plan with all of them raised.
      answer: evaluates.
      clock: of the budget.
      allowed: score that the plan looked for may have.
    """
    wanted = frozenset(regions)
    all_atoms = space.atoms(candidate)
    atoms = [atom for atom in all_atoms if atom.region in wanted and not atom.added]
    added = [atom for atom in all_atoms if atom.added and atom.readers <= wanted]
    rest = tuple(atom for atom in all_atoms if atom.region not in wanted and not atom.added)
    room = max(2, min(GROUPS, clock.left(SHARE) - 1))
    size = max(1, math.ceil((len(atoms) + len(added)) / room))
    # what goes and what comes with raising share no group
    groups = [tuple(kind[at : at + size]) for kind in (atoms, added) for at in range(0, len(kind), size)]

    # an output counts by how much of its own bounds its error takes
    weights = {
        name: simulated.scores[name] ** 2 / energy
        for name, energy in simulated.energies.items()
        if energy and math.isfinite(energy) and math.isfinite(simulated.scores[name])
    }

    def weighed(found: Judgement) -> float:
        return min(MOST, math.fsum(found.energies[name] * weights.get(name, 1.0) for name in found.energies))

    def energies(parts: Sequence[tuple[Atom, ...]]) -> list[float]:
        return [weighed(found) for found in answer([Question(candidate, None, part) for part in parts])]

    found = dict(zip(groups, energies(groups), strict=True))
    # raising regions may change what nobody's roundings are: with all of them raised the error is known
    fixed = min(energies([rest])[0], weighed(everything)) if rest else 0.0
    energy = weighed(simulated)
    stays = energy * min(1.0, allowed / simulated.score) ** 2 if 0 < simulated.score < math.inf else energy
    while True:
        worth = [group for group in found if len(group) > 1 and found[group] > NEGLIGIBLE * stays]
        worth.sort(key=lambda group: -found[group])
        worth = worth[: clock.left(SHARE) // 2]
        if not worth:
            break
        halves = [half for group in worth for half in (group[: len(group) // 2], group[len(group) // 2 :])]
        for group in worth:
            del found[group]
        found.update(zip(halves, energies(halves), strict=True))
    single = {atom: energy / len(group) for group, energy in found.items() for atom in group}
    shared = {atom.region for group in found if len(group) > 1 for atom in group}
    # what no region of the search rounds stays, whatever is raised: an atom of no region
    every = [*single, Atom(NOBODY, False, (), ())]
    model = NoiseModel(every, [*single.values(), fixed], space.standing)
    root = math.sqrt(energy)
    # with one plan simulated, luck is in the ratio of score and error too; the metric and the norm are of one kind
    per_root = simulated.score / root if root and math.isfinite(simulated.score) else None
    return Contributions(model, wanted - shared, per_root, energy)
