"""The search: contributions that add up, plans that meet what was asked, and what ends it early."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precision_planner.errors import PlanError
from precision_planner.model import NodeId
from precision_planner.planning.search import (
    Budget,
    Judgement,
    PlanCosts,
    Region,
    Seam,
    Space,
    State,
    parse_budget,
    search,
)
from precision_planner.planning.search.budget import Clock, Stopped
from precision_planner.planning.search.evaluate import Question
from precision_planner.planning.search.noise import Atom, NoiseModel
from precision_planner.typing import Decision

ORACLE_REGIONS = 7


class World:
    """Regions in a chain, each with a known own error and one that goes only where its reader is raised too.

    The truth that the search has to find out; `answers` counts what it asked.
    """

    def __init__(
        self,
        own: Sequence[float],
        handed: Sequence[float],
        costs: Sequence[float],
        bound: float,
        casts: Sequence[float] = (),
    ) -> None:
        self.own, self.handed, self.bound = own, handed, bound
        count = len(own)
        self.regions = tuple(Region(f"r{n}", "other", (NodeId((), f"v{n}"),)) for n in range(count))
        atoms = []
        for number in range(count):
            atoms.append(Atom(number, False, ((("own",), str(number)),), ()))
            readers = frozenset({number + 1}) if number + 1 < count else frozenset()
            atoms.append(Atom(number, True, ((("out",), str(number)),), (), readers))
        self.atoms = tuple(atoms)
        seams = [Seam(number, frozenset({number + 1}), us) for number, us in enumerate(casts)]
        self.space = Space(self.regions, PlanCosts(costs, seams), {}, atoms=lambda candidate: self.atoms)
        self.answers = 0

    def energy(self, raised: frozenset[int]) -> float:
        total = 0.0
        for number in range(len(self.own)):
            if number not in raised:
                total += self.own[number] + self.handed[number]
            elif number + 1 < len(self.own) and number + 1 not in raised:
                total += self.handed[number]
        return total

    def __call__(self, questions: Sequence[Question]) -> list[Judgement]:
        return [self.answer(question) for question in questions]

    def answer(self, question: Question) -> Judgement:
        self.answers += 1
        if question.only is not None:
            found = sum((self.handed if atom.handed_on else self.own)[atom.region] for atom in question.only)
        else:
            raised = {int(node.output[1:]) for node, d in question.candidate.decisions.items() if d.precision == "fp32"}
            found = self.energy(frozenset(raised))
        error = math.sqrt(found)
        return Judgement(error / self.bound, {"y": found}, {"y:sad": error}, {"y": error / self.bound})

    def cheapest(self) -> float:
        """By trying every plan there is."""
        numbers = range(len(self.own))
        plans = itertools.chain.from_iterable(
            itertools.combinations(numbers, size) for size in range(len(self.own) + 1)
        )
        return min(
            self.space.cost(State(frozenset(plan)))
            for plan in plans
            if math.sqrt(self.energy(frozenset(plan))) <= self.bound
        )


errors = st.lists(st.floats(0.0, 1.0), min_size=ORACLE_REGIONS, max_size=ORACLE_REGIONS)
prices = st.lists(st.floats(0.5, 20.0), min_size=ORACLE_REGIONS, max_size=ORACLE_REGIONS)


@pytest.mark.slow
@given(errors, errors, prices, st.floats(0.05, 1.5))
@settings(max_examples=150, deadline=None)
def test_a_plan_meets_the_tolerance_and_costs_little_more_than_the_cheapest(own, handed, costs, bound) -> None:
    world = World(own, handed, costs, bound)
    found = search(world.space, world, Clock(Budget(1000)))
    assert found.passed
    assert math.sqrt(world.energy(found.state.raised)) <= bound * (1 + 1e-9)
    # nothing that is kept can be left out, and greedy stays near what trying all 128 plans finds
    for number in found.state.raised:
        assert math.sqrt(world.energy(found.state.raised - {number})) > bound
        assert number in found.without
    assert world.space.cost(found.state) <= 2 * world.cheapest() + 1e-9


@pytest.mark.slow
@given(errors, errors, prices, st.floats(0.05, 1.5), st.lists(st.floats(0.0, 30.0), max_size=ORACLE_REGIONS - 1))
@settings(max_examples=150, deadline=None)
def test_what_casts_between_regions_cost_is_reckoned_with(own, handed, costs, bound, casts) -> None:
    world = World(own, handed, costs, bound, casts)
    found = search(world.space, world, Clock(Budget(1000)))
    assert found.passed
    assert math.sqrt(world.energy(found.state.raised)) <= bound * (1 + 1e-9)
    for number in found.state.raised:  # without it the bound is missed, or the plan costs more
        less = found.state.raised - {number}
        assert math.sqrt(world.energy(less)) > bound or world.space.cost(State(less)) > world.space.cost(found.state)
    assert world.space.cost(found.state) <= 2 * world.cheapest() + 1e-9


def test_a_region_between_two_high_ones_stays_high_where_casts_would_cost_more() -> None:
    world = World([1.0, 0.0, 1.0], [0.0] * 3, [1.0, 5.0, 1.0], 0.5, casts=[4.0, 4.0])
    assert search(world.space, world, Clock(Budget(100))).state.raised == {0, 1, 2}
    cheap = World([1.0, 0.0, 1.0], [0.0] * 3, [1.0, 5.0, 1.0], 0.5, casts=[2.0, 2.0])
    assert search(cheap.space, cheap, Clock(Budget(100))).state.raised == {0, 2}


region_sets = st.frozensets(st.integers(0, ORACLE_REGIONS - 1))


@given(
    prices,
    st.lists(st.tuples(st.integers(0, 6), region_sets, st.floats(0.0, 9.0)), max_size=6),
    region_sets,
    region_sets,
    region_sets,
    region_sets,
)
def test_costs_are_those_of_the_regions_and_of_the_seams_on_which_the_type_changes(
    own, seams, standing, brain, raised, more
) -> None:
    costs = PlanCosts(own, [Seam(maker, readers - {maker}, us) for maker, readers, us in seams], standing, brain)

    def level(number: int, plan: frozenset[int]) -> str:
        return "bf16" if number in brain else "fp32" if number in plan | standing else "fp16"

    def brute(plan: frozenset[int]) -> float:
        total = sum(us for number, us in enumerate(own) if level(number, plan) == "fp32")
        for maker, readers, us in seams:
            if {level(reader, plan) for reader in readers - {maker}} - {level(maker, plan)}:
                total += us
        return total

    assert costs.total(raised) == pytest.approx(brute(raised))
    assert costs.added(more, raised) == pytest.approx(brute(raised | more) - brute(raised), abs=1e-9)


@pytest.mark.slow
@given(errors, errors, prices, st.floats(0.05, 1.5), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_budget_is_kept_and_the_best_plan_so_far_comes_out(own, handed, costs, bound, evaluations) -> None:
    world = World(own, handed, costs, bound)
    found = search(world.space, world, Clock(Budget(evaluations)))
    # what is lowest, the draft and everything in FP32 are judged whatever the budget says
    assert world.answers == found.evaluations <= max(3, evaluations)
    assert found.judgement.energy == pytest.approx(world.energy(found.state.raised))
    again = search(world.space, World(own, handed, costs, bound), Clock(Budget(evaluations)))
    assert again.state == found.state, "the same budget in evaluations gives the same plan"


def test_within_tolerance_nothing_is_raised_and_one_evaluation_is_made() -> None:
    world = World([1e-8] * 3, [1e-8] * 3, [1.0] * 3, 1.0)
    found = search(world.space, world, Clock(Budget(100)))
    assert (found.state, found.evaluations, found.stopped) == (State(), 1, "")


def test_two_regions_that_help_only_together_are_raised_together() -> None:
    """All error is in the value between them: neither alone takes anything away."""
    world = World([0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0], 0.5)
    assert search(world.space, world, Clock(Budget(100))).state.raised == {1, 2}


def test_what_rules_keep_without_need_is_given_back_unless_it_is_binding() -> None:
    world = World([0.0] * 3, [0.0] * 3, [1.0] * 3, 1.0)
    nodes = [region.nodes[0] for region in world.regions]
    base = {nodes[0]: Decision("fp32", "rule", "XX001"), nodes[1]: Decision("fp32", "rule", "XX002", binding=True)}
    space = Space(world.regions, world.space.costs, base, frozenset({nodes[1]}))
    found = search(space, world, Clock(Budget(100)))
    assert found.state.dropped == {0}
    assert space.candidate(found.state).decisions == {nodes[1]: base[nodes[1]]}


def test_what_overflows_goes_to_bf16_where_it_can_and_to_fp32_where_it_cannot() -> None:
    regions = tuple(Region(f"r{n}", "gemm", (NodeId((), f"v{n}"),)) for n in range(3))
    space = Space(regions, PlanCosts([1.0] * 3), {}, brain_ok=lambda region: region.name == "r0")

    def answer(questions: Sequence[Question]) -> list[Judgement]:
        found = []
        for question in questions:
            fine = {int(node.output[1:]) for node in question.candidate.decisions} >= {0, 1}
            found.append(Judgement(0.5 if fine else math.inf, {"y": 0.1}, {}, {"y": 0.5}, fine))
        return found

    found = search(space, answer, Clock(Budget(50)), find_overflow=lambda candidate: frozenset({0, 1}))
    assert found.state == State(frozenset({1}), frozenset({0}))
    assert found.without[1].score == math.inf


def test_an_interrupt_returns_the_best_so_far() -> None:
    world = World([0.5] * 4, [0.1] * 4, [1.0] * 4, 0.2)

    def answer(questions: Sequence[Question]) -> list[Judgement]:
        if world.answers == 6:
            raise KeyboardInterrupt
        return world(questions)

    found = search(world.space, answer, Clock(Budget(100)))
    assert found.stopped == "interrupted"
    assert found.judgement.passed, "everything in FP32 is evaluated first, so that there is something to return"
    asked = iter([False] * 4)  # not asked before the first, which is always made
    stopped = search(
        world.space, World([0.5] * 4, [0.1] * 4, [1.0] * 4, 0.2), Clock(Budget(9), lambda: next(asked, True))
    )
    assert (stopped.stopped, stopped.evaluations) == ("interrupted", 5)


def test_a_stop_from_the_first_moment_on_still_judges_the_rules_plan() -> None:
    world = World([0.5] * 3, [0.1] * 3, [1.0] * 3, 0.2)
    found = search(world.space, world, Clock(Budget(9), lambda: True))
    assert (found.evaluations, found.stopped, found.state) == (1, "interrupted", State())


def test_a_bound_without_room_is_met_by_simulation_alone() -> None:
    world = World([0.5, 0.0, 0.0], [0.0] * 3, [1.0] * 3, 0.1)

    def answer(questions: Sequence[Question]) -> list[Judgement]:
        return [
            Judgement(0.0 if not j.energy else math.inf, j.energies, j.values, {"y": 0.0 if not j.energy else math.inf})
            for j in world(questions)
        ]

    found = search(world.space, answer, Clock(Budget(100)))
    assert found.passed
    assert found.state.raised == {0}


def test_seconds_are_a_budget_too() -> None:
    now = itertools.count()
    clock = Clock(Budget(seconds=10.0), now=lambda: float(next(now)))
    for _ in range(3):
        clock.tick()
    assert clock.left() < 10

    def spend() -> None:
        for _ in range(20):
            clock.tick()

    with pytest.raises(Stopped, match=r"budget of 10 s"):
        spend()
    assert clock.left() == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200", Budget(200)), ("90s", Budget(seconds=90.0)), ("1.5s", Budget(seconds=1.5)), (7, Budget(7))],
)
def test_a_budget_is_evaluations_or_seconds(text: object, expected: Budget) -> None:
    assert parse_budget(text) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1.5", "0s", "3 hours"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="budget"):
        parse_budget(text)


energies = st.lists(st.floats(0, 10), min_size=6, max_size=6)


@given(energies, st.sets(st.integers(0, 2)), st.sets(st.integers(0, 2)))
def test_savings_are_differences_of_energies(values: list[float], raised: set[int], more: set[int]) -> None:
    """By the definition: own roundings go with their region, handed-on ones with the region and all its readers."""
    atoms = [
        Atom(n, kind, (), (), frozenset({(n + 1) % 3}) if kind else frozenset()) for n in range(3) for kind in (0, 1)
    ]
    model = NoiseModel(atoms, values)
    before, after = frozenset(raised), frozenset(raised | more)
    expected = sum(
        energy
        for atom, energy in zip(atoms, values, strict=True)
        if not (atom.region in after and atom.readers <= after)
    )
    assert model.energy(after) == pytest.approx(expected)
    assert model.saved(frozenset(more), before) == pytest.approx(model.energy(before) - model.energy(after), abs=1e-9)
