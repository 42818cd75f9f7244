"""`--fuse attention`: written, run beside the original, and taken back where the answers differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from precision_planner.errors import PlannerError
from precision_planner.model import Model
from precision_planner.model.edit import PassResult
from precision_planner.model.inputs import load_inputs
from precision_planner.model.session import Session
from precision_planner.transforms.attention import fuse_attention
from precision_planner.transforms.fuse import WRITTEN

__all__ = ["VerifiedAttention", "unwritten", "verified_attention"]

CLOSE = 1e-4
"""Of the largest value: FP32 sums of other orders stay far below, another function does not."""


@dataclass(frozen=True, slots=True)
class VerifiedAttention(PassResult):
    """A model with its attentions as one node each.

    Attributes:
      model: the one given where none was written, or where it answered otherwise.
      fused: names of the Attention nodes.
      notes: what stays, and why.
    """

    fused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def verified_attention(model: Model, inputs: object = None, *, verify: bool = True) -> VerifiedAttention:
    """Write attentions as ONNX's operator.

    Args:
      model: in FP32.
      inputs: what both models are run on; synthesized where None.
      verify: run them; else the structural proof stands alone.
    """
    found = fuse_attention(model)
    notes = [f"not fused: attention at {one.node}: {one.reason}" for one in found.refused]
    if not found.fused:
        return VerifiedAttention(model, notes=(*notes, "no attention was fused"))
    if verify:
        try:
            batch = load_inputs(inputs, model).first()
            with Session(model) as before:
                right = before.run(batch)
            with Session(found.model) as after:
                answer = after.run(batch)
        except PlannerError as error:
            return VerifiedAttention(
                model, notes=(*notes, f"no attention was fused: it could not be compared: {error}")
            )
        for name, value in right.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not _is_close(value, answer[name]):
                why = f"no attention was fused: output {name!r} came out otherwise, so it was taken back"
                return VerifiedAttention(model, notes=(*notes, why))
    if found.float_masks:
        notes.append(
            f"{len(found.float_masks)} of {len(found.fused)} attentions have a float mask: TensorRT 11 and "
            "TensorRT-RTX build these in 16 bits, not kept in FP32"
        )
    return VerifiedAttention(found.model, notes=tuple(notes), fused=found.fused)


def unwritten(kinds: Iterable[str]) -> list[str]:
    """A note for each pattern kind that was asked for and that nothing writes as one node."""
    return [
        f"--fuse {kind}: nothing is written for it (layernorm, rmsnorm and attention are); builders fuse it themselves"
        for kind in kinds
        if kind not in (*WRITTEN, "attention")
    ]


def _is_close(right: np.ndarray, found: np.ndarray) -> bool:
    finite = np.isfinite(right)
    if found.shape != right.shape or not np.array_equal(finite, np.isfinite(found)):
        return False
    size = float(np.abs(right[finite]).max(initial=0.0))
    return bool(np.abs(right[finite] - found[finite]).max(initial=0.0) <= CLOSE * size)
