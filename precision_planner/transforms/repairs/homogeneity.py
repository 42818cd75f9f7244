"""How operators hand on a power of two: what their result is multiplied by where their inputs are.

A value has degree d where it is held multiplied by 2^(-k d), k being the power of the whole rescaling. Degree 1 is the
stream itself, 2 the squares in a normalization, -1 the reciprocal of a deviation, 0 a value as it was. Every rule here
is an identity of real numbers and, a power of two leaving the fraction alone, of floats that stay normal.

1. Linear: Reshape, Relu, ReduceMean and the like keep the degree of their input.
2. Sums (Add, Concat, Max, Where, Clip, ...): all operands have one degree; a constant is scaled with them.
3. Products: degrees add up (Mul), subtract (Div, Reciprocal), multiply (Pow by a constant), halve (Sqrt). So a
   normalization, however it is written out, comes to degree 0 by itself: d / sqrt(mean(d d) + eps) is 1 - 2/2.
4. Native normalizations take any degree to 0, their epsilon being scaled by its square.
5. Matrix products and convolutions are products of which one factor may be a weight, which can take up a power.
6. Comparisons, ArgMax, Shape: the same for every degree.
7. Anything else reads its inputs in degree 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from onnx import NodeProto, TensorProto

from precision_planner.operators import domain_of, holds, ignores_scale, is_product, row_of, slots_of

__all__ = ["Facts", "Treatment", "can_take_up", "is_gemm", "is_native_norm", "treat"]

_NORMALIZED = frozenset({"layer", "rms", "instance", "group"})
"""What divides by a deviation with an epsilon in the attribute of that name."""
_STEEPEST = 4


class Facts(Protocol):
    """What the rules ask about the values of the graph."""

    def degree(self, value: str) -> int:
        """The degree in which a value is offered to its readers."""

    def is_constant(self, value: str) -> bool:
        """Whether it is a float32 constant that nobody can override."""

    def number(self, value: str) -> float | None:
        """The number in a constant of one element."""

    def is_forced(self, value: str) -> bool:
        """Whether it has to be offered in degree 1."""

    def is_wide(self, value: str) -> bool:
        """Whether it was measured beyond what is wanted."""

    def goes_through(self, value: str) -> bool:
        """Whether the result of a product is to be taken along for its own sake."""

    def amax(self, value: str) -> float:
        """The largest magnitude measured, 0 where nothing was."""

    def elem_type(self, value: str) -> int:
        """TensorProto.DataType, FLOAT where it is unknown."""


@dataclass
class Treatment:
    """How one node is written.

    Attributes:
      needs: input -> the degree in which it is read (degree 0 where it is not named).
      constants: input -> the degree by which the constant there is scaled.
      gives: output -> the degree of what the node computes.
      offers: output -> the degree in which it is offered, where that differs: a Mul stands between.
      attributes: name -> the degree by which it is scaled.
      weight: the input that holds a constant which can take up a power, -1 for none.
      role: "writer" if the node is to make degree 1 out of degree 0, "reader" if it is to make degree 0 out of
        another; either by its weight or by a Mul, which is decided when the power is known.
    """

    needs: dict[int, int] = field(default_factory=dict)
    constants: dict[int, int] = field(default_factory=dict)
    gives: dict[int, int] = field(default_factory=dict)
    offers: dict[int, int] = field(default_factory=dict)
    attributes: dict[str, int] = field(default_factory=dict)
    weight: int = -1
    role: str = ""

    def take(self, facts: Facts, node: NodeProto, slot: int, degree: int) -> None:
        """Read an input in a degree, a constant by scaling it."""
        if slot >= len(node.input) or not node.input[slot] or not degree:
            return
        (self.constants if facts.is_constant(node.input[slot]) else self.needs)[slot] = degree

    def offered(self, output: int) -> int:
        """The degree that readers of an output see."""
        return self.offers.get(output, self.gives.get(output, 0))


def treat(node: NodeProto, facts: Facts) -> Treatment:
    """How a node is written with the degrees that its inputs are offered in.

    Args:
      node: of any operator.
      facts: of the graph around it.
    """
    forced = any(facts.is_forced(name) for name in node.output if name)
    found = _by_operator(node, facts, forced)
    if found is None or any(abs(degree) > _STEEPEST for degree in found.gives.values()):
        found = Treatment()
    moved = [node.input[slot] for slot, degree in found.needs.items() if degree]
    moved += [name for output, name in enumerate(node.output) if name and found.gives.get(output)]
    if any(facts.elem_type(name) != TensorProto.FLOAT for name in moved):
        found = Treatment()
    for output, name in enumerate(node.output):
        if name and facts.is_forced(name) and found.offered(output) != 1:
            found.offers[output] = 1
    return found


def can_take_up(node: NodeProto, output: str, facts: Facts) -> bool:
    """Whether a node can make its output in degree 1 without a Mul of its own behind it.

    Args:
      node: the producer.
      output: one of its outputs.
      facts: of the graph around it.
    """
    row = row_of(node)
    if output not in node.output[:1] and -1 not in row.moves_to:
        return False
    constants = [slot for slot, name in enumerate(node.input) if name and facts.is_constant(name)]
    if is_native_norm(node):
        return {1, 2}.intersection(range(len(node.input))) <= set(constants)
    if row.domain or not row.name:
        return False
    if is_gemm(node):
        return bool({0, 1} & set(constants))
    if node.op_type in ("Mul", "Div"):
        return bool(constants) or any(facts.degree(name) for name in node.input)
    return holds(node) and (row.linear or (bool(row.joint) and not row.compares))


def is_gemm(node: NodeProto) -> bool:
    """Whether a node is a product or convolution of ONNX's own, linear in its weight."""
    row = row_of(node)
    return is_product(node) and not domain_of(node) and not row.recurrent and not row.coordinates


