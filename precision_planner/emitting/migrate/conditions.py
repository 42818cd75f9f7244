"""Conditions on a layer in a script, as selections by name or operator."""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from precision_planner.emitting.migrate.recipe import Clause
from precision_planner.operators import Operator, operators

# TensorRT's layer types -> the ONNX operators that become them.
_LAYER_TYPES: dict[str, Callable[[Operator], bool]] = {
    "SOFTMAX": lambda row: row.name == "Softmax",
    "NORMALIZATION": lambda row: row.normalizes in ("layer", "instance", "group"),
    "MATRIX_MULTIPLY": lambda row: row.product == "matmul",
    "FULLY_CONNECTED": lambda row: row.product == "matmul",
    "CONVOLUTION": lambda row: row.name == "Conv",
    "DECONVOLUTION": lambda row: row.name == "ConvTranspose",
    "REDUCE": lambda row: bool(row.reduces) and not row.window and not row.scans and not row.picks_index,
    "UNARY": lambda row: _computes(row) and not row.broadcasts and not row.activation and not _bounds(row),
    "ELEMENTWISE": lambda row: _computes(row) and row.broadcasts and not row.activation,
    "ACTIVATION": lambda row: _computes(row) and not row.broadcasts and (row.activation or _bounds(row)),
    "POOLING": lambda row: row.window and row.reduces in ("mean", "max") and not row.coordinates,
    "RESIZE": lambda row: row.name == "Resize",
    "GRID_SAMPLE": lambda row: row.name == "GridSample",
    "EINSUM": lambda row: row.product == "einsum",
    "SCALE": lambda row: row.normalizes == "batch",
    "TOPK": lambda row: row.name == "TopK",
    "LRN": lambda row: row.normalizes == "local",
}
_ROUTINE = frozenset(
    {"SHAPE", "CONSTANT", "CONCATENATION", "SHUFFLE", "GATHER", "SLICE", "IDENTITY", "CAST", "FILL", "ASSERTION"}
)


def _computes(row: Operator) -> bool:
    """Whether it makes floats of floats, element by element."""
    return row.pointwise and not (
        row.moves or row.compares or row.tests or (row.exact and row.broadcasts and not row.joint)
    )


def _bounds(row: Operator) -> bool:
    """Relu and Clip, which TensorRT counts among its activations."""
    return row.name in ("Relu", "Clip")


