"""The shape of a row: what is known of one operator, a column for each question.

A column says what the operator does for every node of it; where an attribute decides, `only_if` names the attribute
and the values for which the marked columns hold. Every column is proven by tests/operators, which runs each operator
that a column marks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["NONE", "Movement", "Normalization", "Operator", "Product", "Reduction", "Slots", "every", "slots"]

Movement: TypeAlias = Literal["", "whole", "part", "repeat", "fill", "merge", "lookup"]
"""How values are moved, where `moves` names any input:

whole: every element of the one input once (Reshape, Transpose); part: some of them (Slice, Split); repeat: some or all,
more than once (Expand, Tile); fill: those of the one input and a constant (Pad, Trilu); merge: those of several inputs
(Concat, Where); lookup: rows of a table, picked by another input (Gather)."""

Product: TypeAlias = Literal["", "matmul", "convolution", "einsum", "recurrent", "attention", "integer", "quantized"]
Reduction: TypeAlias = Literal[
    "", "sum", "mean", "prod", "max", "min", "l1", "l2", "lp", "sum_square", "log_sum", "log_sum_exp", "index"
]
Normalization: TypeAlias = Literal["", "layer", "rms", "group", "instance", "batch", "mean_variance", "lp", "local"]


@dataclass(frozen=True, slots=True)
class Slots:
    """Some of an operator's inputs.

    Attributes:
      at: their indices.
      onwards: with every input from this index on; -1 for none (a variadic operator's are 0 onwards).
    """

    at: tuple[int, ...] = ()
    onwards: int = -1

    def __contains__(self, slot: object) -> bool:
        return slot in self.at or (isinstance(slot, int) and 0 <= self.onwards <= slot)

    def __bool__(self) -> bool:
        return bool(self.at) or self.onwards >= 0

    def of(self, count: int) -> Iterator[int]:
        """Those of a node that has `count` inputs, ascending."""
        return (slot for slot in range(count) if slot in self)


NONE = Slots()


def slots(*at: int) -> Slots:
    """The inputs of these indices."""
    return Slots(at)


def every(start: int = 0) -> Slots:
    """The inputs from an index on."""
    return Slots((), start)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Attributes:
      name: its op_type.
      domain: '' is ONNX's own.
      moves: inputs whose elements are elements of the output, in places that no value of these inputs decides.
      movement: how.
      moves_to: the outputs that hold them, where it is not the first alone; -1 for every output.
      converts: the moved values get another element type (Cast).
      container: it moves whole tensors in and out of sequences and optionals.
      gives_container: its results are sequences or optionals, never tensors.
      exact: every output's element is an input's element, its negative, zero, or an integer that its type holds:
        inputs that are rounded already need no rounding behind it.
      pointwise: each output element comes from the input elements at its own place (after broadcasting).
      broadcasts: its operands are brought to one shape by axes of size 1 before them.
      activation: a network's nonlinearity, in no arithmetic of positions (a convention: no run can prove it).
      lifts: inputs that keep the result away from zero where the other operand is zero: an epsilon may stand there.
      linear: with its first input multiplied by a power of two, so is its first output.
      joint: inputs which, multiplied by one power of two all together, multiply the output by it.
      keeps_zero: where its first input is zero, so is the output (as far as the first input decides).
      product: what kind of sum of products it is.
      factors: the inputs that are multiplied with each other.
      reduces: over what it sums or chooses, for operators that reduce axes or windows.
      window: the reduction is over a sliding window or all spatial axes (pooling).
      scans: it accumulates along an axis (CumSum).
      normalizes: the statistics that it divides by.
      statistics_type: an attribute (stash_type) says the type of the statistics apart from that of the data.
      weights: input -> what a constant there is (weight, bias, scale, mean, variance, table, slope, bound, exponent,
        quantization_scale, resize, padding, scalar).
      indices: inputs that are indices, axes, counts or bounds.
      shapes: inputs that are the shape, or the repeats, of a result.
      coordinates: inputs that are positions to sample at, regions or scales of an image.
      angles: inputs of which it takes the sine or cosine.
      denominators: inputs that it divides by, or whose root, logarithm or reciprocal it takes.
      scores: inputs of which it makes a softmax.
      masks: inputs that it adds to such scores.
      compares: it gives truth values made of its operands' order, exact in whatever type they have.
      tests: it gives truth values, of one operand's class (IsNaN).
      blind: its outputs depend on the shape of its first input alone.
      picks_index: it gives integers that depend on the values' order alone (ArgMax).
      orders: its result follows the order of its first input: near values that are rounded to one change it.
      generates: it makes floats out of no float; the readers choose the type.
      random: its result is drawn.
      bodies: its attributes hold graphs.
      recurrent: it feeds its own result back.
      quantizes: it belongs to the quantized part of a model.
      indifferent: float inputs that it reads in whatever type they are stored.
      stays_wide: float inputs that stay FLOAT although its schema takes less: ratios, counts, regions and scales.
      type_attribute: the attribute that names the element type of its first output.
      type_like: the input whose element type its first output has (CastLike), -1 for none.
      bounds: attributes that stood where later opsets have inputs: bounds and fills, in the scale of the data.
      only_if: attribute -> the values for which moves, exact and linear hold; None in it: where it is not given.
    """

    name: str
    domain: str = ""
    moves: Slots = NONE
    movement: Movement = ""
    moves_to: tuple[int, ...] = (0,)
    converts: bool = False
    container: bool = False
    gives_container: bool = False
    exact: bool = False
    pointwise: bool = False
    broadcasts: bool = False
    activation: bool = False
    lifts: Slots = NONE
    linear: bool = False
    joint: Slots = NONE
    keeps_zero: bool = False
    product: Product = ""
    factors: Slots = NONE
    reduces: Reduction = ""
    window: bool = False
    scans: bool = False
    normalizes: Normalization = ""
    statistics_type: bool = False
    weights: Mapping[int, str] = field(default_factory=dict)
    indices: Slots = NONE
    shapes: Slots = NONE
    coordinates: Slots = NONE
    angles: Slots = NONE
    denominators: Slots = NONE
    scores: Slots = NONE
    masks: Slots = NONE
    compares: bool = False
    tests: bool = False
    blind: bool = False
    picks_index: bool = False
    orders: bool = False
    generates: bool = False
    random: bool = False
    bodies: bool = False
    recurrent: bool = False
    quantizes: bool = False
    indifferent: Slots = NONE
    stays_wide: Slots = NONE
    type_attribute: str = ""
    type_like: int = -1
    bounds: tuple[str, ...] = ()
    only_if: Mapping[str, tuple[str | int | None, ...]] = field(default_factory=dict)
