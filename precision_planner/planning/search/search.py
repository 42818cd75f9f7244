"""The search for a cheap plan that meets a tolerance.

1. The simple candidates are evaluated: the rules' draft, everything low, everything in FP32 (with TF32, and without),
the draft with one family of regions in FP32. What is found later is never dearer than the cheapest of them that meets
the tolerance, and where everything in FP32 meets it, so does what is found. 2. Where the draft's outputs are not
finite, the regions that make the first infinities and NaNs move to BF16 (a range problem costs no speed there) or FP32.
3. The contribution of each rounding to the error is measured, or bounded by that of a group it is in, and regions are
raised in the order of expected gain per cost, as few as meet the tolerance as simulated. 4. What turns out not to be
needed is removed, by halves: from that plan, and from everything in FP32, which needs no contributions and is not
misled where these do not add up. 5. Of a few regions, every cheaper choice that may do is tried. 6. What is left is
evaluated once more: the error without each.

An evaluation is a simulation (see `precision_planner.simulation.variants`). The same inputs and the same budget in
evaluations give the same plan, however many evaluations run at once. Whatever ends the search early, the best plan so
far is its result: the cheapest that meets the tolerance, else the one with the least error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from precision_planner.judging.judge import Judgement
from precision_planner.planning.search.budget import Clock, Stopped
from precision_planner.planning.search.contributions import Contributions, measure_contributions
from precision_planner.planning.search.evaluate import Candidate, Question
from precision_planner.planning.search.few import cheaper_choices
from precision_planner.planning.search.order import FAMILIES, Cover
from precision_planner.planning.search.states import Space, State

__all__ = ["FindOverflow", "Found", "Progress", "search"]

STRICTER = 0.8
"""Where a simulated plan misses the tolerance that it was expected to meet, this much less error is aimed at next."""

HOPELESS = 1e-3
"""Aims below this part of the tolerance are not tried."""

FALLBACKS = 3
"""Plans that are named besides the one chosen, should it not hold on all data."""

MANY = 64
"""Regions past which everything in FP32 is taken apart by halves only where contributions do not lead to a plan."""

UNREACHABLE = "with everything in FP32 that may be, the tolerance is missed"

Ask = Callable[[Sequence[Question]], Sequence[Judgement]]
"""Questions -> judgements, in this order."""
Progress = Callable[[str], None]
FindOverflow = Callable[[Candidate], "frozenset[int]"]
"""A plan -> the regions in which values become infinite or NaN that are finite in FP32."""


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
      state: the plan.
      judgement: of it.
      baseline: of the rules' draft.
      contributions: what each region adds to the error; None where the search did not ask.
      without: number of a region -> judgement of the plan without it.
      evaluations: simulations made.
      stopped: why the search ended before its time; '' where it did not.
      limit: the largest score that meets the tolerance.
      fallbacks: other plans that meet it, the cheaper first, everything in FP32 last.
      tf32: of everything in FP32 with TF32; None where that was not tried.
      likely: the score that a device will hardly exceed with this plan; None where nothing was drawn.
    """

    state: State
    judgement: Judgement
    baseline: Judgement
    contributions: Contributions | None
    without: dict[int, Judgement]
    evaluations: int
    stopped: str = ""
    limit: float = 1.0
    fallbacks: tuple[tuple[State, Judgement], ...] = ()
    tf32: Judgement | None = None
    likely: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the plan meets the tolerance as simulated."""
        return self.judgement.finite and self.judgement.score <= self.limit


def search(
    space: Space,
    ask: Ask,
    clock: Clock,
    *,
    limit: float = 1.0,
    whatever_helps: bool = True,
    known: dict[State, Judgement] | None = None,
    find_overflow: FindOverflow | None = None,
    progress: Progress | None = None,
) -> Found:
    """Find a cheap plan within tolerance.

    Args:
      space: the regions and what may be done with them.
      ask: answers questions; may do so in parallel, `ask.jobs` at a time.
      clock: of the budget.
      limit: the largest score that is looked for: below 1 so that the quantile meets the tolerance, above 1 where a
        plan with the target's margin is not to be had.
      whatever_helps: raise also what should not be; see `Space.may_raise`.
      known: judgements of plans by an earlier search of the same space; filled by this one.
      find_overflow: finds where infinities come from; None where nobody can.
      progress: called with what is being done.
    """
    free = space.liftable if whatever_helps else space.raisable
    work = _Search(space, ask, clock, limit, frozenset(free), {} if known is None else known, progress)
    stopped = ""
    try:
        work.try_simple()
        if not work.settled:
            work.vary(find_overflow)
        if work.passed:
            work.measure_without()
    except Stopped as reason:
        stopped = str(reason)
    except KeyboardInterrupt:
        if work.best is None:  # not even the rules' draft was evaluated
            raise
        stopped = "interrupted"
    return work.result(stopped)


class _Search:
    """One search's memory: what was evaluated, the plan that is being varied, and the best so far."""

    def __init__(
        self,
        space: Space,
        ask: Ask,
        clock: Clock,
        limit: float,
        free: frozenset[int],
        known: dict[State, Judgement],
        progress: Progress | None,
    ) -> None:
        self.space, self.clock, self.limit = space, clock, limit
        self.best: tuple[State, Judgement] | None = None
        self.contributions: Contributions | None = None
        self.without: dict[int, Judgement] = {}
        self._ask_many, self._tell, self._phase = ask, progress or (lambda text: None), ""
        self._free, self._known = free, known
        self._draft = State(tf32=space.modes[0])
        self._here = self._draft
        self._lowest = self._draft.lowering(space.soft, space.soft)

    @property
    def passed(self) -> bool:
        """Whether the best plan so far meets the tolerance."""
        return self.best is not None and self._meets(self.best[0])

    @property
    def settled(self) -> bool:
        """Whether nothing can be cheaper than the best plan so far."""
        return self.passed and self.best is not None and self._cost(self.best[0]) <= self._cost(self._lowest)

    def result(self, stopped: str) -> Found:
        """What was found."""
        assert self.best is not None, "the draft is evaluated whatever the budget says"
        state, judgement = self.best
        without = {
            number: found for number, found in self.without.items() if number in self.space.kept(state) | state.summed
        }
        others = sorted((s for s in self._known if s != state and self._meets(s)), key=self._rank)
        dearer = [s for s in others if self._cost(s) > self._cost(state)]
        fallbacks = dict.fromkeys([*dearer[:FALLBACKS], *(s for s in self._everything() if s in others)])
        everything = next((s for s in self._everything() if s.tf32), None)
        return Found(
            state,
            judgement,
            self._known[self._draft],
            self.contributions,
            without,
            self.clock.evaluations,
            stopped,
            self.limit,
            tuple((other, self._known[other]) for other in fallbacks),
            None if everything is None else self._known.get(everything),
        )

    # the simple candidates

    def try_simple(self) -> None:
        """Evaluate what needs no search, unless the lowest plan of all will do."""
        self._say("the rules' draft")
        self._judge([self._draft], needed=True)
        self._judge([self._lowest], needed=True)
        if self.settled:
            return
        self._say("what can be reached")
        # dear, but it says what can be reached, and is there if the search is cut short
        for state in self._everything():
            if not self._is_within(self._judge([state], needed=True)[0]) and state.tf32:
                self._judge([self._untruncated(state)], needed=True)
        if not self.passed:
            raise Stopped(UNREACHABLE)
        self._say("sums in FP32")
        summed = [state.summing(self.space.summable) for state in (self._draft, self._lowest)]
        self._judge(summed if self.space.summable else [])
        self._say("one family in FP32")
        for start in (self._draft, self._lowest):
            for mode in self.space.modes:
                for kinds in FAMILIES:
                    family = self.space.family(kinds)
                    state = replace(start.raising(family), tf32=mode)
                    if family and self._is_cheaper(state):
                        self._judge([state])

    def _everything(self) -> list[State]:
        """Everything in FP32 that may be, with TF32 and without."""
        return [replace(self._draft.raising(self._free), tf32=mode) for mode in self.space.modes]

    def _untruncated(self, everything: State) -> State:
        """Everything in FP32 but the products whose operands TF32 would truncate: better off in 16 bits, perhaps."""
        atoms = self.space.atoms(self.space.candidate(replace(self._draft, tf32=everything.tf32)))
        harmful = frozenset(atom.region for atom in atoms if atom.added)
        return replace(everything, raised=everything.raised - harmful)

    # the search proper

    def vary(self, find_overflow: FindOverflow | None) -> None:
        """Raise, remove, and try what is left to try."""
        tops = [top for mode in self.space.modes if (top := self._top(mode)) is not None]
        start = self._finite(find_overflow)
        for top in tops if start is not None else ():
            assert start is not None
            self._cover(replace(start, tf32=top.tf32).summing(self.space.summable), top)
        self._remove_from_best()
        led_astray = self.contributions is None or not 0.4 <= self.contributions.additivity <= 2.5
        for top in tops:
            if led_astray or len(self.space.regions) <= MANY:
                self._say("everything in FP32, by halves")
                self._here = top
                self._remove(self._dearest_first())
        self._remove_sums()
        self._soften()
        self._try_few(tops)
        self._remove_from_best()
        self._remove_sums()

    def _top(self, mode: bool) -> State | None:
        """The plan within tolerance that has the most in FP32."""
        everything = replace(self._draft.raising(self._free), tf32=mode)
        return next((state for state in (everything, self._untruncated(everything)) if self._meets(state)), None)

    def _finite(self, find_overflow: FindOverflow | None) -> State | None:
        """A start whose outputs are finite: the draft, or with regions that overflow in BF16 or FP32; None: none is."""
        here = self._draft
        for state in (self._draft, self._lowest):
            if self._known[state].finite:
                return state
        while find_overflow is not None and not self._known[here].finite:
            self._say("values that overflow")
            regions = find_overflow(self.space.candidate(here)) - here.raised
            regions &= self._free | here.brain
            if not regions:
                break  # what overflows is in none of the regions: nothing that the search may change
            brain = {n for n in regions if n not in here.brain and self.space.brain_ok(self.space.regions[n])}
            here = here.raising(regions - brain).softening(frozenset(brain))
            self._judge([here])
        return here if self._known[here].finite else None

    def _cover(self, start: State, top: State) -> None:
        """Raise as few regions as meet the tolerance, in the order of expected gain per cost."""
        self._here = start
        if self._is_within(self._judge([start])[0]):
            return
        free = sorted(top.raised - start.raised)
        whole = self._judge([start.raising(frozenset(free))])[0]
        if not self._is_within(whole):
            return
        self._say(f"the error that each of {len(free)} regions makes")
        found = measure_contributions(
            self.space,
            self.space.candidate(start),
            free,
            self._known[start],
            whole,
            self._answer,
            self.clock,
            self.limit,
        )
        self.contributions = self.contributions or found
        self._say("the fewest regions that meet the tolerance")
        cover = Cover(self.space, found.model, free, self.space.costs_around(start))
        # where contributions add up to more than they make together, so do those that may stay
        aim = self.limit * max(1.0, found.additivity) ** 0.5
        tried: set[State] = set()
        while aim >= HOPELESS:
            state = start.raising(cover.raised(found.energy_for(aim)))
            if not self._is_cheaper(state):
                return
            if state not in tried and self._is_within(self._judge([state])[0]):
                self._here = state
                return
            tried.add(state)
            aim *= STRICTER

    # taking back

    def _remove_from_best(self) -> None:
        """Take back what is not needed: all of it, or else halves, quarters and so on, the dearest first."""
        assert self.best is not None
        self._here = self.best[0]
        kept = self._dearest_first()
        if kept:
            self._say(f"which of {len(kept)} kept regions are not needed")
            self._remove(kept)

    def _remove(self, numbers: Sequence[int]) -> None:
        if not numbers:
            return
        chosen = frozenset(numbers)
        lower = self._here.lowering(chosen, self.space.soft).summing(self.space.summable & chosen)
        if self._is_no_dearer(lower) and self._is_within(self._judge([lower])[0]):
            self._here = lower
        elif len(numbers) > 1:
            middle = len(numbers) // 2
            self._remove(numbers[:middle])
            self._remove(numbers[middle:])

    def _remove_sums(self) -> None:
        """Let sums be in FP16 again where that does."""
        assert self.best is not None
        self._here = self.best[0]
        sums = self.space.costs.sums
        summed = sorted(self._here.summed, key=lambda number: (-sums[number], number))
        if summed:
            self._say(f"which of {len(summed)} sums in FP32 are not needed")
            self._remove_some_sums(summed)

    def _remove_some_sums(self, numbers: Sequence[int]) -> None:
        lower = replace(self._here, summed=self._here.summed - frozenset(numbers))
        if self._is_within(self._judge([lower])[0]):
            self._here = lower
        elif len(numbers) > 1:
            middle = len(numbers) // 2
            self._remove_some_sums(numbers[:middle])
            self._remove_some_sums(numbers[middle:])

    def _soften(self) -> None:
        """Put what is in FP32 into BF16 where that is cheaper and does as well."""
        assert self.best is not None
        self._here = self.best[0]
        brain = [
            n for n in self._dearest_first() if n in self._here.raised and self.space.brain_ok(self.space.regions[n])
        ]
        if brain:
            self._say(f"which of {len(brain)} regions may be in BF16")
            self._soften_some(brain)

    def _soften_some(self, numbers: Sequence[int]) -> None:
        softer = self._here.softening(frozenset(numbers))
        if self._cost(softer) < self._cost(self._here) and self._is_within(self._judge([softer])[0]):
            self._here = softer
        elif len(numbers) > 1:
            middle = len(numbers) // 2
            self._soften_some(numbers[:middle])
            self._soften_some(numbers[middle:])

    def _try_few(self, everything: Sequence[State]) -> None:
        """Of a few regions, try the choices that are cheaper than the best plan, the most promising first."""
        for top in everything:
            assert self.best is not None
            if self.settled:
                return
            failed = [
                (self.space.kept(state), state.summed)
                for state in self._known
                if state.tf32 == top.tf32 and not state.brain and not self._meets(state)
            ]
            for state in cheaper_choices(self.space, top, self._cost(self.best[0]), self.contributions):
                high, summed = self.space.kept(state), state.summed
                # keeping less makes more error, but for luck
                hopeless = any(high <= kept and summed <= sums for kept, sums in failed)
                if self._is_cheaper(state) and not hopeless:
                    self._judge([state])
                    if not self._meets(state):
                        failed.append((high, summed))

    def measure_without(self) -> None:
        """Measure the error without each region that is left; one that turns out not to be needed goes after all.

        What is lowered on the way makes the measurements before it stale, so the last pass lowers nothing.
        """
        assert self.best is not None
        self._here = self.best[0]
        self._say("what each kept region is worth")
        while True:
            found: dict[int, Judgement] = {}
            for number in self._dearest_first():
                lower = self._here.lowering(frozenset({number}), self.space.soft)
                lower = lower.summing(self.space.summable & {number})
                found[number] = self._judge([lower])[0]
                if self._meets(lower) and self._is_no_dearer(lower):
                    self._here = lower
                    found = {}
            if set(found) == set(self.space.kept(self._here)):
                break
        self.without = found
        for number in sorted(self._here.summed):
            found[number] = self._judge([replace(self._here, summed=self._here.summed - {number})])[0]

    # what is asked for again and again

    def _dearest_first(self) -> list[int]:
        costs = self.space.costs.regions
        return sorted(self.space.kept(self._here), key=lambda number: (-costs[number], number))

    def _cost(self, state: State) -> float:
        return self.space.cost(state)

    def _is_no_dearer(self, state: State) -> bool:
        """Whether a plan costs no more than the one that is being varied: lowering a region may call for Casts."""
        return self._cost(state) <= self._cost(self._here)

    def _is_cheaper(self, state: State) -> bool:
        """Whether a plan costs less than the best one that meets the tolerance."""
        return not self.passed or self.best is None or self._cost(state) < self._cost(self.best[0])

    def _is_within(self, judgement: Judgement) -> bool:
        return judgement.finite and judgement.score <= self.limit

    def _meets(self, state: State) -> bool:
        return state in self._known and self._is_within(self._known[state])

    def _say(self, phase: str) -> None:
        self._phase = phase
        self._tell(f"{phase}: evaluation {self.clock.evaluations + 1}{self.clock.outlook}")

    def _answer(self, questions: Sequence[Question], *, needed: bool = False) -> list[Judgement]:
        """Answers to questions; each is one evaluation of the budget."""
        answers: list[Judgement] = []
        jobs = max(1, int(getattr(self._ask_many, "jobs", 1)))
        while len(answers) < len(questions):
            taken = 0
            stop: Stopped | None = None
            try:
                while taken < jobs and len(answers) + taken < len(questions):
                    self.clock.tick(needed=needed, first=not self._known)
                    taken += 1
            except Stopped as reason:
                stop = reason
            self._tell(f"{self._phase}: evaluation {self.clock.evaluations}{self.clock.outlook}")
            answers += self._ask_many(questions[len(answers) : len(answers) + taken])
            if stop is not None:
                raise stop
        return answers

    def _judge(self, states: Sequence[State], *, needed: bool = False) -> list[Judgement]:
        """Judge plans, each once; the best of all is remembered, also where the budget ends in between."""
        fresh = [state for state in dict.fromkeys(states) if state not in self._known]
        base = self.space.candidate(self._here)
        for state in fresh:
            self._known[state] = self._answer([Question(self.space.candidate(state), base)], needed=needed)[0]
        for state in dict.fromkeys(states):
            if self.best is None or self._rank(state) < self._rank(self.best[0]):
                self.best = (state, self._known[state])
        return [self._known[state] for state in states]

    def _rank(self, state: State) -> tuple[float, ...]:
        """Within tolerance the cheaper plan is better, or that which keeps less; beyond it the one with less error."""
        judgement, cost = self._known[state], self._cost(state)
        if self._meets(state):
            return (0.0, cost, float(len(self.space.kept(state))), judgement.score)
        return (1.0, judgement.score, judgement.energy, cost)
