"""From the root of the variance forward: what is divided by it, and the affine behind.

1. (x - mean) / root, times inverse root, with the scale before or after;
2. x*scale*inv + (bias - mean*scale*inv), as TensorFlow and Keras write it;
3. the scale and bias behind, through Casts and Identity.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from precision_planner.patterns.affine import Fit, fit
from precision_planner.patterns.normalization_terms import Center, Mean, Near, Nodes, Terms, Variance
from precision_planner.patterns.products import Product, product_of

_HALF = Fraction(1, 2)
_FORWARD = frozenset({"Mul", "Div", "Reciprocal", "Neg", "Pow", "Identity", "Cast", "CastLike"})
_MAX_READERS = 64


@dataclass(frozen=True, slots=True)
class End:
    """A value up to which the normalization may be replaced."""

    value: str
    nodes: Nodes
    scale: str = ""
    bias: str = ""
    scale_fit: Fit | None = None
    bias_fit: Fit | None = None


@dataclass(slots=True)
class NormalizedOutput:
    """One normalized output of a variance: the ends from the core outward, or why it is none."""

    x: str
    ends: list[End] = field(default_factory=list)
    reason: str = ""
    nodes: Nodes = frozenset()
    """For one that is none: the nodes it looked at."""


def normalized_outputs(terms: Terms, variance: Variance, argument: str, roots: list[int]) -> list[NormalizedOutput]:
    """Every normalization that divides by the root of one variance.

    Args:
      terms: of the scope.
      variance: variance + eps.
      argument: the value that holds it.
      roots: positions of the nodes that take its root.
    """
    search = _Search(terms, variance, argument)
    for position in roots:
        search.visit(position)
    while search.work:
        value, depth = search.work.pop()
        uses = terms.view.scope.consumers(value)
        if depth > 8 or len(uses) > _MAX_READERS:
            continue
        for position in dict.fromkeys(use.position for use in uses):
            search.visit(position, depth + 1)
    return search.found


class _Search:
    def __init__(self, terms: Terms, variance: Variance, argument: str) -> None:
        self.terms, self.view, self.variance = terms, terms.view, variance
        self.needle = self.view.root(argument)
        self.argument = argument
        self.stops = frozenset({self.needle, self.view.root(variance.x)})
        self.work: list[tuple[str, int]] = []
        self.found: list[NormalizedOutput] = []
        self._seen: set[int] = set()

    def visit(self, position: int, depth: int = 0) -> None:
        """Look at one reader of something that depends on the root."""
        node = self.view.standard(position)
        if node is None or position in self._seen or not node.output or not node.output[0]:
            return
        self._seen.add(position)
        if node.op_type in ("Add", "Sub", "Max"):
            self._eps_behind(position)
            return
        if node.op_type not in _FORWARD and depth > 0:
            return
        value = node.output[0]
        product = product_of(self.terms, value, self.stops, self.needle)
        power = product.powers.get(self.needle)
        if power is None:
            return
        nodes = frozenset(product.nodes) | self.variance.nodes | set(self.view.path(self.argument))
        for root, exponent in product.powers.items():
            if root == self.needle:
                continue
            center = self._center(root, product.reads[root])
            if isinstance(center, NormalizedOutput):
                center.nodes |= nodes
                self.found.append(center)
                return
            if center is None and root != self.view.root(self.variance.x):
                continue
            if center is None and self.variance.kind == "layer":
                if exponent == 1 and power == -_HALF:
                    self._refactored(position, product, nodes)
                return
            if power == -_HALF and exponent == 1:
                self._core(value, product, root, center, nodes)
            elif power == _HALF and exponent == -1:
                self._fail(nodes, "the operands of Div are swapped (root / (x - mean))")
            elif power == _HALF:
                self._fail(nodes, f"{self.view.name(position)} multiplies by the root instead of dividing by it")
            else:
                self._fail(nodes, f"(variance + eps) has power {power} and x - mean power {exponent}")
            return
        if any(
            isinstance(self.terms.mean(product.reads[root]), Mean) for root in product.powers if root != self.needle
        ):
            return  # the other half of the refactored form
        self.work.append((value, depth))

    def _fail(self, nodes: Nodes, reason: str) -> None:
        self.found.append(NormalizedOutput(self.variance.x, [], reason, nodes))

    def _center(self, root: str, read: str) -> Center | NormalizedOutput | None:
        """The factor as x - mean of this very variance; a failed head where it is one of something else."""
        if self.variance.kind == "rms" or root in self.stops:
            return None
        center = self.terms.center(read)
        if isinstance(center, Near):
            return NormalizedOutput(self.variance.x, [], center.reason, center.nodes)
        if center is None:
            return None
        if not self.view.same(center.x, self.variance.x):
            return NormalizedOutput(
                self.variance.x, [], f"the variance is of '{self.variance.x}', not of '{center.x}'", center.nodes
            )
        if center.mean.axes != self.variance.axes:
            reason = f"the mean is over axes {center.mean.axes}, the variance over axes {self.variance.axes}"
            return NormalizedOutput(self.variance.x, [], reason, center.nodes)
        return center

    def _eps_behind(self, position: int) -> None:
        node = self.view.scope.nodes[position]
        if any(self.view.scalar(name) is not None for name in node.input):
            self._fail(
                self.variance.nodes | {position},
                f"{self.view.name(position)} adds a constant after the root, not before",
            )

    def _core(self, value: str, product: Product, root: str, center: Center | None, nodes: Nodes) -> None:
        sign = product.sign * (center.sign if center else 1)
        if center:
            nodes |= center.nodes
        if sign < 0:
            swapped = center is not None and center.sign < 0
            reason = "the operands of Sub are swapped (mean - x)" if swapped else "the result is negated"
            self._fail(nodes, reason)
            return
        extras = {name: power for name, power in product.powers.items() if name not in (self.needle, root)}
        x = center.x if center else product.reads[root]
        self._finish(value, x, product, extras, nodes, "")

    def _finish(
        self, value: str, x: str, product: Product, extras: dict[str, Fraction], nodes: Nodes, bias: str
    ) -> None:
        if len(extras) > 1 or any(power != 1 for power in extras.values()):
            names = ", ".join(f"'{name}'" for name in extras)
            self._fail(nodes, f"{self.view.name(self.view.position(value))} has the further factors {names}")
            return
        scale = product.reads[next(iter(extras))] if extras else ""
        end = End(value, nodes, scale, bias)
        if scale:
            end = replace(end, scale_fit=fit(self.view, scale, x, self.variance.axes, "gamma"))
        if bias:
            end = replace(end, bias_fit=fit(self.view, bias, x, self.variance.axes, "beta"))
        self.found.append(NormalizedOutput(x, self._extend(end, x)))

    def _extend(self, end: End, x: str) -> list[End]:
        """The ends behind the core: Casts, one scale, one bias, as long as nothing else reads between."""
        view, ends = self.view, [end]
        for _ in range(8):
            position = view.sole_consumer(end.value)
            node = None if position is None else view.standard(position)
            if position is None or node is None or not node.output or not node.output[0]:
                break
            value, nodes = node.output[0], end.nodes | {position}
            if view.path(value)[:1] == (position,):
                end = replace(end, value=value, nodes=nodes)
            elif node.op_type in ("Mul", "Add") and len(node.input) == 2 and node.input[0] != node.input[1]:
                other = node.input[1] if node.input[0] == end.value else node.input[0]
                if node.op_type == "Mul" and not end.scale and not end.bias:
                    found = fit(view, other, x, self.variance.axes, "gamma")
                    end = replace(end, value=value, nodes=nodes, scale=other, scale_fit=found)
                elif node.op_type == "Add" and not end.bias:
                    found = fit(view, other, x, self.variance.axes, "beta")
                    end = replace(end, value=value, nodes=nodes, bias=other, bias_fit=found)
                else:
                    break
                if found.operand is None:
                    if found.fatal:
                        ends.append(end)
                    break
            else:
                break
            ends.append(end)
        return ends

    # -- x*k + (bias - mean*k) --------------------------------------------------------------------------------------

    def _refactored(self, position: int, product: Product, nodes: Nodes) -> None:
        value = self.view.scope.nodes[position].output[0]
        reached = [value]
        for at in reached:
            uses = self.view.scope.consumers(at)
            if len(uses) > _MAX_READERS:
                return
            for use in uses:
                node = self.view.standard(use.position)
                if node is None:
                    continue
                if node.op_type in ("Cast", "Identity") and len(reached) < 4:
                    reached.append(node.output[0])
                elif node.op_type in ("Mul", "Div"):
                    self.visit(use.position, 1)
                elif node.op_type in ("Add", "Sub", "Sum"):
                    self._sum(use.position, value, product, nodes)
                    return

    def _sum(self, position: int, half: str, product: Product, nodes: Nodes) -> None:
        """x*k at `half`, summed at `position` with -mean*k and perhaps a bias."""
        view, output = self.view, self.view.scope.nodes[position].output[0]
        summands, adders = self._summands(output)
        rest: list[tuple[int, str]] = []
        extras = {
            name: power
            for name, power in product.powers.items()
            if name not in (self.needle, view.root(self.variance.x))
        }
        seen_x = seen_mean = False
        nodes |= adders
        for sign, term in summands:
            if view.same(term, half):
                seen_x = sign * product.sign > 0
                continue
            other = product_of(self.terms, term, self.stops, self.needle)
            mean = self._mean_factor(other, extras)
            if mean is not None and not seen_mean:
                if sign * other.sign > 0:
                    self._fail(nodes, f"{view.name(position)} adds mean*inv instead of subtracting it")
                    return
                seen_mean = True
                nodes |= mean.nodes | other.nodes
            else:
                rest.append((sign, term))
        if not seen_x or not seen_mean:
            self._fail(nodes, f"{view.name(view.position(half))} divides x itself by the root, not x - mean")
            return
        if len(rest) > 1 or any(sign < 0 for sign, _ in rest):
            self._fail(nodes, f"{view.name(position)} sums further terms")
            return
        x = product.reads[view.root(self.variance.x)]
        self._finish(output, x, product, extras, nodes, rest[0][1] if rest else "")

    def _summands(self, value: str, depth: int = 2) -> tuple[list[tuple[int, str]], set[int]]:
        """Like Terms.summands, but only what depends on the root is taken apart: a bias stays whole."""
        view = self.view
        root = view.root(value)
        node = view.node(root)
        if node is None or node.op_type not in ("Add", "Sub", "Neg", "Sum"):
            return [(1, value)], set()
        out: list[tuple[int, str]] = []
        nodes = {view.position(root), *view.path(value)}
        for slot, name in enumerate(node.input):
            sign = -1 if node.op_type == "Neg" or (node.op_type == "Sub" and slot == 1) else 1
            inner, more = self._summands(name, depth - 1) if depth else ([(1, name)], set())
            if len(inner) > 1 and not any(
                self.needle in product_of(self.terms, term, self.stops, self.needle).powers for _, term in inner
            ):
                inner, more = [(1, name)], set()
            out += [(sign * each, term) for each, term in inner]
            nodes |= more
        return out, nodes

    def _mean_factor(self, product: Product, extras: dict[str, Fraction]) -> Mean | None:
        """The mean in mean*k, where k is the same as in x*k."""
        if product.powers.get(self.needle) != -_HALF:
            return None
        others = {name: power for name, power in product.powers.items() if name != self.needle}
        for name, power in others.items():
            mean = self.terms.mean(product.reads[name])
            if isinstance(mean, Mean) and power == 1 and name not in extras:
                same = self.view.same(mean.source, self.variance.x) and mean.axes == self.variance.axes
                rest = {key: each for key, each in others.items() if key != name}
                return mean if same and rest == extras else None
        return None
