"""What an operator is stands on its row: no list of operators elsewhere.

Free to name operators: `operators` itself, `patterns` (a pattern is the operators that it is made of) and the rules,
which are YAML. Three names or more in one set, tuple, list or dict, or in one string, are a list.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import precision_planner
from precision_planner.operators import GEMMS, operators

PACKAGE = Path(precision_planner.__file__).parent
NAMES = frozenset(found.name for found in operators())
FREE = ("operators", "patterns", "targets")  # a target lists the operators that it treats otherwise
STANDALONE = "emitting/templates"
"""Runs on the device without us; test_templates_say_what_the_rows_say holds its list to the rows."""
MANY = 3


def operator_lists(tree: ast.AST) -> Iterator[tuple[int, list[str]]]:
    """(line, names) of every literal that lists operators."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Set | ast.Tuple | ast.List):
            parts: list[ast.expr | None] = list(node.elts)
        elif isinstance(node, ast.Dict):
            parts = list(node.keys)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split()
            if len(words) >= MANY and set(words) <= NAMES:
                yield node.lineno, words
            continue
        elif isinstance(node, ast.MatchOr):
            patterns = [p.value for p in node.patterns if isinstance(p, ast.MatchValue)]
            parts = list(patterns)
        else:
            continue
        flat = parts
        if isinstance(node, ast.Dict):
            flat = [inner for part in parts for inner in (part.elts if isinstance(part, ast.Tuple) else [part])]
            if all(isinstance(value, ast.Name | ast.Call | ast.Lambda | ast.DictComp) for value in node.values):
                continue  # a dispatch: what is done with an operator, not what it is
        names = [part.value for part in flat if isinstance(part, ast.Constant) and part.value in NAMES]
        if len(names) >= MANY:
            yield node.lineno, [str(name) for name in names]


def found_lists() -> dict[str, list[tuple[int, list[str]]]]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.split("/")[0] not in FREE and not name.startswith(STANDALONE):
            lists = list(operator_lists(ast.parse(path.read_text(encoding="utf-8"))))
            if lists:
                found[name] = lists
    return found


def test_nothing_lists_operators_but_their_rows() -> None:
    found = found_lists()
    assert not found, "ask precision_planner.operators instead (a column of the row, or a question)"


def test_lists_are_seen() -> None:
    code = """a = {"Add", "Mul", "Sub"}
b = ("Add", "Mul")
c = "Add Mul Sub".split()
d = {("Conv", 1): 0, ("Gemm", 1): 1, "Add": 2}
"""
    assert sorted(line for line, _ in operator_lists(ast.parse(code))) == [1, 3, 4]


def test_templates_say_what_the_rows_say() -> None:
    source = (PACKAGE / STANDALONE / "engine_types.py").read_text(encoding="utf-8")
    lists = [sorted(names) for _, names in operator_lists(ast.parse(source))]
    weighty = GEMMS | {"recurrent"}
    known = {row.name for row in operators() if row.product in weighty and not row.domain}
    # TensorRT's parser has no layer for these two
    assert lists == [sorted(known - {"CausalConvWithState", "DeformConv"})]
