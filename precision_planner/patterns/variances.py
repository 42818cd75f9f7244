"""variance + eps in every form: the argument of the root in a normalization.

1. mean((x - mean(x))^2) + eps, eps on either side;
2. E[x^2] - E[x]^2 + eps, in any association, clamped at 0 or not;
3. mean(x^2) + eps, without the mean: RMS normalization.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from precision_planner.patterns.normalization_terms import Center, Mean, Near, Nodes, Terms, Variance
from precision_planner.patterns.view import axes_text

NO_EPS = "no eps is added to the variance"


@dataclass(slots=True)
class _Parts:
    squares: list[tuple[str, Mean]] = field(default_factory=list)
    means: list[tuple[Mean, Nodes]] = field(default_factory=list)
    epsilon: float = 0.0
    constants: int = 0
    near: str = ""
    unknown: str = ""
    put_back: list[str] = field(default_factory=list)
    """Reshapes and Expands that give the variance the axes back which its means have lost, outermost first."""
    related: bool = False
    """Whether any part is a mean of something: otherwise the root has nothing to do with a normalization."""


def find_variance(terms: Terms, value: str) -> Variance | Near | None:
    """Recognise variance + eps (see the module); a Near names what differs."""
    nodes: set[int] = set()
    parts = _Parts()
    for sign, term in _leaves(terms, value, parts, nodes):
        _classify(terms, sign, term, parts, nodes)
    if not parts.related:
        return None
    found = frozenset(nodes)
    if parts.near:
        return Near(parts.near, found)
    if not parts.squares:
        return None
    if parts.unknown:
        return Near(parts.unknown, found)
    if len(parts.squares) > 1 or len(parts.means) > 1:
        return Near(f"the root is over {len(parts.squares)} means of squares", found)
    base, mean = parts.squares[0]
    if any(inner.kept != mean.kept for inner, _ in parts.means):
        return Near("one mean keeps its axes, the other does not", found)
    whole = _with_axes(terms, mean, parts, nodes)
    if isinstance(whole, Near):
        return Near(whole.reason, found | whole.nodes)
    mean = whole
    checked = _of_x(terms, base, mean, parts)
    if isinstance(checked, Near):
        return Near(checked.reason, found | checked.nodes)
    kind, x, center = checked
    nodes |= mean.nodes | (center.nodes if center else frozenset())
    epsilon = float(np.float32(parts.epsilon))
    if parts.constants == 0:
        return Near(NO_EPS, frozenset(nodes), kind)
    if not epsilon > 0 or not np.isfinite(epsilon):
        return Near(f"eps is {parts.epsilon:g} and has to be positive in float32", frozenset(nodes), kind)
    ranks = terms.view.rank(value), terms.view.rank(x)
    if ranks[0] is not None and ranks[1] is not None and ranks[0] > ranks[1]:
        return Near(f"eps gives the variance {ranks[0]} axes, and x has {ranks[1]}", frozenset(nodes), kind)
    return Variance(kind, x, mean.axes, epsilon, center.mean if center else None, frozenset(nodes))


def _leaves(terms: Terms, value: str, parts: _Parts, nodes: set[int]) -> list[tuple[int, str]]:
    """The summands of the root's argument.

    A clamp of the variance at 0 changes nothing and is seen through; so are an Unsqueeze, Reshape and Expand around it,
    which are remembered: they have to be what gives the variance its axes back.
    """
    out: list[tuple[int, str]] = []
    summands, used = terms.summands(value)
    nodes |= used
    for sign, term in summands:
        inner, seen = term, False
        while sign == 1:
            within = _unclamped(terms, inner)
            if within is None and not isinstance(terms.mean_square(inner), tuple):
                within = _reshaped(terms, inner)
                if within is not None:
                    parts.put_back.append(terms.view.root(inner))
            if within is None:
                break
            nodes |= {terms.view.position(terms.view.root(inner)), *terms.view.path(inner)}
            inner, seen = within, True
        if not seen:
            out.append((sign, term))
        else:
            more, used = terms.summands(inner)
            nodes |= used
            out += more
    return out


def _reshaped(terms: Terms, value: str, depth: int = 3) -> str | None:
    """What an Unsqueeze, Reshape or Expand takes, where a variance is in it, at most `depth` of them deep."""
    node = terms.view.node(terms.view.root(value))
    if depth == 0 or node is None or node.op_type not in ("Unsqueeze", "Reshape", "Expand"):
        return None
    inner = node.input[0]
    about = _unclamped(terms, inner) is not None or _has_mean(terms, inner) or _reshaped(terms, inner, depth - 1)
    return inner if about else None


def _with_axes(terms: Terms, mean: Mean, parts: _Parts, nodes: set[int]) -> Mean | Near:
    """The variance's mean with its axes put back by what stands around it, or what is wrong with them."""
    for value in reversed(parts.put_back):
        used = terms.put_back(value, mean)
        if used is None:
            name = terms.view.name(terms.view.position(value))
            return Near(f"{name} does not give the variance its axes back", frozenset(nodes))
        nodes |= used
        mean = replace(mean, kept=True)
    return mean if mean.kept else terms.without_axes(mean)


