"""What a target does not take though ONNX allows it, as data; `precision_planner.analysis.refusals` asks a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nodes that a parser refuses, or that a runtime has no kernel for.

    All that is said must hold; what is not said is not asked.

    Attributes:
      op_types: of ONNX's own domain.
      reason: in a few words, as the end of "PARSER refuses NODE: ...".
      instead: the way round, as a sentence without a full stop.
      precision: only in this type: 'bf16', 'fp16', 'fp32'; '' for any.
      outputs_over: only with an output beyond this many that is given a name.
      attribute: (name, values as text): only where the attribute has one of these values.
      over: (name, number): only where the integer or float attribute is larger.
      below_opset: only in models of an opset below it; 0: in all.
      constant_of: only behind an initializer of one of these element types, by ONNX's names in small letters.
      dynamic: input that must be an initializer or a constant and is computed: its number.
      source: where this was seen.
    """

    op_types: tuple[str, ...]
    reason: str
    instead: str
    precision: Literal["", "fp16", "bf16", "fp32"] = ""
    outputs_over: int | None = None
    attribute: tuple[str, tuple[str, ...]] | None = None
    over: tuple[str, float] | None = None
    below_opset: int = 0
    constant_of: tuple[str, ...] = ()
    dynamic: int | None = None
    source: str = ""
