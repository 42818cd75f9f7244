"""Products of powers around the root of a normalization: x * (v + eps)^(-1/2), in every association."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from precision_planner.patterns.normalization_terms import Center, Mean, Terms

__all__ = ["Product", "product_of"]


@dataclass(slots=True)
class Product:
    """sign * product of factors to their powers; a factor is named by its root."""

    sign: int = 1
    powers: dict[str, Fraction] = field(default_factory=dict)
    reads: dict[str, str] = field(default_factory=dict)
    nodes: set[int] = field(default_factory=set)


def product_of(terms: Terms, value: str, stops: frozenset[str], needle: str, depth: int = 10) -> Product:
    """A value as a product of powers around `needle`.

    Only what depends on `needle`, on another stop, on x - mean(x) or on mean(x) of such an x is taken apart;
    everything else is one factor.

    Args:
      terms: of the scope.
      value: what to take apart.
      stops: roots that are factors as they are: the needle and x.
      needle: the root of the value that the product is about.
      depth: how many nodes deep.
    """
    view = terms.view
    root = view.root(value)
    leaf = Product(1, {root: Fraction(1)}, {root: value})
    node = view.node(root)
    if root in stops or node is None or depth == 0:
        return leaf
    parts: list[tuple[str, Fraction]]
    sign = 1
    match node.op_type:
        case "Mul":
            parts = [(node.input[0], Fraction(1)), (node.input[1], Fraction(1))]
        case "Div":
            parts = [(node.input[0], Fraction(1)), (node.input[1], Fraction(-1))]
        case "Reciprocal":
            parts = [(node.input[0], Fraction(-1))]
        case "Neg":
            parts, sign = [(node.input[0], Fraction(1))], -1
        case "Sqrt":
            parts = [(node.input[0], Fraction(1, 2))]
        case "Pow":
            exponent = view.scalar(node.input[1], view.rank(node.input[0]))
            if exponent not in (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0):
                return leaf
            parts = [(node.input[0], Fraction(exponent))]
        case _:
            return leaf
    out = Product(sign, {}, {}, {view.position(root), *view.path(value)})
    for name, power in parts:
        constant = view.scalar(name, view.rank(value))
        if constant in (1.0, -1.0):
            out.sign *= int(constant)
            continue
        part = product_of(terms, name, stops, needle, depth - 1)
        if power.denominator == 2 and _loses_sign(part, stops, needle):
            return leaf  # sqrt(d*d) is |d|, which is another function than d
        _multiply(out, part, power)
    return out if any(_is_about(terms, factor, stops) for factor in out.powers) else leaf


def _is_about(terms: Terms, root: str, stops: frozenset[str]) -> bool:
    if root in stops:
        return True
    term = terms.center(root)
    if isinstance(term, Center):
        return terms.view.root(term.x) in stops
    mean = terms.mean(root)
    return isinstance(mean, Mean) and terms.view.root(mean.source) in stops


def _multiply(out: Product, part: Product, power: Fraction) -> None:
    out.nodes |= part.nodes
    if power.denominator == 1 and power % 2 == 1:
        out.sign *= part.sign
    for root, inner in part.powers.items():
        out.powers[root] = out.powers.get(root, Fraction(0)) + inner * power
        out.reads.setdefault(root, part.reads[root])
        if out.powers[root] == 0:
            del out.powers[root], out.reads[root]


def _loses_sign(part: Product, stops: frozenset[str], needle: str) -> bool:
    """Whether the root of a product is not the product of the halved powers: of what may be negative it is not.

    The needle, a variance and an epsilon, is positive. Any other factor has a sign to lose: behind an even power it
    becomes an absolute value, and x itself has no root at all.
    """
    others = [root for root in part.powers if root != needle]
    return part.sign < 0 or any(root in stops or part.powers[root] % 2 == 0 for root in others)
