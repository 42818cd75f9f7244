"""The search for a cheap plan that meets a tolerance.

1. The rules' plan is evaluated. 2. Where an output is not finite, the regions that make the first infinities and NaNs
move to BF16 (a range problem costs no speed there) or FP32, until none is left. 3. Where the tolerance is not met, the
contribution of each rounding to the error is measured, or bounded by that of a group it is in. 4. Regions are raised in
the order of expected gain per cost, as few as meet the tolerance both as expected and as simulated. 5. What turns out
not to be needed is removed: the search's own regions, and what rules keep for resolution's sake. 6. What is left is
evaluated once more: the error without each.

An evaluation is a simulation (see `precision_planner.simulation.variants`). The same inputs and the same budget in
evaluations give the same plan, however many evaluations run at once. Whatever ends the search early, the best plan so
far is its result: the cheapest that meets the tolerance, else the one with the least error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from precision_planner.planning.search.budget import Clock, Stopped
from precision_planner.planning.search.contributions import Contributions, measure_contributions
from precision_planner.planning.search.evaluate import Decisions, Question
from precision_planner.planning.search.judge import Judgement
from precision_planner.planning.search.order import Cover
from precision_planner.planning.search.states import Space, State

__all__ = ["FindOverflow", "Found", "Progress", "search"]

STRICTER = 0.8
"""Where a simulated plan misses the tolerance that it was expected to meet, this much less error is aimed at next."""

HOPELESS = 1e-3
"""Aims below this part of the tolerance are not tried."""

UNREACHABLE = "with everything in FP32 that may be, the tolerance is missed"

Ask = Callable[[Sequence[Question]], Sequence[Judgement]]
"""Questions -> judgements, in this order."""
Progress = Callable[[str], None]
FindOverflow = Callable[[Decisions], "frozenset[int]"]
"""Decisions -> the regions in which values become infinite or NaN that are finite in FP32."""


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
      state: the plan.
      judgement: of it.
      baseline: of the rules' plan.
      contributions: what each region adds to the error; None where the search did not ask.
      without: number of a region -> judgement of the plan without it.
      evaluations: simulations made.
      stopped: why the search ended before its time; '' where it did not.
    """

    state: State
    judgement: Judgement
    baseline: Judgement
    contributions: Contributions | None
    without: dict[int, Judgement]
    evaluations: int
    stopped: str = ""

    @property
    def expected(self) -> float | None:
        """The part of the tolerance that the plan is expected to use; None where no contribution was measured."""
        return None if self.contributions is None else self.contributions.expected(self.state.high)

    @property
    def passed(self) -> bool:
        """Whether the plan meets the tolerance as simulated and as expected."""
        return self.judgement.passed and (self.expected is None or self.expected <= 1.0)


def search(
    space: Space,
    ask: Ask,
    clock: Clock,
    *,
    find_overflow: FindOverflow | None = None,
    progress: Progress | None = None,
) -> Found:
    """Find a cheap plan within tolerance.

    Args:
      space: the regions and what may be done with them.
      ask: answers questions; may do so in parallel, `ask.jobs` at a time.
      clock: of the budget.
      find_overflow: finds where infinities come from; None where nobody can.
      progress: called with what is being done.
    """
    work = _Search(space, ask, clock, progress or (lambda text: None))
    stopped = ""
    try:
        work.start()
        if find_overflow is not None:
            work.stop_overflow(find_overflow)
        if not work.passed:
            work.add()
        if work.passed:
            work.remove()
            work.measure_without()
    except Stopped as reason:
        stopped = str(reason)
    except KeyboardInterrupt:
        if work.best is None:  # not even the rules' plan was evaluated
            raise
        stopped = "interrupted"
    assert work.best is not None
    assert work.baseline is not None
    state, judgement = work.best
    without = {number: found for number, found in work.without.items() if number in space.kept(state)}
    return Found(state, judgement, work.baseline, work.contributions, without, clock.evaluations, stopped)