def _unclamped(terms: Terms, value: str) -> str | None:
    view = terms.view
    node = view.node(view.root(value))
    if node is None:
        return None
    if node.op_type in ("Relu", "Abs"):
        return node.input[0] if _has_mean(terms, node.input[0]) else None
    if node.op_type == "Max" and len(node.input) == 2:
        for at, other in ((0, 1), (1, 0)):
            if view.scalar(node.input[other]) == 0 and _has_mean(terms, node.input[at]):
                return node.input[at]
    if node.op_type == "Clip":
        low = view.scalar(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        for attribute in node.attribute:
            low = attribute.f if attribute.name == "min" else low
            if attribute.name == "max" and attribute.f < 3e38:
                return None
        if low == 0 and not (len(node.input) > 2 and node.input[2]) and _has_mean(terms, node.input[0]):
            return node.input[0]
    return None


def _has_mean(terms: Terms, value: str) -> bool:
    return any(terms.mean_square(term) is not None for _, term in terms.summands(value)[0])


def _classify(terms: Terms, sign: int, term: str, parts: _Parts, nodes: set[int]) -> None:
    view = terms.view
    square = terms.mean_square(term)
    if square is not None:
        parts.related = True
        if isinstance(square, Near):
            nodes |= square.nodes
            parts.near = parts.near or square.reason
        elif sign < 0:
            parts.near = parts.near or "the mean of the square is subtracted"
        else:
            parts.squares.append(square)
        return
    squared = terms.square(term)
    if isinstance(squared, tuple):
        mean = terms.mean(squared[0])
        if isinstance(mean, Mean) and sign < 0:
            nodes |= mean.nodes | squared[1]
            parts.means.append((mean, squared[1]))
            parts.related = True
            return
    mean = terms.mean(term)
    if isinstance(mean, Mean):  # the mean of something that is no square
        parts.unknown = parts.unknown or f"{view.name(mean.node)} is the mean of '{mean.source}', which is no square"
        return
    constant = view.scalar(term, view.rank(term))
    if constant is not None:
        parts.epsilon += sign * constant
        parts.constants += 1
        return
    if _is_scaled_square(terms, term, parts, nodes):
        return
    array = view.constant(term)
    if array is not None:
        parts.unknown = parts.unknown or f"eps has shape {list(array.shape)}"
    else:
        parts.unknown = parts.unknown or f"eps is {view.describe(view.root(term))}"


def _is_scaled_square(terms: Terms, term: str, parts: _Parts, nodes: set[int]) -> bool:
    """Whether a summand is a mean of squares times something, as N/(N-1) in an unbiased variance."""
    view, at = terms.view, term
    for _ in range(3):
        root = view.root(at)
        node = view.node(root)
        if node is None or node.op_type not in ("Mul", "Div"):
            return False
        nodes.add(view.position(root))
        for name in node.input:
            inner = terms.mean_square(name)
            if inner is not None:
                other = node.input[1] if name == node.input[0] else node.input[0]
                factor = view.scalar(other)
                what = f"{factor:g}" if factor is not None else view.describe(other)
                parts.related = True
                parts.near = parts.near or (
                    f"{view.name(view.position(root))} scales the variance by {what} (N-1 variance?)"
                )
                return True
        at = node.input[0]
    return False


def _of_x(terms: Terms, base: str, mean: Mean, parts: _Parts) -> tuple[str, str, Center | None] | Near:
    """Which x the variance is of: its mean must be the mean of the same value over the same axes."""
    view = terms.view
    if parts.means:
        inner, nodes = parts.means[0]
        center = Center(base, inner, 1, inner.nodes | nodes)
        if not view.same(inner.source, base):
            return Near(f"{view.name(inner.node)} is the mean of '{inner.source}', not of '{base}'", center.nodes)
    else:
        found = terms.center(base)
        if isinstance(found, Near):
            return found
        if found is None:
            return "rms", base, None
        center = found
    if center.mean.axes != mean.axes:
        return Near(
            f"second {view.scope.nodes[mean.node].op_type} is over {axes_text(mean.axes)}, "
            f"the first over {axes_text(center.mean.axes)}",
            center.nodes | mean.nodes,
        )
    return "layer", center.x, center
