"""TF32 in an FP32 graph: operands of products with 10 fraction bits, rounded to nearest or truncated towards zero.

A tensor core ignores the lower 13 bits of a float32 operand. Kernels that round an operand before they hand it over
(cvt.rna.tf32.f32) make the error of rounding; those that do not make that of truncation, which has a bias.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from onnx import NodeProto, TensorProto, helper

from precision_planner.errors import ConversionError

__all__ = [
    "TRUNCATION_OPSET",
    "Tf32",
    "check_tf32",
    "round_to_tf32",
    "rounding_to_tf32_nodes",
    "truncate_to_tf32",
    "truncation_to_tf32_nodes",
]

Tf32: TypeAlias = bool | Literal["nearest", "truncated"]
"""How products that stay FP32 take their operands: False as they are, True and "nearest" rounded to TF32, "truncated"
rounded too, but cut off in products of two computed values."""

TRUNCATION_OPSET = 9
"""The first opset in which truncation can be written: that of Where."""


def check_tf32(tf32: Tf32) -> None:
    """Refuse what is no `Tf32`.

    Raises:
      ConversionError: it is not.
    """
    if tf32 not in (False, True, "nearest", "truncated"):
        raise ConversionError(f"tf32 {tf32!r} is unknown; use nearest or truncated, or True (nearest) or False")


def round_to_tf32(x: np.ndarray) -> np.ndarray:
    """Round float32 to 10 fraction bits, to nearest, ties away from zero; NaN and infinities stay.

    Source: PTX ISA, cvt.rna.tf32.f32.
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    special = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(special, bits, rounded).view(np.float32)


def truncate_to_tf32(x: np.ndarray) -> np.ndarray:
    """Cut float32 to 10 fraction bits, towards zero, on its bits; NaN stays."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return np.where(np.isnan(x), bits, bits & np.uint32(0xFFFFE000)).view(np.float32)


def rounding_to_tf32_nodes(source: str, target: str) -> list[NodeProto]:
    """Veltkamp's splitting: the upper 11 bits of x are c - (c - x) with c = (2^13 + 1) x, scaled so that c is finite.

    Ties may go either way. An infinity becomes NaN; a value below 2^-110 becomes 0.
    Source: T. J. Dekker, A floating-point technique for extending the available precision, 1971.
    """
    make = _Maker(target)
    small = make.step("Mul", source, make.number(2.0**-16, "down"), to="small")
    spread = make.step("Mul", small, make.number(2.0**13 + 1, "splitter"), to="spread")
    upper = make.step("Sub", spread, make.step("Sub", spread, small, to="rest"), to="upper")
    make.step("Mul", upper, make.number(2.0**16, "up"))
    return make.nodes


def truncation_to_tf32_nodes(source: str, target: str) -> list[NodeProto]:
    """x in units of its last kept bit, cut to an integer: what masking its lower 13 bits gives, bit for bit.

    With m = |x| q = m (1 + 2^-23) is one or two units in the last place above m, and q (1 - 2^-24) rounds to the float
    below q: their difference is the unit, 2^13 of which are that of TF32. Everything but these two products is exact.
    Subnormals have the unit of the smallest normal number, infinities are given that of the largest power of two. NaN
    stays NaN, and zeros keep their sign: Where gives that of its last input, so the positive values are the other one.
    """
    make = _Maker(target)
    normal = make.step("Max", make.step("Abs", source, to="size"), make.number(2.0**-126, "least"), to="normal")
    finite = make.step("Min", normal, make.number(2.0**127, "most"), to="finite")
    above = make.step("Mul", finite, make.number(1 + 2.0**-23, "raise"), to="above")
    below = make.step("Mul", above, make.number(1 - 2.0**-24, "lower"), to="below")
    last = make.step("Mul", make.step("Sub", above, below, to="ulp"), make.number(2.0**13, "dropped"), to="last")
    units = make.step("Div", source, last, to="units")
    positive = make.step("Greater", units, make.number(0.0, "zero"), to="positive")
    down, up = make.step("Floor", units, to="floor"), make.step("Ceil", units, to="ceil")
    make.step("Mul", make.step("Where", positive, down, up, to="whole"), last)
    return make.nodes


class _Maker:
    """Collects nodes that lead from a value to another; those in between are named after it."""

    def __init__(self, target: str) -> None:
        self.nodes: list[NodeProto] = []
        self._target = target

    def step(self, op_type: str, *inputs: str, to: str = "") -> str:
        name = f"{self._target}__planner_tf32_{to}" if to else self._target
        self.nodes.append(
            helper.make_node(op_type, inputs, [name], name=f"{self._target}__planner_tf32/{to or 'back'}")
        )
        return name

    def number(self, value: float, name: str) -> str:
        name = f"{self._target}__planner_tf32_{name}"
        tensor = helper.make_tensor(name, TensorProto.FLOAT, (), [value])
        self.nodes.append(helper.make_node("Constant", [], [name], name=f"{name}/value", value=tensor))
        return name
