"""How long a search may go on: a number of evaluations, or of seconds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from precision_planner.errors import PlanError

__all__ = ["DEFAULT_BUDGET", "Budget", "Clock", "Stopped", "parse_budget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Evaluations or seconds, the one that is not None.

    A budget in evaluations gives the same plan every time. One in seconds depends on the machine.
    """

    evaluations: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.evaluations} evaluations" if self.evaluations is not None else f"{self.seconds:g} s"


DEFAULT_BUDGET = Budget(evaluations=400)
"""About three evaluations for each region of a 12-layer transformer."""


def parse_budget(text: str | int | float | Budget | None) -> Budget:
    """Read ``200`` (evaluations) or ``90s`` (seconds); None is the default.

    Raises:
      PlanError: it is neither, or not above zero.
    """
    if text is None:
        return DEFAULT_BUDGET
    if isinstance(text, Budget):
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|seconds)?", str(text).strip())
    if found is None:
        raise PlanError(f"budget {text!r} is neither a number of evaluations (200) nor of seconds (90s)")
    if found.group(2):
        budget = Budget(seconds=float(found.group(1)))
        if not budget.seconds:
            raise PlanError(f"budget {text!r} is no time at all; give at least 1s")
        return budget
    if "." in found.group(1) or not int(found.group(1)):
        raise PlanError(f"budget {text!r} is no whole number of evaluations; give at least 1, or seconds as in 90s")
    return Budget(evaluations=int(found.group(1)))


class Stopped(Exception):
    """The budget is spent, or the user stopped the search; the message says which."""


class Clock:
    """Counts what a search has used of its budget.

    Args:
      budget: the budget.
      stop: asked before each evaluation; True ends the search.
      now: the time in seconds; for tests.
    """

    def __init__(
        self, budget: Budget, stop: Callable[[], bool] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget = budget
        self.evaluations = 0
        self._stop, self._now = stop, now
        self._start = now()

    @property
    def used(self) -> float:
        """The share of the budget that is used, 0 to 1 and more."""
        if self.budget.evaluations is not None:
            return self.evaluations / self.budget.evaluations
        assert self.budget.seconds is not None
        return (self._now() - self._start) / self.budget.seconds

    def left(self, share: float = 1.0) -> int:
        """Evaluations left of a share of the budget; of one in seconds as many as fit at the pace so far."""
        if self.budget.evaluations is not None:
            return max(0, int(self.budget.evaluations * share) - self.evaluations)
        assert self.budget.seconds is not None
        spent = self._now() - self._start
        pace = spent / max(1, self.evaluations)
        return max(0, int((self.budget.seconds * share - spent) / max(pace, 1e-6)))

    @property
    def outlook(self) -> str:
        """How much of the budget is used, for progress; a time only where the budget is one: searches end early."""
        if self.budget.evaluations is not None:
            return f" of at most {self.budget.evaluations}"
        assert self.budget.seconds is not None
        rest = self.budget.seconds - (self._now() - self._start)
        return f" ({min(1.0, self.used):.0%} of the budget, at most {max(0.0, rest):.0f} s more)"

    @property
    def stopped(self) -> str:
        """That the user stopped the search; '' where not."""
        return "interrupted" if self._stop is not None and self._stop() else ""

    @property
    def ended(self) -> str:
        """Why no evaluation is to be made any more; '' where one may be."""
        if self.stopped:
            return self.stopped
        return f"the budget of {self.budget} is spent" if self.used >= 1.0 else ""

    def tick(self, *, needed: bool = False, first: bool = False) -> None:
        """Count one evaluation that is about to be made.

        Args:
          needed: it is made whatever the budget says: it shows whether the tolerance can be met at all.
          first: it is made even where the user has stopped the search: it says what the rules' draft is worth.

        Raises:
          Stopped: it must not be made.
        """
        reason = "" if first else self.stopped if needed else self.ended
        if reason:
            raise Stopped(reason)
        self.evaluations += 1
