"""GELU in its spellings: by erf, by tanh, by sigmoid, and the native ops."""

from __future__ import annotations

from math import pi, sqrt

from precision_planner.patterns.match import Match
from precision_planner.patterns.view import View

_NATIVE = {
    ("", "Gelu"): "",
    ("com.microsoft", "Gelu"): "erf",
    ("com.microsoft", "BiasGelu"): "erf",
    ("com.microsoft", "FastGelu"): "tanh",
    ("com.microsoft", "QuickGelu"): "sigmoid",
}
_CLOSE = 2e-3
"""Relative tolerance on the constants: they come rounded to half, and 1.702 is itself an approximation."""


def find_gelu(view: View) -> list[Match]:
    """Every GELU of a scope; attribute `approximate` is erf, tanh or sigmoid."""
    matches = []
    for position, node in enumerate(view.scope.nodes):
        domain = "" if node.domain == "ai.onnx" else node.domain
        native = _NATIVE.get((domain, node.op_type))
        if native is not None and node.output:
            for attribute in node.attribute:
                if attribute.name == "approximate":
                    native = "tanh" if attribute.s == b"tanh" else "erf"
            matches.append(_make(view, "native", {position}, node.input[0], node.output[0], native or "erf"))
        elif not domain and node.op_type in ("Erf", "Tanh", "Sigmoid") and node.input:
            found = _written_out(view, position, node.op_type)
            if found is not None:
                matches.append(found)
    return matches


def _make(view: View, form: str, nodes: set[int], x: str, output: str, approximate: str) -> Match:
    attributes = {"approximate": approximate}
    return Match("gelu", form, view.scope.path, view.ids(nodes), {"x": x}, output, attributes=attributes)


def _written_out(view: View, position: int, op: str) -> Match | None:
    node = view.scope.nodes[position]
    argument = {"Erf": _erf_argument, "Tanh": _tanh_argument, "Sigmoid": _sigmoid_argument}[op](view, node.input[0])
    if argument is None:
        return None
    x, nodes = argument
    nodes = nodes | {position}
    value, needs_one, factor = node.output[0], op != "Sigmoid", 1.0
    seen_x = False
    for _ in range(6):
        reader = view.sole_consumer(value)
        following = None if reader is None else view.standard(reader)
        if reader is None or following is None or following.op_type not in ("Add", "Mul", "Div", "Cast", "Identity"):
            break
        if following.op_type in ("Cast", "Identity"):
            nodes.add(reader)
            value = following.output[0]
            continue
        other = following.input[1] if following.input[0] == value else following.input[0]
        number = view.scalar(other, 8)
        if following.op_type == "Add":
            if not needs_one or number is None or not _close(number, factor):
                return None
            needs_one = False
        elif number is not None:
            if following.op_type == "Div":
                number = 1 / number
            factor *= number
        else:
            scaled = _scaled(view, other)
            if seen_x or following.op_type == "Div" or needs_one or not view.same(scaled[0], x):
                break
            factor *= scaled[1]
            nodes |= scaled[2]
            seen_x = True
        nodes.add(reader)
        value = following.output[0]
        if seen_x and not needs_one and _close(factor, 1.0 if op == "Sigmoid" else 0.5):
            return _make(view, "decomposed", nodes, x, value, {"Erf": "erf", "Tanh": "tanh", "Sigmoid": "sigmoid"}[op])
    return None


def _close(found: float, wanted: float) -> bool:
    return abs(found - wanted) <= _CLOSE * abs(wanted)


def _scaled(view: View, value: str) -> tuple[str, float, set[int]]:
    """(x, c, nodes) where value is c * x."""
    factor, nodes = 1.0, set(view.path(value))
    at = view.root(value)
    for _ in range(3):
        node = view.node(at)
        if node is None or node.op_type not in ("Mul", "Div"):
            break
        for slot in (1, 0) if node.op_type == "Mul" else (1,):
            number = view.scalar(node.input[slot], 8)
            if number is not None and number != 0:
                factor *= 1 / number if node.op_type == "Div" else number
                nodes |= {view.position(at), *view.path(node.input[1 - slot])}
                at = view.root(node.input[1 - slot])
                break
        else:
            break
    return at, factor, nodes


def _erf_argument(view: View, value: str) -> tuple[str, set[int]] | None:
    x, factor, nodes = _scaled(view, value)
    return (x, nodes) if _close(factor, 1 / sqrt(2)) else None


def _sigmoid_argument(view: View, value: str) -> tuple[str, set[int]] | None:
    x, factor, nodes = _scaled(view, value)
    return (x, nodes) if _close(factor, 1.702) else None


def _tanh_argument(view: View, value: str) -> tuple[str, set[int]] | None:
    """sqrt(2/pi) * (x + 0.044715 x^3), or x * sqrt(2/pi) * (1 + 0.044715 x^2)."""
    inner, factor, nodes = _scaled(view, value)
    node = view.node(inner)
    if node is None:
        return None
    if node.op_type == "Add" and _close(factor, sqrt(2 / pi)):
        for first, second in ((0, 1), (1, 0)):
            x = view.root(node.input[first])
            cubic = _power(view, node.input[second], x)
            if cubic is not None and cubic[0] == 3 and _close(cubic[1], 0.044715):
                return x, nodes | {view.position(inner)} | cubic[2]
    if node.op_type == "Mul":
        for first, second in ((0, 1), (1, 0)):
            x, outer, outer_nodes = _scaled(view, node.input[first])
            bracket, more, bracket_nodes = _scaled(view, node.input[second])
            add = view.node(bracket)
            if add is None or add.op_type != "Add" or not _close(factor * outer * more, sqrt(2 / pi)):
                continue
            for slot in (0, 1):
                square = _power(view, add.input[slot], x)
                one = view.scalar(add.input[1 - slot], 8)
                if square is not None and square[0] == 2 and _close(square[1], 0.044715) and one == 1:
                    used = nodes | outer_nodes | bracket_nodes | {view.position(inner), view.position(bracket)}
                    return x, used | square[2]
    return None


def _power(view: View, value: str, x: str, depth: int = 5) -> tuple[int, float, set[int]] | None:
    """(n, c, nodes) where value is c * x^n; None otherwise."""
    root = view.root(value)
    if root == x:
        return 1, 1.0, set(view.path(value))
    number = view.scalar(value, 8)
    if number is not None:
        return 0, number, set()
    node = view.node(root)
    if node is None or depth == 0:
        return None
    nodes = {view.position(root), *view.path(value)}
    if node.op_type == "Pow":
        exponent, base = view.scalar(node.input[1], 8), _power(view, node.input[0], x, depth - 1)
        if base is None or exponent not in (2.0, 3.0):
            return None
        return base[0] * int(exponent), float(base[1] ** int(exponent)), nodes | base[2]
    if node.op_type == "Mul":
        a, b = (_power(view, name, x, depth - 1) for name in node.input)
        return None if a is None or b is None else (a[0] + b[0], a[1] * b[1], nodes | a[2] | b[2])
    return None
