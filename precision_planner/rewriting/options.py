"""The options of a rewrite, as they were given; nothing of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from precision_planner.model import NodeId
from precision_planner.targets.refusals import Refusal
from precision_planner.targets.target import Islands
from precision_planner.typing import Decision, KeepAs, PluginTypes, Precision

__all__ = ["Options", "listed"]


@dataclass(frozen=True, slots=True)
class Options:
    """See `precision_planner.rewriting.rewrite`, whose arguments these are."""

    precision: str = "fp16"
    kinds: tuple[str, ...] = ()
    keep_fp32: tuple[str, ...] = ()
    keep_bf16: tuple[str, ...] = ()
    keep_sum32: tuple[str, ...] = ()
    islands: Islands = field(default_factory=Islands)
    refused: tuple[Refusal, ...] = ()
    only_low: tuple[str, ...] = ()
    keep_as: KeepAs | None = None
    io_types: str = "keep"
    int32_inputs: bool = False
    weights: str = "auto"
    layernorm: str = "onnx"
    surgery: str | None = None
    plugins: Mapping[str, PluginTypes] = field(default_factory=dict)
    decisions: Mapping[NodeId, Decision] = field(default_factory=dict)
    inputs: object = None
    verify: bool = True
    safe: bool = True

    @property
    def low(self) -> Precision | None:
        """The low precision; None where only patterns are fused."""
        return None if self.precision == "fp32" else self.precision  # type: ignore[return-value]

    @property
    def selectors(self) -> tuple[str, ...]:
        """Every selector given."""
        return (*self.keep_fp32, *self.keep_bf16, *self.keep_sum32, *self.only_low)


def listed(value: Sequence[str] | str | None) -> tuple[str, ...]:
    """One, several or none, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value or ())
