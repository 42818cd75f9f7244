"""A builder written in C++ against NVIDIA's own interface, read by its calls; nothing is compiled.

Read are `setFlag` and `clearFlag`, `setPrecision` and `setOutputType` with the `if` around them, the parsed file, the
workspace, the optimization level and the profiles. What stands under a condition that is no comparison of the layer's
name or type is reported with its line and left to the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from precision_planner.emitting.migrate.recipe import Choice, Clause, Recipe, RecipeConstraint, merged, precision_of
from precision_planner.errors import EngineError

SUFFIXES = (".cpp", ".cc", ".cxx", ".hpp", ".h", ".cu")
_LOW = {"FP16": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8", "INT4": "int4"}
_TYPES = {"FLOAT": "fp32", "HALF": "fp16"}
_SET = re.compile(r"(?:->|\.)\s*(setPrecision|setOutputType)\s*\(([^;]*)\)\s*;")
_NAMED = re.compile(r'(?:getName\(\)\s*\)?\s*==\s*"([^"]+)"|strcmp\([^,;]*getName\(\)\s*,\s*"([^"]+)"\s*\)\s*==\s*0)')
_HELD = re.compile(r'find\(\s*"([^"]+)"\s*\)\s*!=\s*[\w:]*npos|strstr\([^,;]*,\s*"([^"]+)"\s*\)')
_KIND = re.compile(r"getType\(\)\s*==\s*[\w:]*LayerType::k(\w+)")
_KINDS = {
    "NORMALIZATION": ("LayerNormalization",),
    "SOFTMAX": ("Softmax",),
    "CONVOLUTION": ("Conv",),
    "MATRIX_MULTIPLY": ("MatMul", "Gemm"),
}
"""TensorRT's layer types -> the ONNX operators that they are made of, where there is one answer."""


def read_cpp(source: str, name: str) -> Recipe:
    """Read a C++ file.

    Raises:
      EngineError: it makes no call that says anything of a build.
    """
    text = _without_comments(source)
    strings = dict(re.findall(r'(\w+)\s*(?:=|\{|\()\s*"([^"]+\.onnx)"', text))
    flags = set(re.findall(r"setFlag\s*\(\s*[\w:]*?k(\w+)\s*\)", text))
    cleared = set(re.findall(r"clearFlag\s*\(\s*[\w:]*?k(\w+)\s*\)", text))
    unknown: list[str] = []
    constraints = list(_constraints(text, unknown))
    settings: dict[str, Any] = {}
    for pool, size in re.findall(r"setMemoryPoolLimit\s*\(\s*[\w:]*k(\w+)\s*,\s*([^;]+?)\)\s*;", text):
        if pool == "WORKSPACE" and (limit := _number(size)) is not None:
            settings["workspace_bytes"] = limit
    for size in re.findall(r"setMaxWorkspaceSize\s*\(([^;]+?)\)\s*;", text):
        if (limit := _number(size)) is not None:
            settings["workspace_bytes"] = limit
    for level in re.findall(r"setBuilderOptimizationLevel\s*\(\s*(\d)\s*\)", text):
        settings["optimization_level"] = int(level)
    if "VERSION_COMPATIBLE" in flags:
        settings["version_compatible"] = True
    parsed = re.findall(r"parseFromFile\s*\(\s*([^,;]+?)\s*,", text)
    model = next((found for given in parsed if (found := _file(given, strings))), "")
    low = frozenset(_LOW[flag] for flag in flags if flag in _LOW)
    strong = bool(re.search(r"k?STRONGLY_TYPED", text))
    if not (constraints or low or parsed or strong or unknown):
        raise EngineError(
            f"{name} calls no builder of TensorRT's (setFlag, setPrecision, parseFromFile); nothing to do"
        )
    mode = "obey" if flags & {"OBEY_PRECISION_CONSTRAINTS", "STRICT_TYPES"} else "none"
    return Recipe(
        tool="script",
        text=name,
        model=model,
        low=low,
        mode="prefer" if "PREFER_PRECISION_CONSTRAINTS" in flags else mode,
        constraints=merged(constraints),
        tf32="TF32" not in cleared,  # the builder's own default is on
        strong=strong,
        profiles=_profiles(text),
        settings=settings,
        unknown=tuple(unknown),
    )


def _without_comments(source: str) -> str:
    """The source with its comments blank, so that lines keep their numbers; strings stay."""
    pattern = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.S)

    def blank(found: re.Match[str]) -> str:
        text = found.group()
        return text if text.startswith('"') else re.sub(r"[^\n]", " ", text)

    return pattern.sub(blank, source)


