"""What was decided about a node before types are assigned, and the options of the assignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnx import NodeProto, TensorProto

from precision_planner.errors import ConversionError
from precision_planner.operators import is_product
from precision_planner.targets.refusals import Refusal

Precision = Literal["fp16", "fp16+", "bf16", "fp32"]
"""fp16+: values and weights in FP16, and a product's sum promised in FP32; a node that sums nothing is in FP16."""
KeepAs = Literal["compute", "island"]

ELEMENT_TYPES: Mapping[str, int] = {
    "fp16": TensorProto.FLOAT16,
    "fp16+": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "fp32": TensorProto.FLOAT,
}
"""Precision -> the element type that stores it."""

PRECISIONS: Mapping[int, Precision] = {
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.FLOAT: "fp32",
}
"""The reverse of `ELEMENT_TYPES`, which does not say in what is summed."""


def sums_are_promised(node: NodeProto) -> bool:
    """Whether a node is one whose sum can be promised in FP32 (fp16+): a product of ONNX's own domain."""
    return is_product(node) and node.domain in ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Decision:
    """The precision that a rule, a selector or the search gave a node.

    Attributes:
      precision: what the node computes in.
      reason: for people, with the numbers that led to it.
      rule: the rule's id, None where no rule did it.
      keep_as: for a normalization in FP32: `compute` keeps its data in the low type and its statistics in FP32;
        `island` makes inputs, weights and outputs FP32. None: the one that costs least (compute where it exists).
      evidence: numbers, JSON-ready.
      binding: no search takes it back: the user said so, or it keeps values from overflow.
    """

    precision: Precision
    reason: str
    rule: str | None = None
    keep_as: KeepAs | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    binding: bool = False


@dataclass(frozen=True, slots=True)
class PluginTypes:
    """What a plugin node takes and gives: one of "low", "fp16", "bf16", "fp32" or "-" (no float) a slot.

    The last entry stands for all further slots.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TypingOptions:
    """How types are assigned.

    Attributes:
      precision: the low type: what every node computes in that nothing keeps from it.
      io_types: "keep", "low", or "low=GLOB,GLOB": which floats of the interface become low.
      keep_as: how kept normalizations are kept where their `Decision` does not say.
      plugins: op type of a custom or plugin node -> its types; FP32 for those not named.
      loadable: keep in FP32 what onnxruntime or TensorRT refuses in the low type although its schema allows it.
      refused: what the build target lacks besides.
    """

    precision: Precision = "fp16"
    io_types: str = "keep"
    keep_as: KeepAs | None = None
    plugins: Mapping[str, PluginTypes] = field(default_factory=dict)
    loadable: bool = True
    refused: tuple[Refusal, ...] = ()

    def __post_init__(self) -> None:
        if self.precision not in ("fp16", "bf16"):
            raise ConversionError(f"precision {self.precision!r} is no low precision; use fp16 or bf16")
        if self.io_types not in ("keep", "low") and not self.io_types.startswith("low="):
            raise ConversionError(f"io types {self.io_types!r} are unknown; use keep, low or low=GLOB,GLOB")

    @property
    def low(self) -> int:
        """The element type of `precision`."""
        return ELEMENT_TYPES[self.precision]

    @property
    def low_globs(self) -> tuple[str, ...]:
        """The interface names that become low, as globs; () for none."""
        if self.io_types == "keep":
            return ()
        if self.io_types == "low":
            return ("*",)
        # as in selectors, [ stands for itself
        return tuple(glob.replace("[", "[[]") for glob in self.io_types.removeprefix("low=").split(",") if glob)