def is_native_norm(node: NodeProto) -> bool:
    """Whether a node divides by a deviation with an epsilon in the attribute of that name."""
    return row_of(node).normalizes in _NORMALIZED and not domain_of(node)


def _by_operator(node: NodeProto, facts: Facts, forced: bool) -> Treatment | None:
    if is_native_norm(node):
        return _norm(node, facts, forced)
    row, op = row_of(node), node.op_type
    if row.domain or not node.input:
        return None
    if row.linear and holds(node):
        return _linear(node, facts, forced)
    if row.joint and holds(node):
        return _sum(node, facts, forced)
    if op in ("Mul", "Div"):
        return _product(node, facts, forced)
    if is_gemm(node) or row.product == "einsum":
        return _gemm(node, facts, forced)
    if row.normalizes == "batch":
        return _batch_norm(node, facts, forced)
    degree = facts.degree(node.input[0])
    if ignores_scale(node) or row.normalizes == "lp":
        return Treatment(needs={0: degree})
    if row.reduces == "sum_square":
        return Treatment(needs={0: degree}, gives={0: 2 * degree})
    if op == "Reciprocal":
        return Treatment(needs={0: degree}, gives={0: -degree})
    if op == "Sqrt" and degree % 2 == 0:
        return Treatment(needs={0: degree}, gives={0: degree // 2})
    if op == "Pow":
        return _power(node, facts, degree)
    return None


def _linear(node: NodeProto, facts: Facts, forced: bool) -> Treatment:
    degree = 1 if forced else facts.degree(node.input[0])
    if row_of(node).movement == "lookup" and forced and facts.is_constant(node.input[0]):
        return Treatment(weight=0, role="writer")
    found = Treatment(gives=dict.fromkeys(range(len(node.output)) if -1 in row_of(node).moves_to else (0,), degree))
    found.take(facts, node, 0, degree)
    return found


def _sum(node: NodeProto, facts: Facts, forced: bool) -> Treatment:
    row = row_of(node)
    slots = [slot for slot, _ in slots_of(node, row.joint)]
    degrees = [facts.degree(node.input[slot]) for slot in slots]
    degree = 1 if forced else max(degrees, key=abs, default=0)
    found = Treatment(gives={} if row.compares else {0: degree})
    for slot in slots:
        found.take(facts, node, slot, degree)
    for attribute in node.attribute:
        if degree and attribute.name in row.bounds:
            found.attributes[attribute.name] = degree
    return found


def _product(node: NodeProto, facts: Facts, forced: bool) -> Treatment:
    sign = 1 if node.op_type == "Mul" else -1
    left, right = (facts.degree(name) for name in node.input)
    total = left + sign * right
    found = Treatment()
    if not forced or total == 1:
        found.take(facts, node, 0, left)
        found.take(facts, node, 1, right)
        found.gives[0] = total
        return found
    constants = [slot for slot in (0, 1) if facts.is_constant(node.input[slot])]
    if constants and not total and not facts.is_wide(node.input[1 - constants[0]]):
        found.weight, found.role = constants[0], "writer"
        return found
    # the larger factor is the one that takes the power; the divisor never does
    wide = 1 if sign > 0 and facts.amax(node.input[1]) > facts.amax(node.input[0]) else 0
    found.needs = {0: left, 1: right}
    found.needs[wide] += 1 - total
    found.gives[0] = 1
    return found


def _power(node: NodeProto, facts: Facts, degree: int) -> Treatment | None:
    exponent = facts.number(node.input[1])
    if exponent is None or not float(degree * exponent).is_integer():
        return None
    return Treatment(needs={0: degree}, gives={0: int(degree * exponent)})


def _gemm(node: NodeProto, facts: Facts, forced: bool) -> Treatment:
    is_einsum = row_of(node).product == "einsum"
    factors = range(len(node.input)) if is_einsum else (0, 1)
    degrees = {slot: facts.degree(node.input[slot]) for slot in factors}
    total = sum(degrees.values())
    found = Treatment(needs={slot: degree for slot, degree in degrees.items() if degree})
    if not is_einsum:
        found.weight = next((slot for slot in (1, 0) if facts.is_constant(node.input[slot])), -1)
    wanted = forced or (total != 0 and facts.goes_through(node.output[0]))
    if wanted and total == 0:
        wide = next((slot for slot in factors if facts.is_wide(node.input[slot])), -1)
        if wide < 0:
            found.role = "writer"
            return found
        found.needs[wide] = total = 1  # what makes it wide is wide already: that comes along
    elif not wanted and total:
        found.role = "reader"
    found.gives[0] = total
    found.offers[0] = 1 if wanted else 0
    for slot, role in row_of(node).weights.items():
        if role == "bias":
            found.take(facts, node, slot, total)
    return found


def _norm(node: NodeProto, facts: Facts, forced: bool) -> Treatment:
    degree = facts.degree(node.input[0])
    found = Treatment(needs={0: degree}, gives={0: 0})
    if degree:
        found.attributes["epsilon"] = 2 * degree
        if row_of(node).normalizes == "layer":  # its mean and inverse deviation
            found.gives |= {1: degree, 2: -degree}
    if forced and all(facts.is_constant(name) for name in node.input[1:] if name):
        found.weight, found.role = 1, "writer"
    return found


def _batch_norm(node: NodeProto, facts: Facts, forced: bool) -> Treatment | None:
    training = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
    if training or not all(facts.is_constant(name) for name in node.input[1:]):
        return None
    degree = facts.degree(node.input[0])
    # (x - mean) scale / deviation + bias: the mean goes with x, the scale takes it back, the variance stays
    found = Treatment(needs={0: degree}, gives={0: int(forced)})
    found.constants = {1: int(forced) - degree, 2: int(forced), 3: degree}
    return found