def _constraints(text: str, unknown: list[str]) -> Iterator[RecipeConstraint]:
    for call in _SET.finditer(text):
        line = text.count("\n", 0, call.start()) + 1
        kind = re.search(r"k(\w+)\s*$", call.group(2).strip())
        precision = None if kind is None else _TYPES.get(kind.group(1)) or precision_of(kind.group(1))
        said = f"line {line}: {' '.join(call.group().split()).lstrip('->.')}"
        if precision is None:
            unknown.append(f"{said} (the type cannot be read)")
            continue
        condition = _condition_before(text, call.start())
        choices = () if condition is None else _choices(condition)
        if condition is not None and not choices:
            unknown.append(f"{said} under {' '.join(condition.split())} (the condition cannot be read)")
            continue
        clauses = (Clause(choices),) if choices else ()
        is_output = call.group(1) == "setOutputType"
        yield RecipeConstraint(said, clauses, None if is_output else precision, precision if is_output else None, line)


def _condition_before(text: str, position: int) -> str | None:
    """The innermost `if (...)` whose body holds a position; None for none."""
    start = max(text.rfind(mark, 0, position) for mark in ";{}") + 1
    single = re.match(r"\s*(?:else\s+)?if\s*\((.*)\)\s*[\w\[\]]+\s*$", text[start:position], re.S)
    if single:
        return single.group(1)
    depth = 0
    for at in range(position - 1, -1, -1):
        if text[at] == "}":
            depth += 1
        elif text[at] == "{" and depth:
            depth -= 1
        elif text[at] == "{":
            before = text[max(0, at - 600) : at]
            head = re.search(r"\bif\s*\((.*)\)\s*$", before[max(before.rfind(mark) for mark in ";{}") + 1 :], re.S)
            if head:
                return head.group(1)
            if not re.search(r"\b(for|while|else|do)\b[^{}]*$", before):
                return None  # the function's own body
    return None


def _choices(condition: str) -> tuple[Choice, ...]:
    """The alternatives of a condition that compares names or layer types and nothing else; () for any other."""
    parts = [part for part in re.split(r"\|\|", condition) if part.strip()]
    found: list[Choice] = []
    for part in parts:
        if "&&" in part or part.strip().startswith("!"):
            return ()
        named, held, kind = _NAMED.search(part), _HELD.search(part), _KIND.search(part)
        if named:
            found.append(("name", (named.group(1) or named.group(2),)))
        elif held:
            found.append(("contains", (held.group(1) or held.group(2),)))
        elif kind and kind.group(1) in _KINDS:
            found.append(("op", _KINDS[kind.group(1)]))
        else:
            return ()
    return tuple(found)


def _profiles(text: str) -> dict[str, dict[str, tuple[int, ...]]]:
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    pattern = r'setDimensions\s*\(\s*"([^"]+)"\s*,\s*[\w:]*k(MIN|OPT|MAX)\s*,\s*[\w:]*Dims\d?\s*[({]([^)}]*)[)}]'
    for name, kind, sizes in re.findall(pattern, text):
        numbers = [part.strip() for part in sizes.split(",")]
        if all(part.isdigit() for part in numbers):
            found.setdefault(name, {})[kind.lower()] = tuple(map(int, numbers))
    return {name: shapes for name, shapes in found.items() if len(shapes) == 3}


def _file(given: str, strings: dict[str, str]) -> str:
    literal = re.search(r'"([^"]+)"', given)
    if literal:
        return literal.group(1)
    return strings.get(re.sub(r"\.c_str\(\)|\W", "", given), "")


def _number(text: str) -> int | None:
    """`1U << 30`, `1ULL << 30`, `2 * 1024 * 1024`, `1_GiB`, `1 << 30`; None for what 64 bits do not hold, too."""
    found = _product(text)
    return found if found is not None and found < 1 << 64 else None


def _product(text: str) -> int | None:
    unit = re.fullmatch(r"\s*([0-9]{1,19})_(KiB|MiB|GiB)\s*", text)
    if unit:
        return int(unit.group(1)) << {"KiB": 10, "MiB": 20, "GiB": 30}[unit.group(2)]
    plain = re.sub(r"\(?\s*(?:static_cast<\w+>|std::size_t|size_t)\s*\)?", "", text)
    plain = re.sub(r"(?<=\d)(?:ULL|UL|LL|U|L)\b", "", plain, flags=re.IGNORECASE).strip()
    shift = re.fullmatch(r"\(?([0-9]{1,19})\)?\s*<<\s*\(?([0-9]{1,2})\)?", plain)
    if shift:
        return int(shift.group(1)) << int(shift.group(2))
    product = 1
    for part in plain.split("*"):
        number = part.strip(" ()")
        if not re.fullmatch(r"[0-9]{1,19}", number) or product >= 1 << 64:
            return None
        product *= int(number)
    return product
