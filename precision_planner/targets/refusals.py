"""What a target does not take though ONNX allows it, as data; `precision_planner.analysis.on_target` asks a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from onnx import NodeProto


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nodes that a parser refuses, or that a runtime has no kernel for.

    All that is said must hold; what is not said is not asked.

    Attributes:
      op_types: of ONNX's own domain.
      reason: in a few words, as the end of "NODE (OP): ...".
      instead: the way round, as a sentence without a full stop.
      but_for: instead of `op_types`: every operator of ONNX's own domain but these.
      precision: only in this type: 'bf16', 'fp16', 'fp32'; '' for any.
      outputs_over: only with a named output beyond this many.
      attribute: (name, values as text): only where the attribute has one of these values.
      over: (name, number): only where the number in the attribute is larger.
      below_opset: only in models of an opset below it; 0: in all.
      reads: only where an input is a constant of one of these element types, by ONNX's names in small letters.
      source: where this was seen.
    """

    op_types: tuple[str, ...]
    reason: str
    instead: str
    but_for: tuple[str, ...] = ()
    precision: Literal["", "fp16", "bf16", "fp32"] = ""
    outputs_over: int | None = None
    attribute: tuple[str, tuple[str, ...]] | None = None
    over: tuple[str, float] | None = None
    below_opset: int = 0
    reads: tuple[str, ...] = ()
    source: str = ""

    def is_about(self, node: NodeProto, opset: int) -> bool:
        """Whether a node is one of these; types and constants are asked by the caller."""
        if node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type in self.but_for or (not self.but_for and node.op_type not in self.op_types):
            return False
        if self.below_opset and opset >= self.below_opset:
            return False
        if self.outputs_over is not None and not any(node.output[self.outputs_over :]):
            return False
        given = {a.name: a for a in node.attribute}
        if self.attribute is not None:
            attribute = given.get(self.attribute[0])
            if attribute is None or (attribute.s.decode() or str(attribute.i)) not in self.attribute[1]:
                return False
        if self.over is not None:
            attribute = given.get(self.over[0])
            return attribute is not None and max(attribute.f, attribute.i) > self.over[1]
        return True
