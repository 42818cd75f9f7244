"""Which Casts lose nothing, so that a chain that begins with one may skip it."""

from __future__ import annotations

import onnx
from onnx import TensorProto

_INTEGERS: dict[int, tuple[int, bool]] = {
    TensorProto.INT8: (8, True),
    TensorProto.INT16: (16, True),
    TensorProto.INT32: (32, True),
    TensorProto.INT64: (64, True),
    TensorProto.UINT8: (8, False),
    TensorProto.UINT16: (16, False),
    TensorProto.UINT32: (32, False),
    TensorProto.UINT64: (64, False),
}
"""Element type -> (bits, signed)."""

_FLOATS: dict[int, tuple[int, frozenset[int]]] = {
    TensorProto.BFLOAT16: (8, frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})),
    TensorProto.FLOAT16: (11, frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})),
    TensorProto.FLOAT: (24, frozenset({TensorProto.DOUBLE})),
    TensorProto.DOUBLE: (53, frozenset()),
}
"""Element type -> (bits of the significand, the wider types that hold its every value)."""


def is_exact(source: int, target: int) -> bool:
    """Whether every value of one element type has itself as its Cast to the other.

    An integer type is held by a float type whose significand is at least as wide as its magnitude, and by an integer
    type with at least its bits on both sides. What is true of bool is that 0 and 1 are held by every number type.
    """
    if source == target:
        return True
    if source == TensorProto.BOOL:
        return target in _INTEGERS or target in _FLOATS
    if source in _INTEGERS:
        bits, signed = _INTEGERS[source]
        if target in _FLOATS:
            return bits - signed <= _FLOATS[target][0]
        if target in _INTEGERS:
            wide, sign = _INTEGERS[target]
            return bits <= wide if signed == sign else (sign and bits < wide)
        return False
    return source in _FLOATS and target in _FLOATS[source][1]


def cast_target(node: onnx.NodeProto) -> int:
    """The element type that a Cast makes, 0 where it is a reference to a function's attribute."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "to"), 0)


def is_cast(node: onnx.NodeProto | None) -> bool:
    """Whether a node is the standard Cast."""
    return node is not None and node.op_type == "Cast" and node.domain in ("", "ai.onnx")
