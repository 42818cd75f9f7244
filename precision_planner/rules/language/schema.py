"""From a rule's YAML to a `Rule`: every key known, every value typed, every error with file and line."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from precision_planner.patterns.match import KINDS
from precision_planner.rules.facts.registry import SUBJECTS, find_fact
from precision_planner.rules.facts.subjects import INPUT_KINDS, TENSOR_ROLES, MatchSpec
from precision_planner.rules.language import case_schema
from precision_planner.rules.language.action_schema import read_actions
from precision_planner.rules.language.clause_schema import clause_line, read_clause
from precision_planner.rules.language.clauses import Clause
from precision_planner.rules.language.rule import SEVERITIES, Case, Escalation, Rule, TargetSpec
from precision_planner.rules.language.yaml_tree import (
    Mapping,
    Sequence,
    check_keys,
    choice,
    choices,
    fail,
    parse_yaml,
    text_of,
    texts_of,
)
from precision_planner.targets import RUNTIMES, TARGETS

__all__ = ["POLICIES", "read_cases", "read_rule", "split_cases"]

POLICIES = ("auto", "rules", "torch-amp")
_ID = re.compile(r"[A-Z]{2,4}[0-9]{3}")
_KEYS = (
    "id", "title", "why", "references", "severity", "tags", "classes", "policies", "targets", "match", "when",
    "escalate", "evidence", "message", "action", "cases",
)  # fmt: skip
_REQUIRED = ("id", "title", "why", "references", "severity", "tags", "match", "action", "cases")
_FACT_IN_TEXT = re.compile(r"\{([A-Za-z0-9_.]+)\}")


def split_cases(text: str) -> tuple[str, str, int]:
    """Split a rule's file at its `cases:`, which is its last key.

    The cases are most of a file and are needed by nobody who evaluates the rule, so they are read apart.

    Returns:
      (everything before, `cases:` and everything behind, the line on which `cases:` stands); the second is "" where
      there are none.
    """
    found = re.search(r"^cases:", text, re.MULTILINE)
    if found is None:
        return text, "", 0
    return text[: found.start()], text[found.start() :], text.count("\n", 0, found.start()) + 1


def read_rule(text: str, path: Path) -> Rule:
    """Read a rule without its cases.

    Raises:
      RuleError: the file is not a valid rule; `file:line: what is wrong`.
    """
    head, rest, _ = split_cases(text)
    top = parse_yaml(head, path)
    if not isinstance(top, Mapping):
        raise fail(path, 1, "a rule is a mapping that begins with its id")
    check_keys(top, _KEYS, path, "a rule")
    for key in _REQUIRED:
        if key not in top and not (key == "cases" and rest):
            raise fail(path, top.line, f"the rule has no '{key}'")
    rule_id = text_of(top, "id", path)
    if not _ID.fullmatch(rule_id):
        raise fail(
            path, top.lines["id"], f"the id {rule_id!r} is not two to four capitals and three digits, as in LN001"
        )
    match = _match(top, path)
    message = text_of(top, "message", path, default=text_of(top, "title", path))
    evidence = texts_of(top, "evidence", path)
    for line, name in [
        *((top.lines.get("evidence", 1), name) for name in evidence),
        *((top.lines.get("message", 1), name) for name in _FACT_IN_TEXT.findall(message)),
    ]:
        if name != "subject" and find_fact(match.subject, name) is None:
            raise fail(path, line, f"a {match.subject} has no fact '{name}'; docs/rules/language.md lists them")
    targets = top.get("targets", Mapping())
    targets_line = top.lines.get("targets", 1)
    keys = ("precisions", "builds", "typing", "runtimes")
    if not isinstance(targets, Mapping):
        raise fail(path, targets_line, f"'targets' is a mapping with {', '.join(map(repr, keys))}")
    if targets:
        check_keys(targets, keys, path, "'targets'")
    references = texts_of(top, "references", path)
    if not references or not all(reference.startswith(("https://", "http://")) for reference in references):
        raise fail(path, top.lines["references"], "'references' needs at least one URL, and nothing else")
    return Rule(
        id=rule_id,
        title=text_of(top, "title", path),
        why=" ".join(text_of(top, "why", path).split()),
        references=references,
        severity=choice(top, "severity", SEVERITIES, path),
        tags=texts_of(top, "tags", path),
        classes=_classes(top, path),
        policies=choices(top, "policies", POLICIES, path) or ("auto", "rules"),
        precisions=choices(targets, "precisions", ("fp16", "bf16"), path) or ("fp16",),
        targets=_target_spec(targets, path),
        match=match,
        when=_clause(top, "when", match.subject, path),
        escalate=_escalations(top, match.subject, path),
        evidence=evidence,
        message=message,
        actions=read_actions(top, match, path),
        path=path,
        line=top.lines["id"],
    )


def _target_spec(targets: Mapping, path: Path) -> TargetSpec:
    """Which targets a rule is about; RuleError where one of them names none that there is."""
    builds = texts_of(targets, "builds", path)
    for glob in builds:
        if not any(fnmatchcase(name, glob) for name in TARGETS):
            raise fail(path, targets.lines["builds"], f"{glob!r} is no target; there are {', '.join(TARGETS)}")
    typing = choice(targets, "typing", ("weak", "strong"), path) if "typing" in targets else ""
    return TargetSpec(builds, typing, choices(targets, "runtimes", RUNTIMES, path))


def read_cases(rule: Rule) -> tuple[Case, ...]:
    """Read a rule's cases from its file.

    Raises:
      RuleError: a case is not valid, or one of the three kinds is missing.
    """
    _, rest, line = split_cases(rule.path.read_text(encoding="utf-8"))
    top = parse_yaml(rest, rule.path, first_line=line)
    if not isinstance(top, Mapping) or set(top) != {"cases"}:
        extra = next((key for key in top if key != "cases"), "") if isinstance(top, Mapping) else ""
        where = top.lines[extra] if isinstance(top, Mapping) and extra else line
        raise fail(rule.path, where, f"'cases' is a rule's last key; move '{extra}' before it")
    return case_schema.read_cases(top, rule)


def _classes(top: Mapping, path: Path) -> tuple[int, ...]:
    value = top.get("classes", Sequence())
    numbers = value if isinstance(value, Sequence) else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers):
        raise fail(path, top.lines["classes"], "'classes' is a list of the numbers of failure classes")
    return tuple(numbers)


def _clause(mapping: Mapping, key: str, subject: str, path: Path) -> Clause | None:
    if key not in mapping:
        return None
    return read_clause(mapping[key], subject, path, clause_line(mapping, key))


def _escalations(top: Mapping, subject: str, path: Path) -> tuple[Escalation, ...]:
    value = top.get("escalate")
    if value is None:
        return ()
    items = value if isinstance(value, Sequence) else [value]
    found = []
    for item in items:
        if not isinstance(item, Mapping):
            raise fail(path, top.lines["escalate"], "'escalate' takes {to: SEVERITY, when: CLAUSE}")
        check_keys(item, ("to", "when"), path, "'escalate'")
        clause = _clause(item, "when", subject, path)
        if clause is None:
            raise fail(path, item.line, "'escalate' has no 'when'")
        found.append(Escalation(choice(item, "to", SEVERITIES, path), clause))
    return tuple(found)


def _match(top: Mapping, path: Path) -> MatchSpec:
    value = top["match"]
    if not isinstance(value, Mapping):
        raise fail(path, top.lines["match"], "'match' takes one of pattern, op, tensor, input")
    check_keys(value, ("pattern", "op", "tensor", "input", "form", "domain", "name"), path, "'match'")
    given = [key for key in ("pattern", "op", "tensor", "input") if key in value]
    if len(given) != 1:
        raise fail(path, value.line, "'match' takes exactly one of pattern, op, tensor, input")
    key = given[0]
    subject = "node" if key == "op" else key
    assert subject in SUBJECTS
    read: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda allowed: choices(value, key, allowed, path)  # noqa: E731
    match subject:
        case "pattern":
            names = read(KINDS)
        case "tensor":
            names = read(TENSOR_ROLES)
        case "input":
            names = read(INPUT_KINDS)
        case _:
            names = texts_of(value, key, path)
            _check_ops(names, value, path)
    form = choice(value, "form", ("decomposed", "native"), path) if "form" in value else ""
    if form and subject != "pattern":
        raise fail(path, value.lines["form"], "'form' belongs to 'pattern'")
    domain = text_of(value, "domain", path) if "domain" in value else ""
    return MatchSpec(subject, names, form, domain, texts_of(value, "name", path))


def _check_ops(names: tuple[str, ...], value: Mapping, path: Path) -> None:
    """An op type of the standard domain that no opset ever had is a misspelling."""
    import difflib

    import onnx

    if "domain" in value:
        return
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise fail(path, value.lines["op"], f"ONNX has no operator {name}{hint}")
