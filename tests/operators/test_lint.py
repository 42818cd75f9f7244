"""What an operator is stands on its row: no list of operators elsewhere.

Free to name operators: `operators` itself, `patterns` (a pattern is the operators that it is made of) and the rules,
which are YAML. Three names or more in one set, tuple, list or dict, or in one string, are a list.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import precision_planner
from precision_planner.operators import operators

PACKAGE = Path(precision_planner.__file__).parent
NAMES = frozenset(found.name for found in operators())
FREE = ("operators", "patterns", "targets")  # a target lists the operators that it treats otherwise
MANY = 3

TO_DO: frozenset[str] = frozenset(
    [
        "diffing/drawings.py",
        "diffing/layers.py",
        "emitting/migrate/conditions.py",
        "emitting/templates/engine_types.py",
        "model/blocks.py",
        "model/input_roles.py",
        "transforms/adapters.py",
        "transforms/constant_rank.py",
        "transforms/repairs/clamp_cube.py",
        "transforms/repairs/clamp_infinity.py",
        "transforms/repairs/constant_rank.py",
        "transforms/repairs/finite_mask.py",
        "transforms/repairs/homogeneity.py",
        "transforms/repairs/raise_epsilon.py",
        "transforms/repairs/rescale_weight.py",
        "transforms/repairs/stable_softplus.py",
        "transforms/repairs/stream.py",
        "transforms/write.py",
        "typing/forced.py",
        "typing/gather.py",
        "typing/lacks.py",
    ]
)
"""Files that still have lists of their own; the test fails for one that has none any more."""


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
        flat = [inner for part in parts for inner in (part.elts if isinstance(part, ast.Tuple) else [part])]
        names = [part.value for part in flat if isinstance(part, ast.Constant) and part.value in NAMES]
        if len(names) >= MANY:
            yield node.lineno, [str(name) for name in names]


def found_lists() -> dict[str, list[tuple[int, list[str]]]]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.split("/")[0] not in FREE:
            lists = list(operator_lists(ast.parse(path.read_text(encoding="utf-8"))))
            if lists:
                found[name] = lists
    return found


def test_nothing_lists_operators_but_their_rows() -> None:
    found = found_lists()
    for name in TO_DO:
        found.pop(name, None)
    assert not found, "ask precision_planner.operators instead (a column of the row, or a question)"


def test_the_files_to_do_have_lists_still() -> None:
    assert found_lists().keys() >= TO_DO


def test_lists_are_seen() -> None:
    code = """a = {"Add", "Mul", "Sub"}
b = ("Add", "Mul")
c = "Add Mul Sub".split()
d = {("Conv", 1): 0, ("Gemm", 1): 1, "Add": 2}
"""
    assert sorted(line for line, _ in operator_lists(ast.parse(code))) == [1, 3, 4]
