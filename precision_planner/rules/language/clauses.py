"""Conditions over facts, in three-valued logic: a fact that nobody knows makes a condition unknown, never false.

`all` is false if one part is false, else unknown if one is; `any` is true if one part is true, else unknown if one
is; `not` keeps unknown. (Kleene's strong logic.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from precision_planner.rules.facts.registry import FactValue

__all__ = ["COMPARISONS", "All", "Any_", "Clause", "Compare", "Lookup", "Not", "Truth", "facts_of"]

Truth: TypeAlias = "bool | None"
Lookup: TypeAlias = Callable[[str], FactValue]
Constants: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of the language.

    Attributes:
      name: its key in YAML.
      types: the types of fact that it takes.
      opposite: the comparison that holds exactly where this one does not.
      test: (fact, value) -> whether it holds.
      many: whether the value is a list.
    """

    name: str
    types: frozenset[str]
    opposite: str
    test: Callable[[Any, Any], bool]
    many: bool = False


_NUMBER = frozenset({"number"})
_SCALAR = frozenset({"number", "text", "flag"})
COMPARISONS: dict[str, Comparison] = {
    comparison.name: comparison
    for comparison in (
        Comparison("is", _SCALAR, "is_not", lambda fact, value: fact == value),
        Comparison("is_not", _SCALAR, "is", lambda fact, value: fact != value),
        Comparison("above", _NUMBER, "at_most", lambda fact, value: fact > value),
        Comparison("at_least", _NUMBER, "below", lambda fact, value: fact >= value),
        Comparison("below", _NUMBER, "at_least", lambda fact, value: fact < value),
        Comparison("at_most", _NUMBER, "above", lambda fact, value: fact <= value),
        Comparison("in", frozenset({"text"}), "not_in", lambda fact, value: fact in value, many=True),
        Comparison("not_in", frozenset({"text"}), "in", lambda fact, value: fact not in value, many=True),
        Comparison("has", frozenset({"set"}), "lacks", lambda fact, value: bool(fact & value), many=True),
        Comparison("lacks", frozenset({"set"}), "has", lambda fact, value: not fact & value, many=True),
    )
}
"""Key in YAML -> comparison. `has` holds if any of its values is in the set."""


@dataclass(frozen=True, slots=True)
class Compare:
    """A fact against a value: number, constant of the format (by name), text, flag, or a set of texts."""

    fact: str
    comparison: str
    value: Any
    line: int = field(default=0, compare=False)

    def evaluate(self, lookup: Lookup, constants: Constants) -> Truth:
        """True, False, or None where the fact is unknown."""
        fact = lookup(self.fact)
        if fact is None:
            return None
        value = self.value
        if isinstance(value, str) and value in constants and not isinstance(fact, str):
            value = constants[value]
        return COMPARISONS[self.comparison].test(fact, value)

    def __str__(self) -> str:
        value = self.value
        text = ", ".join(sorted(map(str, value))) if isinstance(value, frozenset) else _text(value)
        return f"{self.fact} {self.comparison.replace('_', ' ')} {text}"


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds."""

    parts: tuple[Clause, ...]

    def evaluate(self, lookup: Lookup, constants: Constants) -> Truth:
        """False at the first false part; None if none is false and one is unknown."""
        truth: Truth = True
        for part in self.parts:
            value = part.evaluate(lookup, constants)
            if value is False:
                return False
            truth = truth if value else None
        return truth

    def __str__(self) -> str:
        return " and ".join(_nested(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Any_:
    """At least one part holds."""

    parts: tuple[Clause, ...]

    def evaluate(self, lookup: Lookup, constants: Constants) -> Truth:
        """True at the first true part; None if none is true and one is unknown."""
        truth: Truth = False
        for part in self.parts:
            value = part.evaluate(lookup, constants)
            if value is True:
                return True
            truth = None if value is None else truth
        return truth

    def __str__(self) -> str:
        return " or ".join(_nested(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Clause

    def evaluate(self, lookup: Lookup, constants: Constants) -> Truth:
        """The opposite; None stays None."""
        value = self.part.evaluate(lookup, constants)
        return None if value is None else not value

    def __str__(self) -> str:
        return f"not {_nested(self.part)}"


Clause: TypeAlias = "Compare | All | Any_ | Not"


def facts_of(clause: Clause | None) -> Iterator[str]:
    """Every fact that a clause asks for, in order, repetitions included."""
    match clause:
        case Compare():
            yield clause.fact
        case All() | Any_():
            for part in clause.parts:
                yield from facts_of(part)
        case Not():
            yield from facts_of(clause.part)


def _nested(clause: Clause) -> str:
    return f"({clause})" if isinstance(clause, All | Any_) else str(clause)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