class _Search:
    """One search's memory: what was evaluated, the plan that is being varied, and the best so far."""

    def __init__(self, space: Space, ask: Ask, clock: Clock, progress: Progress) -> None:
        self.space, self.clock = space, clock
        self.best: tuple[State, Judgement] | None = None
        self.baseline: Judgement | None = None
        self.contributions: Contributions | None = None
        self.without: dict[int, Judgement] = {}
        self._ask_many, self._tell, self._phase = ask, progress, ""
        self._known: dict[State, Judgement] = {}
        self._here = State()

    @property
    def passed(self) -> bool:
        """Whether the plan that is being varied meets the tolerance."""
        return self._meets(self._here)

    def _say(self, phase: str) -> None:
        self._phase = phase
        self._tell(f"{phase}: evaluation {self.clock.evaluations + 1}")

    def start(self) -> None:
        """Evaluate what rules and user decided."""
        self._say("the rules' plan")
        self.baseline = self._judge([self._here], needed=True)[0]

    def stop_overflow(self, find_overflow: FindOverflow) -> None:
        """Put regions that overflow into BF16, or FP32, until every output is finite."""
        while not self._known[self._here].finite:
            self._say("values that overflow")
            regions = find_overflow(self.space.decisions(self._here)) - self._here.raised
            regions &= frozenset(self.space.raisable) | self._here.brain
            if not regions:
                return  # what overflows is in none of the regions: nothing that the search may change
            brain = {n for n in regions if n not in self._here.brain and self.space.brain_ok(self.space.regions[n])}
            risen = self._here.raising(regions - brain)
            self._here = State(risen.raised, risen.brain | brain, risen.dropped)
            self._judge([self._here])

    def add(self) -> None:
        """Raise as few regions as meet the tolerance, in the order of expected gain per cost."""
        start = self._here
        free = [number for number in self.space.raisable if number not in start.raised]
        if not free:
            return
        # everything in FP32: dear, but it says what can be reached, and is there if the search is cut short
        self._say("what can be reached")
        everything = self._judge([start.raising(frozenset(free))])[0]
        if not everything.passed:
            # products that TF32 truncates may be better off in 16 bits
            harmful = {atom.region for atom in self.space.atoms(self.space.decisions(start)) if atom.added}
            free = [number for number in free if number not in harmful]
            everything = self._judge([start.raising(frozenset(free))])[0]
        if not everything.passed:
            raise Stopped(UNREACHABLE)
        if not self._known[start].finite:
            return
        self._say(f"the error that each of {len(free)} regions makes")
        judgement = self._known[start]
        self.contributions = measure_contributions(
            self.space, self.space.decisions(start), free, judgement, everything, self._answer, self.clock
        )
        self._say("the fewest regions that meet the tolerance")
        cover = Cover(self.space, self.contributions.model, free, self.space.costs_around(start))
        self._here = self._first_within(cover, frozenset(free))

    def _first_within(self, cover: Cover, free: frozenset[int]) -> State:
        """A cheap plan that meets the tolerance; the best one known where none does.

        What is expected to meet it may miss it when simulated: then less error is aimed at.
        """
        assert self.contributions is not None
        start, aim = self._here, 1.0
        while True:
            raised = cover.raised(self.contributions.energy_for(aim))
            if self._is_within(start.raising(raised)):
                return start.raising(raised)
            if raised == free or aim < HOPELESS:
                assert self.best is not None
                return self.best[0]
            aim *= STRICTER

    def remove(self) -> None:
        """Take back what is not needed: all of it, or else halves, quarters and so on, the dearest first."""
        kept = self._dearest_first()
        if kept:
            self._say(f"which of {len(kept)} kept regions are not needed")
            self._remove(kept)

    def _remove(self, numbers: Sequence[int]) -> None:
        lower = self._here.lowering(frozenset(numbers), self.space.soft)
        if self._is_no_dearer(lower) and self._is_within(lower):
            self._here = lower
        elif len(numbers) > 1:
            middle = len(numbers) // 2
            self._remove(numbers[:middle])
            self._remove(numbers[middle:])

    def measure_without(self) -> None:
        """Measure the error without each region that is left; one that turns out not to be needed goes after all.

        What is lowered on the way makes the measurements before it stale, so the last pass lowers nothing.
        """
        while True:
            found: dict[int, Judgement] = {}
            for number in self._dearest_first():
                lower = self._here.lowering(frozenset({number}), self.space.soft)
                found[number] = self._judge([lower])[0]
                if self._meets(lower) and self._is_no_dearer(lower):
                    self._here = lower
                    found = {}
            if set(found) == set(self.space.kept(self._here)):
                self.without = found
                return

    def _dearest_first(self) -> list[int]:
        costs = self.space.costs.regions
        return sorted(self.space.kept(self._here), key=lambda number: (-costs[number], number))

    def _is_no_dearer(self, state: State) -> bool:
        """Whether a plan costs no more than the one that is being varied: lowering a region may call for Casts."""
        return self.space.cost(state) <= self.space.cost(self._here)

    def _is_within(self, state: State) -> bool:
        """Whether a plan meets the tolerance as expected and, which is asked only then, as simulated."""
        if self._expected(state) > 1.0:
            return False
        self._judge([state])
        return self._meets(state)

    def _meets(self, state: State) -> bool:
        return self._known[state].passed and self._expected(state) <= 1.0

    def _expected(self, state: State) -> float:
        """The score that a plan is expected to have; 0 as long as no contribution was measured."""
        return 0.0 if self.contributions is None else self.contributions.expected(state.high)

    def _answer(self, questions: Sequence[Question], *, needed: bool = False) -> list[Judgement]:
        """Answers to questions; each is one evaluation of the budget."""
        answers: list[Judgement] = []
        jobs = max(1, int(getattr(self._ask_many, "jobs", 1)))
        while len(answers) < len(questions):
            taken = 0
            stop: Stopped | None = None
            try:
                while taken < jobs and len(answers) + taken < len(questions):
                    self.clock.tick(needed=needed)
                    taken += 1
            except Stopped as reason:
                stop = reason
            self._tell(f"{self._phase}: evaluation {self.clock.evaluations}")
            answers += self._ask_many(questions[len(answers) : len(answers) + taken])
            if stop is not None:
                raise stop
        return answers

    def _judge(self, states: Sequence[State], *, needed: bool = False) -> list[Judgement]:
        """Judge plans, each once; the best of all is remembered, also where the budget ends in between."""
        fresh = [state for state in dict.fromkeys(states) if state not in self._known]
        base = self.space.decisions(self._here)
        for state in fresh:
            self._known[state] = self._answer([Question(self.space.decisions(state), base)], needed=needed)[0]
            if self.best is None or self._rank(state) < self._rank(self.best[0]):
                self.best = (state, self._known[state])
        return [self._known[state] for state in states]

    def _rank(self, state: State) -> tuple[float, ...]:
        """Within tolerance the cheaper plan is better, or that which keeps less; beyond it the one with less error."""
        judgement, cost = self._known[state], self.space.cost(state)
        if self._meets(state):
            return (0.0, cost, float(len(self.space.kept(state))), judgement.score)
        return (1.0, judgement.score, judgement.energy, cost)
