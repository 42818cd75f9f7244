"""Reading a rule's cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from precision_planner.rules.facts.registry import json_value
from precision_planner.rules.language.rule import ACTION_KINDS, SEVERITIES, Case, Rule
from precision_planner.rules.language.yaml_tree import Mapping, Sequence, check_keys, choice, fail, text_of, texts_of
from precision_planner.targets import DEFAULT_TARGET, TARGETS

__all__ = ["CASE_KINDS", "read_cases"]

CASE_KINDS = ("fires", "near_miss", "extreme")
"""Every rule shows all three: a case that fires, one that just does not, one at an extreme value."""
_KEYS = (
    "name", "kind", "model", "builder", "inputs", "target", "precision", "options", "expect", "symptom", "cure",
)  # fmt: skip
_EXPECT = ("fires", "severity", "count", "action", "nodes")
_SYMPTOM = ("nonfinite", "error_above")
_CURE = ("error_below",)
_OPTIONS = ("synthesized", "accumulation", "headroom")


def read_cases(top: Mapping, rule: Rule) -> tuple[Case, ...]:
    """Read the cases under `cases`.

    Raises:
      RuleError: a case is not valid, or a kind of case is missing.
    """
    path = rule.path
    items = top["cases"]
    if not isinstance(items, Sequence) or not items:
        raise fail(path, top.lines["cases"], "'cases' is a list")
    cases = tuple(_case(item, path, line) for item, line in zip(items, items.lines, strict=True))
    for kind in CASE_KINDS:
        if not any(case.kind == kind for case in cases):
            raise fail(path, top.lines["cases"], f"the rule has no case of kind '{kind}'")
    names = [case.name for case in cases]
    for case in cases:
        if names.count(case.name) > 1:
            raise fail(path, case.line, f"two cases are called '{case.name}'")
    return cases


def _case(item: Any, path: Path, line: int) -> Case:
    if not isinstance(item, Mapping):
        raise fail(path, line, "a case is a mapping")
    check_keys(item, _KEYS, path, "a case")
    name, kind = text_of(item, "name", path), choice(item, "kind", CASE_KINDS, path)
    model, builder, parameters = _graph(item, path)
    expect = _mapping(item, "expect", path, required=True)
    check_keys(expect, _EXPECT, path, "'expect'")
    fires = expect.get("fires", True)
    if fires not in (True, False, "unknown"):
        raise fail(path, expect.lines["fires"], "'fires' is true, false or unknown")
    count = expect.get("count")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise fail(path, expect.lines["count"], "'count' is a whole number above zero")
    target = text_of(item, "target", path, default=DEFAULT_TARGET)
    if target not in TARGETS:
        raise fail(path, item.lines["target"], f"{target!r} is no target; there are {', '.join(TARGETS)}")
    return Case(
        name=name,
        kind=kind,
        model=model,
        builder=builder,
        parameters=parameters,
        inputs=_inputs(item, path),
        target=target,
        precision=choice(item, "precision", ("fp16", "bf16"), path) if "precision" in item else "fp16",
        options=_checked(item, "options", _OPTIONS, path) or {},
        fires=None if fires == "unknown" else bool(fires),
        severity=choice(expect, "severity", SEVERITIES, path) if "severity" in expect else "",
        count=count,
        action=choice(expect, "action", ACTION_KINDS, path) if "action" in expect else "",
        nodes=texts_of(expect, "nodes", path) if "nodes" in expect else None,
        symptom=_checked(item, "symptom", _SYMPTOM, path),
        cure=_checked(item, "cure", _CURE, path),
        line=line,
    )


def _mapping(item: Mapping, key: str, path: Path, *, required: bool = False) -> Mapping:
    value = item.get(key)
    if value is None and not required:
        empty = Mapping()
        empty.line, empty.lines = item.line, {}
        return empty
    if not isinstance(value, Mapping):
        raise fail(path, item.lines.get(key, item.line), f"a case needs '{key}' as a mapping")
    return value


def _checked(item: Mapping, key: str, allowed: tuple[str, ...], path: Path) -> dict[str, Any] | None:
    if key not in item:
        return None
    value = _mapping(item, key, path)
    check_keys(value, allowed, path, f"'{key}'")
    return {name: json_value(entry) for name, entry in value.items()}


def _graph(item: Mapping, path: Path) -> tuple[str, str, dict[str, Any]]:
    from precision_planner.rules.language.builders import BUILDERS

    if ("model" in item) == ("builder" in item):
        raise fail(path, item.line, "a case has either 'model' (ONNX text) or 'builder'")
    if "model" in item:
        if not isinstance(item["model"], str):
            raise fail(path, item.lines["model"], "'model' is the graph in ONNX's text format")
        return item["model"], "", {}
    value = item["builder"]
    if isinstance(value, str):
        name, given = value, {}
    elif isinstance(value, Mapping) and len(value) == 1:
        name = next(iter(value))
        given = value[name]
    else:
        raise fail(path, item.lines["builder"], "'builder' is a name, or {NAME: {parameters}}")
    if name not in BUILDERS:
        raise fail(path, item.lines["builder"], f"there is no builder '{name}'; there are {', '.join(BUILDERS)}")
    if isinstance(given, Mapping):
        check_keys(given, BUILDERS[name].parameters, path, f"the builder {name}")
    return "", name, {key: json_value(entry) for key, entry in given.items()}


def _inputs(item: Mapping, path: Path) -> dict[str, Any] | None:
    from precision_planner.rules.language.case_inputs import check_input

    if "inputs" not in item or item["inputs"] is None:
        return None
    value = _mapping(item, "inputs", path)
    found = {}
    for name, spec in value.items():
        check_input(spec, path, value.lines[name])
        found[name] = json_value(spec) if not isinstance(spec, int | float) else spec
    return found
