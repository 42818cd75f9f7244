"""Residual adds, L2 normalization and rotary embedding: structural matches that rules use."""

from __future__ import annotations

from collections import deque

import onnx

from precision_planner.model import FLOAT_TYPES
from precision_planner.patterns.match import Match
from precision_planner.patterns.normalization_terms import Terms
from precision_planner.patterns.view import View, attribute_int

_MAX_BRANCH = 160
"""Nodes of a residual branch that are looked through; the branch of a decomposed attention has about 60."""


def find_residuals(view: View) -> list[Match]:
    """Adds of a value and something computed from it: the skip connection is read again by its own branch."""
    matches = []
    for position, node in enumerate(view.scope.nodes):
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx") or len(node.input) != 2:
            continue
        a, b = node.input
        if a == b or view.elem(node.output[0]) not in (0, *FLOAT_TYPES):
            continue
        rank = view.rank(node.output[0])
        if rank is not None and rank < 2:
            continue
        if _feeds_softmax(view, node.output[0]):
            continue  # scores plus a bias or mask
        for skip, branch in ((a, b), (b, a)):
            root = view.root(skip)
            if len(view.scope.consumers(root)) + len(view.scope.consumers(skip)) < 2 or view.is_parameter(skip):
                continue
            depth = _reaches(view, branch, {skip, root})
            if depth:
                inputs = {"skip": skip, "branch": branch}
                attributes = {"branch_nodes": depth}
                ids = view.ids({position})
                path = view.scope.path
                matches.append(Match("residual", "native", path, ids, inputs, node.output[0], attributes=attributes))
                break
    return matches


def _feeds_softmax(view: View, value: str) -> bool:
    for _ in range(4):
        readers = [view.scope.nodes[use.position] for use in view.scope.consumers(value)[:4]]
        if any(node.op_type == "Softmax" for node in readers):
            return True
        onward = [node for node in readers if node.op_type in ("Cast", "Identity", "Where", "Add", "Reshape")]
        if len(onward) != 1 or len(readers) != 1:
            return False
        value = onward[0].output[0]
    return False


def _reaches(view: View, value: str, goals: set[str]) -> int:
    """How many nodes were looked at before a matrix product or convolution of the branch led back to a goal; 0: none.

    A branch without any product or convolution is arithmetic (x + f(x) inside an activation), no residual.
    """
    work, seen, weighty = deque([value]), {value}, False
    found = False
    while work and len(seen) <= _MAX_BRANCH:
        node = view.scope.producer_node(work.popleft())
        if node is None:
            continue
        weighty |= node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU") or bool(
            node.domain not in ("", "ai.onnx")
        )
        for name in node.input:
            if name in goals:
                found = True
            elif name and name not in seen:
                seen.add(name)
                work.append(name)
        if found and weighty:
            return len(seen)
    return 0


def find_l2(terms: Terms) -> list[Match]:
    """x over its Euclidean norm: LpNormalization, ReduceL2, the root of a sum of squares; eps however applied."""
    view, matches = terms.view, []
    for position, node in enumerate(view.scope.nodes):
        if node.domain not in ("", "ai.onnx") or not node.input or not node.output:
            continue
        if node.op_type == "LpNormalization" and attribute_int(node, "p", 2) == 2:
            inputs, ids = {"x": node.input[0]}, view.ids({position})
            attributes = {"axes": (attribute_int(node, "axis", -1),), "epsilon": 0.0}
            path = view.scope.path
            matches.append(
                Match("l2_normalization", "native", path, ids, inputs, node.output[0], attributes=attributes)
            )
        elif node.op_type == "ReduceL2":
            axes = view.axes(node, node.input[0])
            if isinstance(axes, tuple):
                matches += _divided(view, node.input[0], axes, {position}, node.output[0], 0.0, "")
        elif node.op_type == "Sqrt":
            found = _sum_of_squares(terms, node.input[0])
            if found is not None:
                x, axes, nodes, epsilon = found
                where = "inside" if epsilon else ""
                matches += _divided(view, x, axes, nodes | {position}, node.output[0], epsilon, where)
    return matches


def _sum_of_squares(terms: Terms, value: str) -> tuple[str, tuple[int, ...], set[int], float] | None:
    """(x, axes, nodes, eps) where value is sum(x*x) [+ eps]."""
    view, epsilon, nodes = terms.view, 0.0, set()
    summands, adders = terms.summands(value)
    rest = []
    for sign, term in summands:
        number = view.scalar(term, view.rank(term))
        if number is not None:
            epsilon += sign * number
        else:
            rest.append((sign, term))
    if len(rest) != 1 or rest[0][0] < 0:
        return None
    nodes |= adders
    term = view.root(rest[0][1])
    node = view.node(term)
    if node is None:
        return None
    at = view.position(term)
    if node.op_type in ("Clip", "Max"):
        nodes.add(at)
        term = view.root(node.input[0])
        node = view.node(term)
        if node is None:
            return None
        at = view.position(term)
    if node.op_type not in ("ReduceSum", "ReduceSumSquare"):
        return None
    axes = view.axes(node, node.input[0])
    if not isinstance(axes, tuple):
        return None
    if node.op_type == "ReduceSumSquare":
        return node.input[0], axes, nodes | {at}, epsilon
    square = terms.square(node.input[0])
    if not isinstance(square, tuple):
        return None
    return square[0], axes, nodes | {at} | set(square[1]), epsilon


