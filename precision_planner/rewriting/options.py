"""The options of a rewrite, as they were given; nothing of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from precision_planner.errors import SelectorError
from precision_planner.model import Model, NodeId
from precision_planner.patterns.selecting import without_folded
from precision_planner.targets.refusals import Refusal
from precision_planner.targets.target import Islands
from precision_planner.typing import Decision, KeepAs, PluginTypes, Precision

__all__ = ["Options", "listed", "selectors_about"]


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

    def about(self, given: Model, folded: Model) -> Options:
        """The options without what they say of nodes that were computed beforehand, in FP32.

        Raises:
          SelectorError: --only-low names nothing else.
        """
        if not self.selectors or given is folded:
            return self
        return replace(self, **selectors_about({name: getattr(self, name) for name in SELECTORS}, given, folded))


SELECTORS = ("keep_fp32", "keep_bf16", "keep_sum32", "only_low")
"""The options whose values are selectors."""


def selectors_about(options: Mapping[str, Any], given: Model, folded: Model) -> dict[str, Any]:
    """Options with selectors, without what they say of nodes that were computed beforehand, in FP32.

    Raises:
      SelectorError: --only-low names nothing else.
    """
    found = dict(options)
    for name in SELECTORS:
        if options.get(name):
            chosen = options[name]
            found[name] = without_folded((chosen,) if isinstance(chosen, str) else chosen, given, folded)
    if options.get("only_low") and not found["only_low"]:
        raise SelectorError(
            f"--only-low {','.join(map(str, options['only_low']))} names only what is computed beforehand, from "
            "constants, in FP32; name nodes that depend on an input"
        )
    return found


def listed(value: Sequence[str] | str | None) -> tuple[str, ...]:
    """One, several or none, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value or ())
