"""What the operator schemas say about 16-bit types."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from precision_planner.operators import OpTypes, Slot, op_types, row_of

LOW_TYPES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})

TF32 = -19
"""No TensorProto type: what tensor cores make of the FP32 operands of a product where TF32 is allowed. 8 exponent bits
as in FP32, 10 fraction bits as in FP16; sums stay FP32.

Source: NVIDIA A100 Tensor Core GPU Architecture whitepaper, "TF32"."""

TF32_TRUNCATED = -20
"""The same, cut off instead of rounded: of FP32 operands that a kernel hands to the tensor cores as they are."""

ELEMENT_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

_NEWEST = 1000
"""An opset beyond all: an operator's newest version."""


def low_slots(node: NodeProto, opsets: dict[str, int], elem_type: int) -> tuple[frozenset[int], frozenset[int]] | None:
    """The inputs and outputs of a node that may have a 16-bit type; None where the node cannot run in it at all.

    For BF16 the newest schema is asked: it was added to many operators long after they appeared, and a weakly typed
    builder does not ask the opset.

    Args:
      node: any node.
      opsets: the model's, "" for the default domain.
      elem_type: FLOAT16 or BFLOAT16.
    """
    # Shape reads no value, bodies are asked node by node, and quantization and constants follow their readers
    row = row_of(node)
    if row.bodies or row.quantizes or (row.blind and not row.generates) or node.op_type == "Constant":
        return None
    schema = _schema(node, opsets)
    if schema is None:
        return None
    typed_by = schema
    if elem_type == TensorProto.BFLOAT16:
        typed_by = op_types(node.op_type, node.domain, _NEWEST) or schema
    low = {slot.parameter for slot in (*typed_by.inputs, *typed_by.outputs) if elem_type in slot.elements}
    inputs = frozenset(i for i in range(len(node.input)) if node.input[i] and _parameter(schema.input(i)) in low)
    outputs = frozenset(i for i in range(len(node.output)) if node.output[i] and _parameter(schema.output(i)) in low)
    return (inputs, outputs) if inputs or outputs else None


def output_like_input(node: NodeProto, opsets: dict[str, int]) -> dict[int, int | str]:
    """Where an output's type comes from: the index of an input that shares it, or a fixed type's string."""
    schema = _schema(node, opsets)
    if schema is None:
        return {}
    found: dict[int, int | str] = {}
    for position in range(len(node.output)):
        parameter = _parameter(schema.output(position))
        if parameter.startswith("tensor("):
            found[position] = parameter
            continue
        for slot in range(len(node.input)):
            if node.input[slot] and parameter and _parameter(schema.input(slot)) == parameter:
                found[position] = slot
                break
    return found


def _schema(node: NodeProto, opsets: dict[str, int]) -> OpTypes | None:
    return op_types(node.op_type, node.domain, opsets.get("" if node.domain == "ai.onnx" else node.domain, 1))


def _parameter(slot: Slot | None) -> str:
    """The type parameter of an argument; "" where nothing is known to share its type."""
    return slot.parameter if slot is not None and slot.homogeneous else ""
