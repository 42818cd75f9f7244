"""The registry of facts: everything that a rule can ask, with its type, unit and subject.

A fact of a *value* (an activation, a constant) is asked with the role that the value plays for the subject:
`x.amax` for a pattern's input x, `output.amax`, `inputs.amax` (the extreme over all float inputs), `constant.value`
(the one constant operand), or an operator's own name for an input, as in `A.amax` of a MatMul. Facts without a dot
are of the subject itself. The tables in docs/rules/language.md are printed from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from precision_planner.rules.facts.evidence import Subject
    from precision_planner.rules.facts.model_facts import ModelFacts

__all__ = [
    "SUBJECTS",
    "SUBJECT_FACTS",
    "VALUE_FACTS",
    "Fact",
    "FactValue",
    "find_fact",
    "json_value",
    "needs_data",
    "subject_fact",
    "value_fact",
]

FactValue: TypeAlias = "float | int | str | bool | frozenset[str] | None"
"""What a fact can be; None is unknown."""

SUBJECTS = ("pattern", "node", "tensor", "input")


@dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes:
      name: as rules write it, without the role.
      type: "number", "text", "flag" or "set" (of texts).
      unit: of a number, "" for none.
      subjects: the subjects that have it; ("value",) for a fact that is asked with a role.
      data: whether it needs calibration data (of a value that is no constant).
      doc: one sentence.
      compute: (facts, subject) or (facts, scope, value) -> the fact, None where it is unknown.
      combine: of numbers asked over several values: max or min.
    """

    name: str
    type: str
    unit: str
    subjects: tuple[str, ...]
    data: bool
    doc: str
    compute: Callable[..., FactValue]
    combine: Callable[[list[Any]], Any] = max


SUBJECT_FACTS: dict[tuple[str, str], Fact] = {}
"""(subject, name) -> fact."""
VALUE_FACTS: dict[str, Fact] = {}
"""Name -> fact of a value."""


def subject_fact(
    *subjects: str, type: str, unit: str = "", data: bool = False, name: str = ""
) -> Callable[[Callable[[ModelFacts, Subject], FactValue]], Callable[[ModelFacts, Subject], FactValue]]:
    """Register a fact of the subject; its name is the function's, its documentation the docstring's first line."""

    def register(function: Callable[[ModelFacts, Subject], FactValue]) -> Callable[[ModelFacts, Subject], FactValue]:
        fact = Fact(name or function.__name__, type, unit, subjects, data, _doc(function), function)
        for subject in subjects:
            SUBJECT_FACTS[subject, fact.name] = fact
        return function

    return register


def value_fact(
    *, type: str, unit: str = "", data: bool = False, combine: Callable[[list[Any]], Any] = max
) -> Callable[[Callable[..., FactValue]], Callable[..., FactValue]]:
    """Register a fact of a value; see `subject_fact`."""

    def register(function: Callable[..., FactValue]) -> Callable[..., FactValue]:
        name = function.__name__
        VALUE_FACTS[name] = Fact(name, type, unit, ("value",), data, _doc(function), function, combine)
        return function

    return register


def _doc(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().split("\n")[0]


def find_fact(subject: str, name: str) -> Fact | None:
    """The fact that a rule about `subject` means by `name` (with or without a role); None if there is none."""
    role, dot, bare = name.rpartition(".")
    if not dot:
        if subject in ("tensor", "input") and (subject, name) not in SUBJECT_FACTS:
            return VALUE_FACTS.get(name)
        return SUBJECT_FACTS.get((subject, name))
    return VALUE_FACTS.get(bare) if role and subject in ("pattern", "node") else None


def needs_data(subject: str, name: str) -> bool:
    """Whether a fact of a subject can only be known from calibration data (a constant's facts never need it)."""
    fact = find_fact(subject, name)
    return fact is not None and fact.data and not name.startswith(("constant.", "constants."))


def json_value(value: Any) -> Any:
    """A fact or action value as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value
