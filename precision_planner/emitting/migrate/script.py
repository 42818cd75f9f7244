"""A builder in Python, read from its syntax tree; the script is never executed.

A Polygraphy network script, or one against NVIDIA's own interface: there TF32 is on unless its flag is cleared. One
that has onnxruntime (`trt_fp16_enable`) or torch_tensorrt (`enabled_precisions`) build in half is read too.

Read are assignments to `layer.precision` and calls of `layer.set_output_type`, under the conditions around them; the
builder flags and the arguments of `CreateConfig`; the model of `NetworkFromOnnxPath`. A condition that cannot be read
is reported with its line, and its constraint is left to the user: nothing is guessed.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
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
    engine: str = ""
    plain: bool = False
    opened: str = ""
    notes: list[str] = field(default_factory=list)


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
    # TensorRT's own configuration has TF32 on; Polygraphy's CreateConfig switches it off unless asked
    state.plain = any(
        isinstance(node, ast.Attribute) and node.attr == "create_builder_config" for node in ast.walk(tree)
    )
    state.tf32 = state.plain
    _statements(tree.body, (), state)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _call(node, state)
            _foreign(node, state)
        elif isinstance(node, ast.Assign):
            _setting(node, state)
        elif isinstance(node, ast.Dict):
            _provider_options(node, state)
    if not (state.constraints or state.low or state.model or state.strong or state.unknown):
        raise EngineError(f"{name} sets no precision, output type or builder flag; nothing to migrate")
    return Recipe(
        tool="script",
        text=name,
        model=state.model or state.opened,
        engine=state.engine,
        low=frozenset(state.low),
        mode=state.mode,
        constraints=merged(state.constraints),
        tf32=state.tf32,
        strong=state.strong,
        profiles=state.profiles,
        calibration=state.calibration,
        settings=state.settings,
        unknown=tuple(state.unknown),
        notes=tuple(dict.fromkeys(state.notes)),
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
    for part in ("body", "orelse", "finalbody"):
        inner = getattr(statement, part, None)
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
    elif name == "clear_flag" and node.args:
        flag = ast.unparse(node.args[0]).rpartition(".")[2].lower()
        state.tf32 = state.tf32 and flag != "tf32"
    elif name == "set_memory_pool_limit" and len(node.args) == 2:
        size = _number(node.args[1], state.constants)
        if ast.unparse(node.args[0]).endswith("WORKSPACE") and size is not None:
            state.settings["workspace_bytes"] = size
    elif name in ("parse_from_file", "InferenceSession") and node.args:
        path = _literal(node.args[0], state.constants)
        state.model = state.model or (path if isinstance(path, str) else "")
    elif name == "open" and node.args:
        path = _literal(node.args[0], state.constants)
        if isinstance(path, str) and path.endswith(".onnx"):
            state.opened = path
        elif isinstance(path, str) and path.endswith((".engine", ".plan", ".trt")):
            state.engine = path
    elif name == "create_network" and node.args and "STRONGLY_TYPED" in ast.unparse(node.args[0]):
        state.strong = True
    elif name == "set_shape" and len(node.args) == 4:
        tensor, *shapes = (_literal(argument, state.constants) for argument in node.args)
        if isinstance(tensor, str) and all(isinstance(shape, (tuple, list)) for shape in shapes):
            state.profiles[tensor] = {kind: tuple(s) for kind, s in zip(("min", "opt", "max"), shapes, strict=True)}
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


def _setting(node: ast.Assign, state: _Reading) -> None:
    """`config.builder_optimization_level = 5`, `config.max_workspace_size = 1 << 30`."""
    for target in node.targets:
        if not isinstance(target, ast.Attribute):
            continue
        number = _number(node.value, state.constants)
        if number is not None and target.attr == "builder_optimization_level":
            state.settings["optimization_level"] = number
        elif number is not None and target.attr == "max_workspace_size":
            state.settings["workspace_bytes"] = number


def _provider_options(node: ast.Dict, state: _Reading) -> None:
    """onnxruntime's TensorRT provider: {"trt_fp16_enable": True, ...}."""
    given = {
        str(key.value): _literal(value, state.constants)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant)
    }
    on = (True, 1, "1", "True", "true")
    found = {kind for kind in ("fp16", "bf16", "int8") if given.get(f"trt_{kind}_enable") in on}
    if not found:
        return
    state.low |= found
    state.tf32 = True  # the provider's builder keeps TensorRT's default
    size = given.get("trt_max_workspace_size")
    if isinstance(size, int):
        state.settings["workspace_bytes"] = size
    state.notes.append(
        "onnxruntime's TensorRT provider builds the typed model as it is: give it that file and leave "
        "trt_fp16_enable out, or the builder rounds what the graph keeps"
    )


def _foreign(node: ast.Call, state: _Reading) -> None:
    """torch_tensorrt's enabled_precisions, ultralytics' export(half=True)."""
    given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if "enabled_precisions" in given:
        text = ast.unparse(given["enabled_precisions"])
        state.low |= {kind for word, kind in _TORCH.items() if re.search(rf"\b{word}\b", text)}
        state.tf32 = True
        state.notes.append(
            "torch_tensorrt's enabled_precisions is weak typing: export the module with torch.onnx.export(..., "
            "dynamo=True) and build from the typed ONNX file, or give use_explicit_typing=True a module with types"
        )
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    half = given.get("half")
    if name == "export" and isinstance(half, ast.Constant) and half.value is True:
        state.low.add("fp16")
        state.notes.append(
            'export(format="engine", half=True) rounds unchecked: export(format="onnx") in FP32, and decide afterwards'
        )


_TORCH = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "int8": "int8"}


def _number(node: ast.expr, constants: dict[str, Any]) -> int | None:
    """`1 << 30`, `4 * 1024**3`, a name bound to a number."""
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left, constants), _number(node.right, constants)
        if left is None or right is None or abs(left) >= 1 << 64:
            return None
        match node.op:
            case ast.LShift():
                return left << right if 0 <= right < 64 else None
            case ast.Mult():
                return left * right
            case ast.Pow():
                return int(left**right) if 0 <= right < 64 else None
        return None
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "int" and len(node.args) == 1:
        return _number(node.args[0], constants)
    value = _literal(node, constants)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value)


def _literal(node: ast.expr, constants: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None
