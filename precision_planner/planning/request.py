"""What is asked of a plan: the options of `plan`, checked, as a few values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from precision_planner.errors import TargetError
from precision_planner.judging.judge import Tolerance
from precision_planner.planning.profiles import Shapes
from precision_planner.planning.search import DEFAULT_BUDGET, Clock, OwnMetric
from precision_planner.targets import Target, newest

__all__ = ["Aim", "Asked", "Profiles", "Request", "SearchRequest"]


@dataclass(frozen=True)
class Aim:
    """What comes out.

    Attributes:
      target: the build target.
      precision: the low precision, "fp16" or "bf16".
      bounds: the tolerance; () for none.
      metrics: one's own metrics by name.
    """

    target: Target
    precision: str = "fp16"
    bounds: tuple[Tolerance, ...] = ()
    metrics: Mapping[str, OwnMetric] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """Which rules are asked, and how.

    Attributes:
      policy: "auto", "rules" or "torch-amp".
      headroom: keep what comes closer to the largest finite value than this factor.
      folders: of further rules.
      only: ids or tags of the only rules asked.
      disable: ids or tags of rules not asked.
      without: repairs that are not applied.
    """

    policy: str = "auto"
    headroom: float = 4.0
    folders: tuple[str | os.PathLike[str], ...] = ()
    only: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class SearchRequest:
    """How to search.

    Attributes:
      clock: of the budget, for all variants that are searched.
      jobs: evaluations at once.
      scheduler: address of a dask scheduler.
    """

    clock: Clock = field(default_factory=lambda: Clock(DEFAULT_BUDGET))
    jobs: int = 1
    scheduler: str | None = None


@dataclass(frozen=True)
class Profiles:
    """Shapes of the optimization profile that the user gave: input -> shape."""

    smallest: Shapes | None = None
    usual: Shapes | None = None
    longest: Shapes | None = None


@dataclass(frozen=True)
class Request:
    """Everything that `plan` was asked, but for the model and the data.

    Attributes:
      aim: what comes out.
      rules: which rules are asked.
      search: how to search.
      fuse: pattern kinds that become one node.
      rewriting: options of `rewrite`, the user's selectors among them.
      build: builder settings that were given.
      profiles: shapes that were given.
      calibrate: measure activations.
      verify: run the fused and the typed model in onnxruntime.
      hold_low: constrain what is low, too, for a weakly typed target.
      layernorm: how LayerNormalization is written in what is built; everything before knows the operator alone.
    """

    aim: Aim
    rules: Asked = field(default_factory=Asked)
    search: SearchRequest = field(default_factory=SearchRequest)
    fuse: tuple[str, ...] = ("layernorm",)
    rewriting: Mapping[str, Any] = field(default_factory=dict)
    build: Mapping[str, Any] = field(default_factory=dict)
    profiles: Profiles = field(default_factory=Profiles)
    calibrate: bool = True
    verify: bool = True
    hold_low: bool = False
    layernorm: str = "onnx"

    def __post_init__(self) -> None:
        _check_target(self.aim.target, self.aim.precision, self.rewriting)
        if self.hold_low and self.aim.target.strong:
            raise TargetError(
                f"{self.aim.target.name} is strongly typed: every layer is held to its type; leave --hold-low out"
            )

    @property
    def searches(self) -> bool:
        """Whether a tolerance decides."""
        return bool(self.aim.bounds) and self.rules.policy == "auto" and self.calibrate

    @property
    def tf32(self) -> tuple[bool, bool]:
        """(products in FP32 may use TF32, they may do without): as the user said, else both where a search decides."""
        given = self.build.get("tf32")
        if given is not None:
            return bool(given), not given
        return self.searches and self.aim.target.has_builder, True


def _check_target(target: Target, precision: str, options: Mapping[str, Any]) -> None:
    if precision not in ("fp16", "bf16"):
        raise TargetError(f"a plan is for fp16 or bf16, not {precision!r}; planner rewrite --precision fp32 only fuses")
    if precision == "bf16" and not target.has_bf16:
        with_bf16 = newest(lambda other: other.has_bf16).name
        raise TargetError(f"{target.name} has no BF16; plan for fp16, or for {with_bf16} and others that have it")
    if options.get("keep_bf16") and not target.has_bf16:
        raise TargetError(f"{target.name} has no BF16, so --keep-bf16 cannot be kept; use --keep-fp32")
    if options.get("io_types", "keep") != "keep" and not target.strong:
        raise TargetError(f"{target.name} is weakly typed: --io-types is for strongly typed targets")


def sequence(value: Sequence[str] | str | None) -> tuple[str, ...]:
    """One or several, as several."""
    return (value,) if isinstance(value, str) else tuple(value or ())
