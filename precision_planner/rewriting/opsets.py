"""The opset that a low precision needs: raised where a node that is to compute in BF16 has it only there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from precision_planner.errors import ConversionError
from precision_planner.model import GraphIndex, Model, NodeId, Scope
from precision_planner.operators import op_types
from precision_planner.transforms.opset import OpsetResult, raise_opset
from precision_planner.typing import Decision, TypingOptions
from precision_planner.typing.elements import opset_of
from precision_planner.typing.gather import BF16_CAST_OPSET

__all__ = ["check_opset", "raise_for_bf16"]

OLDEST_OPSET = 6
"""The opset from which Cast names its type by a number."""

BF16_OPSET = 22
"""The opset from which convolutions, pooling and InstanceNormalization take bfloat16."""


def raise_for_bf16(model: Model, precision: str, decisions: Mapping[NodeId, Decision]) -> OpsetResult:
    """Raise the opset where that gives a node that is to compute in BF16 a kernel for it.

    Args:
      model: with its fusions.
      precision: "fp16" or "bf16".
      decisions: about its nodes.
    """
    everything = precision == "bf16"
    if model.opset >= BF16_OPSET or not (everything or any(d.precision == "bf16" for d in decisions.values())):
        return OpsetResult(model, opset=model.opset)
    index = GraphIndex(model.proto)

    def is_wanted(scope: Scope, position: int) -> bool:
        decision = decisions.get(index.node_id(scope, position))
        return everything if decision is None else decision.precision == "bf16"

    gains = any(
        is_wanted(scope, position) and _gains_bf16(node, opset_of(model.proto, scope, ""))
        for scope, position, node in index.nodes()
    )
    return raise_opset(model, BF16_OPSET) if gains else OpsetResult(model, opset=model.opset)


def check_opset(model: Model, typing: TypingOptions, unraised: Sequence[str]) -> None:
    """Refuse a model whose Casts cannot name the types wanted.

    Args:
      model: after `raise_for_bf16`.
      typing: what is wanted.
      unraised: why its opset could not be raised, if it could not.

    Raises:
      ConversionError: its opset is too old; the message says what to do.
    """
    if "" in model.opsets and model.opset < OLDEST_OPSET:
        raise ConversionError(
            f"the model has opset {model.opset}, whose Casts name types by words and which few still run; "
            f"export it with opset {OLDEST_OPSET} or newer"
        )
    if typing.low == onnx.TensorProto.BFLOAT16 and typing.low_globs and 1 < model.opset < BF16_CAST_OPSET:
        why = f" and cannot be raised: {unraised[0]}" if unraised else ""
        raise ConversionError(
            f"a bfloat16 interface needs opset {BF16_CAST_OPSET} for its Casts, and the model has "
            f"{model.opset}{why}; leave --io-types out, or export it anew"
        )


def _gains_bf16(node: onnx.NodeProto, opset: int) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    now, later = op_types(node.op_type, "", opset), op_types(node.op_type, "", BF16_OPSET)
    if now is None or later is None or not now.outputs or not later.outputs:
        return False
    bfloat16 = onnx.TensorProto.BFLOAT16
    return bfloat16 not in now.outputs[0].elements and bfloat16 in later.outputs[0].elements
