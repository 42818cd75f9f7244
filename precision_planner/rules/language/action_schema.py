"""Reading actions: alternatives in order of preference, each a kind with its nodes, repair and parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from precision_planner.rules.facts.evidence import CONSTANT_DOCS
from precision_planner.rules.facts.node_sets import NODE_SETS, NodeSet
from precision_planner.rules.facts.subjects import MatchSpec
from precision_planner.rules.language.clause_schema import clause_line, read_clause
from precision_planner.rules.language.rule import ACTION_KINDS, REWRITE_KINDS, ActionSpec
from precision_planner.rules.language.yaml_tree import Mapping, Sequence, check_keys, choice, fail, text_of, texts_of

__all__ = ["read_actions"]


def read_actions(top: Mapping, match: MatchSpec, path: Path) -> tuple[ActionSpec, ...]:
    """Read a rule's `action`: a kind, a mapping {KIND: options}, or a list of those.

    Raises:
      RuleError: an unknown kind, repair, parameter or node set.
    """
    value = top["action"]
    line = top.lines["action"]
    if isinstance(value, Sequence):
        if not value:
            raise fail(path, line, "'action' is empty; write warn where a rule only says something")
        return tuple(_action(item, match, path, at) for item, at in zip(value, value.lines, strict=True))
    return (_action(value, match, path, line),)


def _action(value: Any, match: MatchSpec, path: Path, line: int) -> ActionSpec:
    if isinstance(value, str):
        kind, options = value, Mapping()
        options.line, options.lines = line, {}
    elif isinstance(value, Mapping) and len(value) == 1:
        kind = next(iter(value))
        options = value[kind]
        line = value.lines[kind]
        if options is None:
            options = Mapping()
            options.line, options.lines = line, {}
        if not isinstance(options, Mapping):
            raise fail(path, line, f"'{kind}' takes a mapping of options")
    else:
        raise fail(path, line, "an action is a kind, or {KIND: {options}}")
    if kind not in ACTION_KINDS:
        raise fail(path, line, f"there is no action '{kind}'; there are {', '.join(ACTION_KINDS)}")
    if kind == "fuse" and match.subject != "pattern":
        raise fail(path, line, "'fuse' needs a rule about a pattern")
    nodes = _nodes(options, match, path)
    when = None
    if "when" in options:
        when = read_clause(options["when"], match.subject, path, clause_line(options, "when"))
    keep_as = ""
    if "as" in options:
        if kind != "keep_fp32":
            raise fail(path, options.lines["as"], "'as' belongs to keep_fp32")
        keep_as = choice(options, "as", ("compute", "island"), path)
    repair, parameters = _repair(kind, options, path, line)
    return ActionSpec(kind, nodes, repair, parameters, keep_as, when)


def _nodes(options: Mapping, match: MatchSpec, path: Path) -> tuple[NodeSet, ...]:
    default = "consumers" if match.subject in ("tensor", "input") else "subject"
    if "nodes" not in options:
        return (NodeSet(default),)
    value = options["nodes"]
    line = options.lines["nodes"]
    terms = value if isinstance(value, Sequence) else [value]
    lines = value.lines if isinstance(value, Sequence) else [line]
    if not terms:
        raise fail(path, line, "'nodes' is empty")
    return tuple(_term(term, path, at) for term, at in zip(terms, lines, strict=True))


def _term(term: Any, path: Path, line: int) -> NodeSet:
    if isinstance(term, str):
        name, role, ops = term, "", tuple[str, ...]()
    elif isinstance(term, Mapping):
        check_keys(term, ("set", "role", "ops"), path, "a node set")
        name = text_of(term, "set", path)
        role = text_of(term, "role", path, default="-")
        role = "" if role == "-" else role
        ops = texts_of(term, "ops", path)
    else:
        raise fail(path, line, "a node set is a name or {set: NAME, role: ROLE, ops: [..]}")
    if name not in NODE_SETS:
        raise fail(path, line, f"there is no node set '{name}'; there are {', '.join(NODE_SETS)}")
    return NodeSet(name, role, ops)


def _repair(kind: str, options: Mapping, path: Path, line: int) -> tuple[str, dict[str, Any]]:
    from precision_planner.transforms.repairs import REPAIRS

    needs_repair = kind in REWRITE_KINDS and kind != "fuse"
    if not needs_repair:
        check_keys(options, ("nodes", "when", *(("as",) if kind == "keep_fp32" else ())), path, f"'{kind}'")
        return "", {}
    name = options.get("repair")
    fitting = [repair.name for repair in REPAIRS.values() if repair.kind == kind]
    if not isinstance(name, str) or name not in fitting:
        at = options.lines.get("repair", line)
        raise fail(path, at, f"'{kind}' needs a repair: one of {', '.join(fitting)}")
    repair = REPAIRS[name]
    check_keys(options, ("nodes", "when", "repair", *repair.parameters), path, f"'{name}'")
    parameters: dict[str, Any] = {}
    for key, default in repair.parameters.items():
        value = options.get(key, default)
        if isinstance(value, str) and value in CONSTANT_DOCS:
            parameters[key] = value  # known when the rule is asked
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise fail(
                path, options.lines.get(key, line), f"'{key}' of {name} is a number or one of its names, not {value!r}"
            )
        parameters[key] = float(value)
    return name, parameters
