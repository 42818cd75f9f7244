"""A product written as partial products whose sums are rounded to FP16; see `accumulation` for the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from precision_planner.numerics.formats import FORMATS
from precision_planner.simulation.accumulation import CHUNKS, STEP, Product

__all__ = ["write_chunks"]

_EPILOGUE = frozenset({"alpha", "beta"})
"""Attributes of Gemm that apply to the whole sum."""


def write_chunks(node: NodeProto, product: Product, opset: int, rounded: bool) -> tuple[list[NodeProto], list[Any]]:
    """The nodes that take a product's place, and the initializers that they read.

    A Gemm's alpha, beta and C and a convolution's bias are applied behind the accumulator, in FP32.

    Args:
      node: MatMul, Gemm, Conv or ConvTranspose, in FP32.
      product: how its summation is cut.
      opset: the model's.
      rounded: its result is rounded to FP16 by others, so that the last sum need not be.
    """
    writer = _Chunks(node, product, opset)
    tail = writer.has_epilogue
    sums = writer.sums(last="" if tail else node.output[0], rounded=rounded and not tail)
    if tail:
        writer.epilogue(sums)
    return writer.nodes, writer.constants


class _Chunks:
    def __init__(self, node: NodeProto, product: Product, opset: int) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[Any] = []
        self._node, self._product, self._opset = node, product, opset
        self._base = f"{node.output[0]}__planner_acc"
        self._attributes = {a.name: a for a in node.attribute}
        self._bias = node.input[2] if len(node.input) > 2 else ""
        self._alpha = self._attributes["alpha"].f if "alpha" in self._attributes else 1.0
        self._beta = self._attributes["beta"].f if "beta" in self._attributes else 1.0

    @property
    def has_epilogue(self) -> bool:
        """Whether something is done behind the sum."""
        return bool(self._bias) or (self._node.op_type == "Gemm" and self._alpha != 1.0)

    def sums(self, last: str, rounded: bool) -> str:
        """The sum of the partial products, rounded in between.

        Args:
          last: what to call it; '': a name is made.
          rounded: leave the last sum as it is.
        """
        if self._product.steps:
            left, right = self._parts(0), self._parts(1)
            growth = self._scalar("growth", self._product.growth - 1.0) if self._product.growth != 1.0 else ""
        else:
            sizes, growth = self._measure()
            left, right = (self._split(slot, sizes, CHUNKS) for slot in (0, 1))
        total, added = self._partial(0, left[0], right[0], growth)
        for chunk in range(1, len(left)):
            partial, following = self._partial(chunk, left[chunk], right[chunk], growth)
            low = self._round(total, f"low{chunk}")
            if growth:
                bound = self._op("Min", [added, following], f"bound{chunk}")
                low = self._with_more_error(total, low, bound, chunk, growth)
            name = last if rounded and chunk == len(left) - 1 else ""
            total, added = self._op("Add", [low, partial], f"sum{chunk}", name), following
        return total if rounded else self._round(total, "sum", last)

    def epilogue(self, total: str) -> None:
        """Scale the sum and add the bias, under the node's own output."""
        result = self._node.output[0]
        if self._alpha != 1.0:
            name = "" if self._bias else result
            total = self._op("Mul", [total, self._scalar("alpha", self._alpha)], "scaled", name)
        if not self._bias:
            return
        bias = self._bias
        if self._beta != 1.0:
            bias = self._op("Mul", [bias, self._scalar("beta", self._beta)], "bias")
        if self._node.op_type in ("Conv", "ConvTranspose"):
            shape = self._constant("bias_shape", np.array([1, -1, *[1] * self._product.spatial], np.int64))
            bias = self._op("Reshape", [bias, shape], "bias")
        self._op("Add", [total, bias], "result", result)

    def _with_more_error(self, total: str, low: str, bound: str, chunk: int, growth: str) -> str:
        """The rounded sum and `growth` times its error more, up to `bound`; infinite where the rounded sum is."""
        # infinity minus infinity would be NaN: what overflows anyway is subtracted as the number it overflows from
        finite = self._clip(total, chunk)
        error = self._op("Sub", [low, finite], f"error{chunk}")
        more = self._op("Mul", [error, growth], f"more{chunk}")
        above = self._op("Max", [more, self._op("Neg", [bound], f"below{chunk}")], f"above{chunk}")
        return self._op("Add", [low, self._op("Min", [above, bound], f"within{chunk}")], f"acc{chunk}")

    def _partial(self, chunk: int, a: str, b: str, growth: str) -> tuple[str, str]:
        """(a partial product, its magnitude where errors are enlarged)."""
        name = f"{self._base}_part{chunk}"
        made = NodeProto(op_type=self._node.op_type, domain=self._node.domain, name=name)
        made.input.extend([a, b])
        if self._node.op_type == "Gemm" and self._opset < 11:  # C was not optional
            made.input.append(self._scalar("zero", 0.0))
        made.output.append(name)
        made.attribute.extend(a for a in self._node.attribute if a.name not in _EPILOGUE)
        self.nodes.append(made)
        return name, self._op("Abs", [name], f"size{chunk}") if growth else ""

    def _parts(self, slot: int) -> list[str]:
        """The chunks of an operand whose length is known."""
        product, axis = self._product, self._product.axes[slot]
        per_group = product.groups > 1 and not (slot == 1 and axis == 1)  # a Conv's weights hold one group's channels
        if not per_group:
            sizes = "" if self._opset < 13 else self._constant(f"sizes{slot}", np.array(product.sizes, np.int64))
            return self._split(slot, sizes, len(product.sizes))
        channels = np.arange(product.groups * sum(product.sizes), dtype=np.int64).reshape(product.groups, -1)
        parts, at = [], 0
        for chunk, size in enumerate(product.sizes):
            wanted = self._constant(f"channels{slot}_{chunk}", channels[:, at : at + size].reshape(-1))
            inputs = [self._node.input[slot], wanted]
            parts.append(self._op("Gather", inputs, f"operand{slot}_{chunk}", axis=axis))
            at += size
        return parts

    def _split(self, slot: int, sizes: str, count: int) -> list[str]:
        names = [f"{self._base}_operand{slot}_{chunk}" for chunk in range(count)]
        inputs = [self._node.input[slot], *([sizes] if sizes else [])]
        made = helper.make_node("Split", inputs, names, name=f"{self._base}_split{slot}", axis=self._product.axes[slot])
        if not sizes:
            made.attribute.append(helper.make_attribute("split", self._product.sizes))
        self.nodes.append(made)
        return names

    def _measure(self) -> tuple[str, str]:
        """(the sizes of the chunks, the factor on errors less 1), computed when the model runs.

        Equal chunks and a longer last one; with fewer values than chunks the first ones are empty. A factor below 0
        stands for steps that are fewer than the chunks; it is never 0, which would make an infinite error NaN.
        """
        axis = self._constant("axis", np.array([self._product.axes[1]], np.int64))
        shape = self._op("Shape", [self._node.input[1]], "shape")
        length = self._op("Gather", [shape, axis], "length", axis=0)
        even = self._op("Div", [length, self._constant("chunks", np.array([CHUNKS], np.int64))], "even")
        before = self._op("Mul", [even, self._constant("before", np.array([CHUNKS - 1], np.int64))], "before_last")
        rest = self._op("Sub", [length, before], "rest")
        sizes = self._op("Concat", [*[even] * (CHUNKS - 1), rest], "sizes", axis=0)
        whole = self._op("Cast", [length], "length_float", to=TensorProto.FLOAT)
        steps = self._op("Ceil", [self._op("Div", [whole, self._scalar("step", STEP)], "ratio")], "steps")
        more = self._op("Sub", [steps, self._scalar("one", 1.0)], "more")
        share = self._op("Div", [more, self._scalar("between", CHUNKS - 1)], "share")
        above = self._op("Max", [share, self._scalar("zero", 0.0)], "share_above")
        factor = self._op("Sqrt", [above], "factor")
        return sizes, self._op("Sub", [factor, self._scalar("nearly_one", 1.0 - 2.0**-20)], "growth")

    def _clip(self, value: str, chunk: int) -> str:
        limit = FORMATS["fp16"].overflow_from
        if self._opset < 11:
            return self._op("Clip", [value], f"finite{chunk}", min=-limit, max=limit)
        return self._op("Clip", [value, self._scalar("min", -limit), self._scalar("max", limit)], f"finite{chunk}")

    def _round(self, value: str, suffix: str, name: str = "") -> str:
        low = self._op("Cast", [value], f"{suffix}_half", to=TensorProto.FLOAT16)
        return self._op("Cast", [low], f"{suffix}_rounded", name, to=TensorProto.FLOAT)

    def _op(self, op_type: str, inputs: Sequence[str], suffix: str, name: str = "", **attributes: Any) -> str:
        result = name or f"{self._base}_{suffix}"
        self.nodes.append(helper.make_node(op_type, inputs, [result], name=f"{self._base}_{suffix}", **attributes))
        return result

    def _scalar(self, suffix: str, value: float) -> str:
        return self._constant(suffix, np.float32(value))

    def _constant(self, suffix: str, value: Any) -> str:
        name = f"{self._base}_{suffix}"
        if all(tensor.name != name for tensor in self.constants):
            self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name
