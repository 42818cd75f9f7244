"""Sums in FP16: what they do, and in how many chunks that is simulated.

A tensor core multiplies 16 values of K at a time and adds their sum to an accumulator. An FP16 accumulator is rounded
after each of the n = K / 16 steps. The error of step k is that of a partial sum, whose variance, for summands without a
mean, is k / n of the result's. With u^2 the mean square of a relative rounding error, the n steps make

    u^2 (1 + 2 + ... + n) / n = u^2 (n + 1) / 2

of the result's variance: sqrt((n + 1) / 2) times the error of rounding once, 10 times for K = 3072.

n partial products are too slow. The simulation adds C = `CHUNKS` of them, rounds the last sum to FP16, and makes each
of the C - 1 errors before it larger by a factor a. Chunk c ends at c / C of the variance, so the errors make
a^2 u^2 (1 + ... + (C - 1)) / C + u^2 of it, which equals the above for

    a = sqrt((n - 1) / (C - 1)).

With n <= C each step is a chunk, a = 1, and the arithmetic is that of the step itself. Sums that FP16 holds have no
error to enlarge, so selections and small integers stay exact; a partial sum past the range is infinite.

A step that adds d to a sum which FP16 holds makes an error of |d| at most. So where a few large products make the sum
and the others are below its rounding unit (massive activations), only the large ones round it. What an error is
enlarged by, a - 1 times it, is therefore held to what its chunk adds and to what the next one adds, whichever is less:
a chunk with one large product is no reason to enlarge where its neighbor is small.

What the model lacks: large products in neighboring chunks, a sum that passes the range within a chunk and comes back,
and summands so small beside their sum that FP16 drops each of many (more than 2,048 equal steps, K above 32,768).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnx import NodeProto

from precision_planner.model import Scope, TypeTable
from precision_planner.operators import domain_of, is_product, row_of

__all__ = ["CHUNKS", "STEP", "Accumulation", "Product", "product_of"]

Accumulation: TypeAlias = Literal["fp32", "fp16"]

STEP = 16
"""Values of K that one instruction multiplies: mma.m16n8k16 and wgmma.m64nNk16 (PTX ISA, 9.7.14 and 9.7.15)."""

CHUNKS = 8
"""Partial products that stand for the steps: with 4 the error of sums that cancel is half as large again."""

_FIRST_OPSET = 7
"""Below it onnxruntime has no Add, by which the partial products are summed."""

_RUN_TIME_OPSET = 13
"""Split takes sizes that are computed from here on."""


@dataclass(frozen=True, slots=True, order=True)
class Product:
    """How a node's summation is cut.

    Attributes:
      steps: roundings of the accumulator, n above; 0: known when the model runs.
      sizes: of the chunks, along the summed axis (for convolutions: channels of a group); () where `steps` is 0.
      axes: the summed axis of the first and of the second operand.
      groups: of a convolution; the first operand holds the channels of all of them.
      spatial: axes of a convolution behind batch and channels; 0 for matrix products.
    """

    steps: int
    sizes: tuple[int, ...]
    axes: tuple[int, int]
    groups: int = 1
    spatial: int = 0

    @property
    def growth(self) -> float:
        """The factor on the errors between chunks, a above."""
        return math.sqrt((self.steps - 1) / (len(self.sizes) - 1)) if len(self.sizes) > 1 else 1.0


def product_of(node: NodeProto, scope: Scope, types: TypeTable, opset: int) -> Product | None:
    """How a node's summation is cut; None where it has at most one step, sums nothing, or cannot be cut.

    Args:
      node: any node.
      scope: its graph.
      types: of the values.
      opset: the model's.
    """
    if domain_of(node) or not is_product(node) or opset < _FIRST_OPSET:
        return None
    first, second = (types.of(scope, node.input[slot]).shape for slot in (0, 1))
    if second is None:
        return None
    if row_of(node).product == "convolution":
        return _convolution(node, second)
    axes = (-1, -2 if len(second) > 1 else -1)
    if node.op_type == "Gemm":
        axes = (0 if _integer(node, "transA") else 1, 1 if _integer(node, "transB") else 0)
        if any(shape is not None and len(shape) != 2 for shape in (first, second)):
            return None  # no matrices: nothing runs it
    lengths = [shape[axis] for shape, axis in ((first, axes[0]), (second, axes[1])) if shape]
    length = next((size for size in lengths if isinstance(size, int)), None)
    if length is None:
        vectors = len(second) == 1 and (first is None or len(first) == 1)
        return Product(0, (), axes) if opset >= _RUN_TIME_OPSET and not vectors else None
    steps = math.ceil(length / STEP)
    if steps < 2:
        return None
    sizes = [STEP * count for count in _even(steps, min(steps, CHUNKS))]
    sizes[-1] -= STEP * steps - length
    return Product(steps, tuple(sizes), axes)


def _convolution(node: NodeProto, weight: Sequence[int | str | None]) -> Product | None:
    """Channels are dealt to the chunks; each chunk holds all taps of its channels."""
    sizes = [size for size in weight if isinstance(size, int)]
    if len(sizes) < len(weight) or len(sizes) < 3:
        return None
    groups = _integer(node, "group", 1)
    taps = math.prod(sizes[2:])
    channels = sizes[1]
    if node.op_type == "ConvTranspose":
        strides = next((list(a.ints) for a in node.attribute if a.name == "strides"), [1] * (len(sizes) - 2))
        channels = sizes[0] // groups
        taps = math.prod(math.ceil(size / stride) for size, stride in zip(sizes[2:], strides, strict=True))
    steps = math.ceil(channels * taps / STEP)
    chunks = min(steps, CHUNKS, channels)
    if chunks < 2:
        return None
    axes = (1, 0 if node.op_type == "ConvTranspose" else 1)
    return Product(steps, tuple(_even(channels, chunks)), axes, groups, len(sizes) - 2)


def _even(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def _integer(node: NodeProto, name: str, default: int = 0) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)
