"""What an operator accepts: its schema reduced to type parameters.

A schema groups the inputs and outputs that share one element type under a type parameter (`T`), and lists the types
that the parameter may take. That decides which slots of a node follow its precision and which are fixed to FLOAT.

Source: onnx.defs of the opset the model imports; for com.microsoft a table read from onnxruntime's own schemas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

import onnx
from onnx import TensorProto

__all__ = [
    "OpTypes",
    "Slot",
    "make_slot",
    "microsoft_signatures",
    "op_types",
]

_ELEMENT_NAMES = {
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "double": TensorProto.DOUBLE,
}


@dataclass(frozen=True, slots=True)
class Slot:
    """One formal input or output.

    Attributes:
      parameter: the type parameter's name, or the fixed type string.
      elements: the floating element types it takes (TensorProto.DataType).
      takes_int32: whether an int32 tensor may stand there.
      variadic: it stands for this and all following arguments.
      homogeneous: a variadic's arguments share one type.
    """

    parameter: str
    elements: frozenset[int]
    takes_int32: bool = False
    variadic: bool = False
    homogeneous: bool = True


@dataclass(frozen=True, slots=True)
class OpTypes:
    """The typing side of one operator schema."""

    op_type: str
    domain: str
    since_version: int
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    def input(self, index: int) -> Slot | None:
        """The slot of argument `index`, a variadic's last one for all beyond it."""
        return _slot(self.inputs, index)

    def output(self, index: int) -> Slot | None:
        """The slot of result `index`."""
        return _slot(self.outputs, index)


def _slot(slots: tuple[Slot, ...], index: int) -> Slot | None:
    if index < len(slots):
        return slots[index]
    return slots[-1] if slots and slots[-1].variadic else None


@cache
def op_types(op_type: str, domain: str, version: int) -> OpTypes | None:
    """The types of an operator as of an opset version, None for one that nobody here knows.

    Args:
      op_type: the operator.
      domain: its domain; 'ai.onnx' and '' are the same.
      version: the version of that domain which the model (or the function) imports.
    """
    domain = "" if domain == "ai.onnx" else domain
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return microsoft_signatures().get(op_type) if domain == "com.microsoft" else _onnxruntime_own(op_type, domain)
    constraints = {c.type_param_str: tuple(c.allowed_type_strs) for c in schema.type_constraints}

    def slot(formal: onnx.defs.OpSchema.FormalParameter) -> Slot:
        allowed = constraints.get(formal.type_str, (formal.type_str,))
        variadic = formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic
        return make_slot(formal.type_str, allowed, variadic, bool(formal.is_homogeneous))

    return OpTypes(
        op_type,
        domain,
        schema.since_version,
        tuple(slot(formal) for formal in schema.inputs),
        tuple(slot(formal) for formal in schema.outputs),
    )


def make_slot(parameter: str, allowed: tuple[str, ...], variadic: bool, homogeneous: bool) -> Slot:
    """Reduce a formal parameter; `allowed` are ONNX type strings such as ``seq(tensor(float16))``."""
    names = (text.rpartition("(")[2].rstrip(")") for text in allowed)
    elements = {int(element) for name in names if (element := _ELEMENT_NAMES.get(name)) is not None}
    return Slot(parameter, frozenset(elements), "tensor(int32)" in allowed, variadic, homogeneous)


@cache
def microsoft_signatures() -> Mapping[str, OpTypes]:
    """com.microsoft operators, from onnxruntime's own schemas."""
    text = resources.files("precision_planner.operators").joinpath("microsoft_ops.json").read_text(encoding="utf-8")

    def slots(entries: list[list[object]], constraints: dict[str, list[str]]) -> tuple[Slot, ...]:
        return tuple(
            make_slot(str(param), tuple(constraints.get(str(param), [str(param)])), option == "V", option != "V")
            for param, option in entries
        )

    return {
        name: OpTypes(
            name,
            "com.microsoft",
            1,
            slots(entry["inputs"], entry["types"]),
            slots(entry["outputs"], entry["types"]),
        )
        for name, entry in json.loads(text)["operators"].items()
    }


def _onnxruntime_own(op_type: str, domain: str) -> OpTypes | None:
    """Operators that onnxruntime's optimizer writes into the standard domain although they are not in it."""
    if domain or op_type not in ("LayerNormalization", "SimplifiedLayerNormalization"):
        return None
    standard = op_types("LayerNormalization", "", 17)
    assert standard is not None
    if op_type == "LayerNormalization":
        return standard
    # X, scale -> Y, InvStdDev: no bias, and no mean
    return replace(standard, op_type=op_type, inputs=standard.inputs[:2], outputs=standard.outputs[::2])
