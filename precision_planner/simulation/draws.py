"""Stochastic rounding: where a device rounds elsewhere than the simulation does, its errors are others of their kind.

A device fuses, sums in another order, and so rounds values that differ in their last bits from ours: each of its
errors is as large as ours, and another one. A draw is a simulation in which every value that is computed and stored in
a short type is rounded up or down by chance, with a probability that makes the mean right. What constants become is no
matter of chance, and what the type holds exactly stays what it is.

Chance is taken from the value itself: its bits below those that decide are noise. With p the bits of the type's
significand, c a constant just above 1, and split(x) x to p + 6 bits (Veltkamp's),

    y = round(x + 63 (c x - split(c x))),

for c x - split(c x) lies within half a unit of bit p + 6, evenly, and 64 of these are half a unit of bit p. So a draw
depends on nothing but c, which is an input: one session makes all draws, and the same ones in any block and order. The
error is sqrt(2) times that of rounding to nearest, in the root mean square. What lies below the type's normal range is
rounded to nearest.
Source: M. Croci et al., Stochastic rounding: implementation, error analysis and applications, 2022; T. J. Dekker, A
floating-point technique for extending the available precision, 1971.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from precision_planner.model import GraphIndex, Model, TypeTable, infer_types
from precision_planner.model.edit import set_nodes
from precision_planner.numerics.formats import FORMATS

__all__ = ["MOST_DRAWS", "can_draw", "dithered", "draw_feeds"]

MOST_DRAWS = 15
"""Numbers of draws are 1 to this: c = 1 + (2 n - 1) 2^-(p + 5) carries no number of p bits into the next binade."""

FIRST_OPSET = 7
"""Below it Add and Mul do not broadcast."""

_LIMIT = 1e30
"""Noise is taken from what is no larger, for infinity has none."""

_SPARE = 6
"""Bits of noise."""

_SIGNIFICANDS: dict[int, int] = {
    TensorProto.FLOAT16: FORMATS["fp16"].fraction_bits + 1,
    TensorProto.BFLOAT16: FORMATS["bf16"].fraction_bits + 1,
}
_TF32_SIGNIFICAND = 11
_TF32_FIRST = "__planner_tf32/small"
"""How the name of the first node ends that rounds to TF32 (see `simulation.tf32`)."""


def can_draw(model: Model) -> bool:
    """Whether stochastic rounding can be written at the model's opset."""
    return model.opset >= FIRST_OPSET


def draw_feeds(draw: int) -> dict[str, np.ndarray]:
    """The inputs of a `dithered` model that say which draw it makes.

    Args:
      draw: its number, from 1 to `MOST_DRAWS`.

    Raises:
      ValueError: no such draw.
    """
    if not 1 <= draw <= MOST_DRAWS:
        raise ValueError(f"draw {draw} is none of 1 to {MOST_DRAWS}")
    widths = {_TF32_SIGNIFICAND, *_SIGNIFICANDS.values()}
    return {_shift(bits): np.array(1 + (2 * draw - 1) * 2.0 ** -(bits + _SPARE - 1), np.float32) for bits in widths}


def dithered(model: Model) -> Model:
    """A simulation in which what is rounded to nearest is rounded by chance instead; it takes `draw_feeds` besides.

    Args:
      model: in FP32, with explicit rounding (see `simulation.rounding.apply_rounding`), at an opset of 7 or more.
    """
    proto = model.edit()
    index = GraphIndex(proto)
    known = any(_is_own_cast(node) for _, _, node in index.nodes())
    types = infer_types(model) if known else TypeTable({})
    writer = _Dither(model.opset)
    for scope in reversed(index.scopes):  # bodies before the graphs that hold them
        graph = scope.container
        if not isinstance(graph, GraphProto):
            continue
        nodes: list[NodeProto] = []
        for node in scope.nodes:
            bits = _significand(node)
            if bits and not (_is_own_cast(node) and types.of(scope, node.input[0]).elem_type != TensorProto.FLOAT):
                added = list(writer.noise(node.input[0], node.output[0], bits))
                node.input[0] = added[-1].output[0]
                nodes.extend(added)
            nodes.append(node)
        set_nodes(graph, nodes)
    proto.graph.initializer.extend(writer.numbers.values())
    shifts = (helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in sorted(writer.shifts))
    proto.graph.input.extend(shifts)
    return model.with_proto(proto)


class _Dither:
    def __init__(self, opset: int) -> None:
        self.numbers: dict[str, TensorProto] = {}
        self.shifts: set[str] = set()
        self._opset = opset

    def noise(self, source: str, place: str, bits: int) -> Iterator[NodeProto]:
        """Nodes that add to a value its noise; the last one's output is the sum."""
        self.shifts.add(_shift(bits))
        splitter = 2.0 ** (24 - bits - _SPARE) + 1
        base = f"{place}__planner_draw"
        held = f"{base}_held"
        if self._opset < 11:
            yield helper.make_node("Clip", [source], [held], name=held, min=-_LIMIT, max=_LIMIT)
        else:
            ends = [self._number("least", -_LIMIT), self._number("most", _LIMIT)]
            yield helper.make_node("Clip", [source, *ends], [held], name=held)
        for op_type, left, right, name in (
            ("Mul", held, _shift(bits), "shifted"),
            ("Mul", f"{base}_shifted", self._number(f"splitter{bits}", splitter), "spread"),
            ("Sub", f"{base}_spread", f"{base}_shifted", "rest"),
            ("Sub", f"{base}_spread", f"{base}_rest", "upper"),
            ("Sub", f"{base}_shifted", f"{base}_upper", "lower"),
            ("Mul", f"{base}_lower", self._number("size", 2.0**_SPARE - 1), "noise"),
            ("Add", source, f"{base}_noise", "sum"),
        ):
            yield helper.make_node(op_type, [left, right], [f"{base}_{name}"], name=f"{base}/{name}")

    def _number(self, name: str, value: float) -> str:
        name = f"__planner_draw_{name}"
        self.numbers.setdefault(name, numpy_helper.from_array(np.array(value, np.float32), name))
        return name


def _shift(bits: int) -> str:
    return f"__planner_draw_shift{bits}"


def _significand(node: NodeProto) -> int:
    """Bits of the type that a node of a simulation rounds to; 0: it rounds nothing by itself."""
    if node.name.endswith(_TF32_FIRST):
        return _TF32_SIGNIFICAND
    if node.op_type != "Cast" or node.domain:
        return 0
    return _SIGNIFICANDS.get(next((a.i for a in node.attribute if a.name == "to"), 0), 0)


def _is_own_cast(node: NodeProto) -> bool:
    """Whether a Cast is one of the typed model's: what it reads may be integers or doubles, which get no noise."""
    return any(name.endswith("__planner_cast") for name in node.output)