def _divided(
    view: View, x: str, axes: tuple[int, ...], nodes: set[int], norm: str, epsilon: float, where: str
) -> list[Match]:
    """The Divs of x by its norm, seen through Max, Clip, Add of eps, Expand and Reciprocal."""
    work, used = [(norm, set(nodes), epsilon, where, False)], []
    for value, path, eps, place, inverse in work:
        if len(work) > 16:
            break
        for position in dict.fromkeys(use.position for use in view.scope.consumers(value)[:16]):
            node = view.standard(position)
            if node is None or not node.output or not node.output[0]:
                continue
            output = node.output[0]
            numbers = [number for name in node.input if name and (number := view.scalar(name, 8)) is not None]
            divides = node.op_type == "Div" and len(node.input) == 2 and node.input[1] == value and not inverse
            if (divides and view.same(node.input[0], x)) or (
                inverse and node.op_type == "Mul" and any(view.same(name, x) for name in node.input)
            ):
                attributes = {"axes": axes, "epsilon": eps, "epsilon_by": place}
                ids, scope = view.ids(path | {position}), view.scope.path
                used.append(
                    Match("l2_normalization", "decomposed", scope, ids, {"x": x}, output, attributes=attributes)
                )
            elif node.op_type in ("Max", "Add", "Clip"):
                low = numbers[0] if numbers else next((a.f for a in node.attribute if a.name == "min"), eps)
                work.append((output, path | {position}, low, node.op_type.lower(), inverse))
            elif node.op_type in ("Expand", "Cast", "Identity", "Unsqueeze"):
                work.append((output, path | {position}, eps, place, inverse))
            elif node.op_type == "Reciprocal" or (divides and numbers == [1.0]):
                work.append((output, path | {position}, eps, place, True))
    return used


def find_rotary(view: View) -> list[Match]:
    """x*cos + rotate(x)*sin, rotate being a Concat of a negated half and the other, and the native ops."""
    matches = []
    for position, node in enumerate(view.scope.nodes):
        if node.op_type == "RotaryEmbedding" and node.output:
            x = node.input[0]
            matches.append(
                Match(
                    "rotary_embedding",
                    "native",
                    view.scope.path,
                    view.ids({position}),
                    {"x": x},
                    node.output[0],
                    attributes={},
                )
            )
        elif node.op_type == "Add" and node.domain in ("", "ai.onnx") and len(node.input) == 2:
            found = _rotary(view, position, node)
            if found is not None:
                matches.append(found)
    return matches


def _rotary(view: View, position: int, node: onnx.NodeProto) -> Match | None:
    for first, second in ((0, 1), (1, 0)):
        plain, turned = view.node(view.root(node.input[first])), view.node(view.root(node.input[second]))
        if plain is None or turned is None or plain.op_type != "Mul" or turned.op_type != "Mul":
            continue
        for slot in (0, 1):
            half = _rotated(view, turned.input[slot])
            if half is None:
                continue
            x, nodes = half
            for side in (0, 1):
                if _source(view, plain.input[side]) == x:
                    cos, sin = plain.input[1 - side], turned.input[1 - slot]
                    nodes |= {position, view.position(plain.output[0]), view.position(turned.output[0])}
                    inputs = {"x": plain.input[side], "cos": cos, "sin": sin}
                    trigonometry = _trigonometry(view, cos) | _trigonometry(view, sin)
                    attributes = {"trigonometry": view.ids(trigonometry)}
                    path = view.scope.path
                    return Match(
                        "rotary_embedding",
                        "decomposed",
                        path,
                        view.ids(nodes),
                        inputs,
                        node.output[0],
                        attributes=attributes,
                    )
    return None


def _source(view: View, value: str) -> str:
    """The value behind Transposes, which may stand before or after the split into halves."""
    root = view.root(value)
    node = view.node(root)
    return view.root(node.input[0]) if node is not None and node.op_type == "Transpose" else root


def _rotated(view: View, value: str) -> tuple[str, set[int]] | None:
    """(x, nodes) where value is Concat(-x2, x1), perhaps reshaped (interleaved pairs)."""
    root, nodes = view.root(value), set(view.path(value))
    for _ in range(3):
        node = view.node(root)
        if node is not None and node.op_type in ("Reshape", "Flatten"):
            nodes.add(view.position(root))
            root = view.root(node.input[0])
    node = view.node(root)
    if node is None or node.op_type != "Concat" or len(node.input) != 2:
        return None
    nodes.add(view.position(root))
    sources, negated = [], 0
    for name in node.input:
        at = view.root(name)
        for _ in range(5):
            inner = view.node(at)
            if inner is None or inner.op_type not in ("Neg", "Slice", "Split", "Unsqueeze", "Gather", "Reshape"):
                break
            negated += inner.op_type == "Neg"
            nodes.add(view.position(at))
            at = view.root(inner.input[0])
        sources.append(_source(view, at))
    return (sources[0], nodes) if negated == 1 and sources[0] == sources[1] else None


def _trigonometry(view: View, value: str) -> set[int]:
    """The Cos or Sin that makes a table at run time and the arithmetic of its angles; empty for baked tables."""
    work, seen = [value], {value}
    found: set[int] = set()
    while work and len(seen) < 48:
        at = work.pop(0)
        node = view.node(at)
        if node is None:
            continue
        position = view.position(at)
        inside = bool(found)
        if node.op_type in ("Cos", "Sin"):
            found.add(position)
            inside = True
        elif inside and node.op_type in ("MatMul", "Mul", "Einsum", "Concat", "Transpose", "Expand", "Div"):
            found.add(position)
        elif node.op_type not in (
            "Unsqueeze",
            "Mul",
            "Cast",
            "Gather",
            "Concat",
            "Transpose",
            "Reshape",
            "Squeeze",
            "Slice",
            "Expand",
            "Identity",
            "Split",
        ):
            continue
        for name in node.input[: 1 if node.op_type not in ("MatMul", "Mul", "Einsum", "Concat") else None]:
            if name and name not in seen:
                seen.add(name)
                work.append(name)
    return found
