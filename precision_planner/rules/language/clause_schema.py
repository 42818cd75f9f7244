"""Reading clauses: which fact, which comparison, a value of the fact's type."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from precision_planner.rules.facts.evidence import CONSTANT_DOCS
from precision_planner.rules.facts.registry import SUBJECT_FACTS, VALUE_FACTS, Fact, find_fact
from precision_planner.rules.language.clauses import COMPARISONS, All, Any_, Clause, Compare, Not
from precision_planner.rules.language.yaml_tree import Mapping, Sequence, fail

__all__ = ["clause_line", "read_clause"]

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def clause_line(mapping: Mapping, key: str) -> int:
    """The line of the clause that stands under `key`."""
    value = mapping[key]
    return value.line if isinstance(value, Mapping | Sequence) else mapping.lines[key]


def read_clause(value: Any, subject: str, path: Path, line: int) -> Clause:
    """Read one clause.

    Args:
      value: from YAML.
      subject: what the rule looks at: it decides which facts there are.
      path: for messages.
      line: of the clause.

    Raises:
      RuleError: an unknown fact or comparison, or a value of the wrong type.
    """
    if not isinstance(value, Mapping):
        raise fail(path, line, "a clause is {fact: NAME, COMPARISON: VALUE}, or all, any or not over clauses")
    line = value.line
    for key, group in (("all", All), ("any", Any_)):
        if key in value:
            parts = value[key]
            if len(value) != 1:
                raise fail(path, line, f"'{key}' stands alone in its clause")
            if not isinstance(parts, Sequence) or not parts:
                raise fail(path, value.lines[key], f"'{key}' takes a list of clauses")
            read = [read_clause(part, subject, path, at) for part, at in zip(parts, parts.lines, strict=True)]
            return group(tuple(read))
    if "not" in value:
        if len(value) != 1:
            raise fail(path, line, "'not' stands alone in its clause")
        return Not(read_clause(value["not"], subject, path, value.lines["not"]))
    return _compare(value, subject, path, line)


def _compare(value: Mapping, subject: str, path: Path, line: int) -> Compare:
    import difflib

    name = value.get("fact")
    if not isinstance(name, str):
        raise fail(path, line, "a clause needs 'fact' (or all, any, not)")
    fact = find_fact(subject, name)
    if fact is None:
        known = sorted({key for of, key in SUBJECT_FACTS if of == subject} | set(VALUE_FACTS))
        near = difflib.get_close_matches(name.rpartition(".")[2], known, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        role = " (facts of a value need a role, as in output.amax)" if name in VALUE_FACTS else ""
        raise fail(path, value.lines["fact"], f"a {subject} has no fact '{name}'{role or hint}")
    role = name.rpartition(".")[0]
    if role and not _ROLE.fullmatch(role):
        raise fail(path, value.lines["fact"], f"'{role}' is no role: a role is one name, as in x.amax")
    others = [key for key in value if key != "fact"]
    if len(others) != 1 or others[0] not in COMPARISONS:
        wrong = next((key for key in others if key not in COMPARISONS), "")
        what = f"there is no comparison '{wrong}'" if wrong else "a clause has exactly one comparison"
        at = value.lines[wrong] if wrong else line
        raise fail(path, at, f"{what}; it takes one of {', '.join(COMPARISONS)}")
    key = others[0]
    if fact.type not in COMPARISONS[key].types:
        fitting = ", ".join(known for known, comparison in COMPARISONS.items() if fact.type in comparison.types)
        raise fail(path, value.lines[key], f"'{name}' is a {fact.type}: compare it by {fitting}")
    return Compare(name, key, _value(value[key], fact, key, path, value.lines[key]), line)


def _value(value: Any, fact: Fact, key: str, path: Path, line: int) -> Any:
    if COMPARISONS[key].many:
        items = value if isinstance(value, Sequence) else [value]
        if not items or not all(isinstance(item, str) for item in items):
            raise fail(path, line, f"'{key}' takes a text or a list of texts")
        return frozenset(items)
    match fact.type:
        case "number":
            if isinstance(value, str) and value in CONSTANT_DOCS:
                return value
            if isinstance(value, bool) or not isinstance(value, int | float):
                known = ", ".join(CONSTANT_DOCS)
                raise fail(path, line, f"'{fact.name}' is a number; {value!r} is none (named numbers: {known})")
            if value != value:
                raise fail(path, line, "nothing compares with NaN")
            return value
        case "flag":
            if not isinstance(value, bool):
                raise fail(path, line, f"'{fact.name}' is true or false, not {value!r}")
            return value
        case _:
            if not isinstance(value, str):
                raise fail(path, line, f"'{fact.name}' is a text; put {value!r} in quotes")
            return value
