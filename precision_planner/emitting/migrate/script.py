"""Constraints in a Polygraphy network script, read from its syntax tree; the script is never executed.

Read are assignments to `layer.precision` and calls of `layer.set_output_type`, under the conditions around them; the
builder flags and the arguments of `CreateConfig`; the model of `NetworkFromOnnxPath`. A condition that cannot be read
is reported with its line, and its constraint is left to the user: nothing is guessed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from precision_planner._reading import parse_python
from precision_planner.emitting.migrate.conditions import Condition, read_condition
from precision_planner.emitting.migrate.recipe import Clause, Recipe, RecipeConstraint, merged, precision_of
from precision_planner.errors import EngineError

_LOW = ("fp16", "bf16", "int8", "fp8")


@dataclass
class _Reading:
    """What was found so far."""

    constants: dict[str, Any]
    low: set[str]
    constraints: list[RecipeConstraint]
    unknown: list[str]
    profiles: dict[str, dict[str, tuple[int, ...]]]
    settings: dict[str, Any]
    model: str = ""
    mode: str = "none"
    strong: bool = False
    tf32: bool = False
    calibration: str = ""


def read_script(source: str, name: str) -> Recipe:
    """Read a script.

    Raises:
      EngineError: it is not Python.
    """
    try:
        tree = parse_python(source, name)
    except SyntaxError as error:
        raise EngineError(f"{name}:{error.lineno}: not Python ({error.msg}); give a Polygraphy script") from None
    state = _Reading(_constants(tree), set(), [], [], {}, {})
    _statements(tree.body, (), state)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _call(node, state)
    if not (state.constraints or state.low or state.model or state.strong or state.unknown):
        raise EngineError(f"{name} sets no precision, output type or builder flag; nothing to migrate")
    return Recipe(
        tool="script",
        text=name,
        model=state.model,
        low=frozenset(state.low),
        mode=state.mode,
        constraints=merged(state.constraints),
        tf32=state.tf32,
        strong=state.strong,
        profiles=state.profiles,
        calibration=state.calibration,
        settings=state.settings,
        unknown=tuple(state.unknown),
    )


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Names bound once, anywhere, to a literal: lists of layer names and the like."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            try:
                value = ast.literal_eval(_unwrapped(node.value))
            except (ValueError, TypeError):
                value = None
            found[name] = None if name in found else value
    return {name: value for name, value in found.items() if value is not None}


def _unwrapped(node: ast.expr) -> ast.expr:
    """`set([...])`, `frozenset(...)`, `re.compile("...")`: what they hold."""
    if isinstance(node, ast.Call) and len(node.args) >= 1 and ast.unparse(node.func) in (
        "set", "frozenset", "tuple", "list", "re.compile",
    ):  # fmt: skip
        return node.args[0]
    return node


def _statements(body: list[ast.stmt], conditions: tuple[Condition, ...], state: _Reading) -> None:
    """Walk statements with the conditions under which they run; a `continue` guards what follows it."""
    for statement in body:
        if isinstance(statement, ast.If):
            condition = read_condition(statement.test, state.constants)
            _statements(statement.body, (*conditions, condition), state)
            _statements(statement.orelse, (*conditions, condition.negated()), state)
            if _leaves(statement.body) and not statement.orelse:
                conditions = (*conditions, condition.negated())
            continue
        _assignment(statement, conditions, state)
        for inner in _bodies(statement):
            _statements(inner, conditions, state)


def _leaves(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], (ast.Continue, ast.Return, ast.Break, ast.Raise))


def _bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        inner = getattr(statement, field, None)
        if isinstance(inner, list) and inner and isinstance(inner[0], ast.stmt):
            yield inner
    for handler in getattr(statement, "handlers", ()):
        yield handler.body


def _assignment(statement: ast.stmt, conditions: tuple[Condition, ...], state: _Reading) -> None:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Attribute) and target.attr == "precision":
                _constrain(statement, statement.value, "precision", conditions, state)
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        if isinstance(call.func, ast.Attribute) and call.func.attr == "set_output_type" and len(call.args) == 2:
            _constrain(statement, call.args[1], "output_type", conditions, state)


def _constrain(
    statement: ast.stmt, value: ast.expr, attribute: str, conditions: tuple[Condition, ...], state: _Reading
) -> None:
    precision = _dtype(value, state.constants)
    text = f"line {statement.lineno}: {ast.unparse(statement)}"
    if precision is None:
        state.unknown.append(f"{text} (the type cannot be read)")
        return
    condition = Condition.all_of(conditions)
    if condition.unread:
        state.unknown.append(f"{text} under {'; '.join(condition.unread)} (the condition cannot be read)")
        return
    given: dict[str, str] = {attribute: precision}
    for clauses in _alternatives(condition.clauses):
        which = " | ".join(" ".join((by, *values)) for clause in clauses for by, values in clause.choices)
        told = f"{text} ({which})" if which else text
        state.constraints.append(
            RecipeConstraint(told, clauses, given.get("precision"), given.get("output_type"), statement.lineno)
        )


def _alternatives(clauses: tuple[Clause, ...]) -> list[tuple[Clause, ...]]:
    """A single clause name by name, so that each is reported for itself; several together as they are."""
    if len(clauses) != 1 or clauses[0].negated:
        return [clauses]
    return [(Clause(((by, (value,)),)),) for by, values in clauses[0].choices for value in values]


def _dtype(node: ast.expr, constants: dict[str, Any]) -> str | None:
    """`trt.float32`, `trt.DataType.HALF`, `tensorrt.float16`, a name bound to one."""
    if isinstance(node, ast.Attribute):
        return precision_of(node.attr)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return precision_of(node.value)
    if isinstance(node, ast.Name):
        return precision_of(str(constants.get(node.id, node.id)))
    return None


def _call(node: ast.Call, state: _Reading) -> None:
    """Builder flags, CreateConfig, NetworkFromOnnxPath, Profile.add, Calibrator."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    given = {keyword.arg: _literal(keyword.value, state.constants) for keyword in node.keywords if keyword.arg}
    if name == "set_flag" and node.args:
        flag = ast.unparse(node.args[0]).rpartition(".")[2].lower()
        if flag in _LOW:
            state.low.add(flag)
        state.tf32 = state.tf32 or flag == "tf32"
        if flag in ("obey_precision_constraints", "strict_types"):
            state.mode = "obey"
        elif flag == "prefer_precision_constraints":
            state.mode = "prefer"
    elif name in ("CreateConfig", "create_config"):
        state.low |= {flag for flag in _LOW if given.get(flag) is True}
        state.tf32 = state.tf32 or given.get("tf32") is True
        mode = given.get("precision_constraints")
        if given.get("obey_precision_constraints") is True:
            mode = "obey"
        state.mode = mode if isinstance(mode, str) else state.mode
        if isinstance(given.get("builder_optimization_level"), int):
            state.settings["optimization_level"] = given["builder_optimization_level"]
        if given.get("version_compatible") is True:
            state.settings["version_compatible"] = True
    elif name in ("NetworkFromOnnxPath", "network_from_onnx_path"):
        path = _literal(node.args[0], state.constants) if node.args else given.get("path")
        state.model = path if isinstance(path, str) else state.model
        state.strong = state.strong or given.get("strongly_typed") is True
    elif name == "add" and {"min", "opt", "max"} <= set(given):
        tensor = _literal(node.args[0], state.constants) if node.args else given.get("name")
        if isinstance(tensor, str):
            state.profiles[tensor] = {kind: tuple(given[kind]) for kind in ("min", "opt", "max") if given[kind]}
    elif name == "Calibrator" and isinstance(given.get("cache"), str):
        state.calibration = str(given["cache"])
        state.low.add("int8")


def _literal(node: ast.expr, constants: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None