def _operators_of(kind: str) -> list[str]:
    """The operators of ONNX that become TensorRT's layers of a type."""
    return [row.name for row in operators() if not row.domain and _LAYER_TYPES[kind](row)]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a layer: every clause must hold.

    Attributes:
      clauses: what its name matches or which operator it comes from; empty for no restriction.
      unread: source text of what could not be read.
      routine: it only passes over layers that have no precision (shapes, constants): no restriction worth keeping.
    """

    clauses: tuple[Clause, ...] = ()
    unread: tuple[str, ...] = ()
    routine: bool = False

    @staticmethod
    def of(by: str, values: Iterable[str]) -> Condition:
        """One clause."""
        return Condition((Clause(((by, tuple(values)),)),))

    @staticmethod
    def all_of(conditions: Iterable[Condition]) -> Condition:
        """The conjunction."""
        parts = list(conditions)
        unread = tuple(text for part in parts for text in part.unread)
        return Condition(tuple(clause for part in parts for clause in part.clauses), unread)

    def negated(self, text: str = "") -> Condition:
        """The opposite."""
        if self.unread:
            return Condition(unread=tuple(f"not ({entry})" for entry in self.unread))
        if self.routine:
            return self
        if len(self.clauses) == 1:
            clause = self.clauses[0]
            return Condition((Clause(clause.choices, not clause.negated),))
        return Condition(unread=(f"not ({text})",))


def read_condition(node: ast.expr, constants: dict[str, Any]) -> Condition:
    """Read a condition on `layer.name`, `layer.type`; what cannot be read is kept as text."""
    if isinstance(node, ast.BoolOp):
        parts = [read_condition(value, constants) for value in node.values]
        return Condition.all_of(parts) if isinstance(node.op, ast.And) else _any_of(parts, ast.unparse(node))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return read_condition(node.operand, constants).negated(ast.unparse(node.operand))
    found = _compare(node, constants) if isinstance(node, ast.Compare) else _test(node, constants)
    return found if found is not None else Condition(unread=(ast.unparse(node),))


def _compare(node: ast.Compare, constants: dict[str, Any]) -> Condition | None:
    if len(node.ops) != 1:
        return None
    left, operator, right = node.left, node.ops[0], node.comparators[0]
    if _is_type(left) or _is_type(right):
        return _type_test(right if _is_type(left) else left, operator)
    if isinstance(operator, (ast.In, ast.NotIn)):
        found: Condition | None = None
        if _is_name(left):
            names = _strings(right, constants)
            found = None if names is None else Condition.of("name", tuple(map(_literal_name, names)))
        elif _is_name(right):
            text = _strings(left, constants)
            found = None if text is None else Condition.of("contains", text)
        return None if found is None else found.negated() if isinstance(operator, ast.NotIn) else found
    if isinstance(operator, (ast.Eq, ast.NotEq)) and (_is_name(left) or _is_name(right)):
        text = _strings(right if _is_name(left) else left, constants)
        if text is None:
            return None
        found = Condition.of("name", tuple(map(_literal_name, text)))
        return found.negated() if isinstance(operator, ast.NotEq) else found
    return None


def _test(node: ast.expr, constants: dict[str, Any]) -> Condition | None:
    """`layer.name.startswith(x)`, `re.search(p, layer.name)`, `fnmatch(layer.name, p)` and `any(..)` of them."""
    if not isinstance(node, ast.Call):
        return None
    function = ast.unparse(node.func)
    if isinstance(node.func, ast.Attribute) and _is_name(node.func.value) and node.args:
        kind = {"startswith": "prefix", "endswith": "suffix", "__contains__": "contains"}.get(node.func.attr)
        values = _strings(node.args[0], constants)
        return Condition.of(kind, values) if kind and values is not None else None
    if function in ("any", "all") and len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp):
        return _any_in_generator(node.args[0], constants) if function == "any" else None
    if function.rpartition(".")[2] in ("fnmatch", "fnmatchcase") and len(node.args) == 2 and _is_name(node.args[0]):
        patterns = _strings(node.args[1], constants)
        if patterns is not None:
            return Condition.of("regex", tuple(fnmatch.translate(pattern) for pattern in patterns))
    if function.rpartition(".")[2] in ("search", "match", "fullmatch") and node.args and _is_name(node.args[-1]):
        patterns = _strings(node.args[0], constants) if len(node.args) == 2 else None
        if patterns is None and isinstance(node.func, ast.Attribute):
            patterns = _strings(node.func.value, constants)
        if patterns is not None:
            return Condition.of("regex", tuple(_anchored(function, pattern) for pattern in patterns))
    return None


def _anchored(function: str, pattern: str) -> str:
    kind = function.rpartition(".")[2]
    return pattern if kind == "search" else f"^(?:{pattern})" + ("$" if kind == "fullmatch" else "")


def _any_in_generator(generator: ast.GeneratorExp, constants: dict[str, Any]) -> Condition | None:
    """`any(word in layer.name for word in WORDS)` and the like, one condition a word."""
    if len(generator.generators) != 1 or generator.generators[0].ifs:
        return None
    loop = generator.generators[0]
    words = _strings(loop.iter, constants)
    if words is None or not isinstance(loop.target, ast.Name):
        return None
    parts = [read_condition(generator.elt, {**constants, loop.target.id: word}) for word in words]
    return _any_of(parts, ast.unparse(generator))


def _type_test(node: ast.expr, operator: ast.cmpop) -> Condition | None:
    entries = node.elts if isinstance(node, (ast.List, ast.Tuple, ast.Set)) else [node]
    kinds = [entry.attr for entry in entries if isinstance(entry, ast.Attribute)]
    if len(kinds) != len(entries) or not kinds:
        return None
    if all(kind in _ROUTINE for kind in kinds):
        return Condition(routine=True)
    if any(kind not in _LAYER_TYPES for kind in kinds):
        return None
    found = Condition.of("op", tuple(op for kind in kinds for op in _operators_of(kind)))
    return found.negated() if isinstance(operator, (ast.NotEq, ast.NotIn, ast.IsNot)) else found


def _is_name(node: ast.expr) -> bool:
    """`layer.name`, also lowered or `layer.metadata`."""
    return isinstance(node, ast.Attribute) and node.attr in ("name", "metadata")


def _is_type(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "type"


def _strings(node: ast.expr, constants: dict[str, Any]) -> tuple[str, ...] | None:
    """The strings of a literal, a constant's name, or a collection; None for anything else."""
    value: Any
    if isinstance(node, ast.Name):
        value = constants.get(node.id)
    else:
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError):
            return None
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple, set, frozenset, dict)) and all(isinstance(item, str) for item in value):
        return tuple(sorted(value)) if isinstance(value, (set, frozenset)) else tuple(value)
    return None


def _literal_name(name: str) -> str:
    """A name with its metadata wrapping taken off: scripts that match `[ONNX Layer: x]` mean x."""
    match = re.fullmatch(r"\[ONNX Layer: (.*)\]", name)
    return match[1] if match else name


def _any_of(parts: list[Condition], text: str) -> Condition:
    """The disjunction: of single clauses one clause, of anything else unreadable."""
    unread = tuple(entry for part in parts for entry in part.unread)
    if unread:
        return Condition(unread=unread)
    if all(part.routine for part in parts):
        return Condition(routine=True)
    if any(len(part.clauses) != 1 or part.clauses[0].negated for part in parts):
        return Condition(unread=(text,))
    return Condition((Clause(tuple(choice for part in parts for choice in part.clauses[0].choices)),))
