"""Whether a plan's outputs meet the tolerance, and how far they are from it, as one number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from precision_planner.errors import ToleranceError
from precision_planner.numerics.metrics import HIGHER_IS_BETTER, METRICS, as_float64
from precision_planner.numerics.tolerance import Tolerance
from precision_planner.simulation.variants import Outputs

__all__ = ["Judge", "Judgement", "OwnMetric"]

OwnMetric: TypeAlias = "Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], float]"
"""A user's metric of (reference, candidate); larger is worse."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one evaluation found.

    Attributes:
      score: the worst of value/bound over all bounds; within tolerance up to 1. Infinite where an output is not finite
        that is so in the reference.
      energy: the squared relative L2 error of the judged outputs, summed. Contributions of independent roundings add up
        in it, which they do in no tolerance's metric.
      values: "OUTPUT:METRIC" -> its worst value over the batches.
    """

    score: float
    energy: float
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every bound holds."""
        return self.score <= 1.0


@dataclass(frozen=True)
class Judge:
    """Compares outputs with the FP32 model's.

    Attributes:
      bounds: the tolerances, at least one.
      references: the FP32 model's outputs, batch by batch.
      own: one's own metrics by name.

    Raises:
      ToleranceError: no bounds, or one whose output does not exist.
    """

    bounds: tuple[Tolerance, ...]
    references: Sequence[Outputs]
    own: Mapping[str, OwnMetric] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.bounds:
            raise ToleranceError("a search needs a tolerance to meet; give one such as --tolerance sad=1e-3")
        for bound in self.bounds:
            if bound.output is not None and bound.output not in self.references[0]:
                raise ToleranceError(
                    f"tolerance {bound} names no output; the outputs are {', '.join(self.references[0])}"
                )

    def judge(self, candidates: Sequence[Outputs]) -> Judgement:
        """Judge a plan's outputs.

        Args:
          candidates: batch by batch, as `references`.
        """
        values: dict[str, float] = {}
        score = energy = 0.0
        outputs = self._outputs()
        for reference, candidate in zip(self.references, candidates, strict=True):
            for name in reference:
                if _lost(reference[name], candidate[name]):
                    score = math.inf
        for bound in self.bounds:
            for name in [bound.output] if bound.output is not None else list(self.references[0]):
                value = self._worst(bound.metric, name, candidates)
                values[f"{name}:{bound.metric}"] = value
                score = max(score, _ratio(bound, value))
        for reference, candidate in zip(self.references, candidates, strict=True):
            energy += sum(_energy(reference[name], candidate[name]) for name in outputs)
        return Judgement(score, energy, values)

    def _outputs(self) -> list[str]:
        """The outputs that a bound is about."""
        everything = any(bound.output is None for bound in self.bounds)
        named = {bound.output for bound in self.bounds}
        return [name for name in self.references[0] if everything or name in named]

    def _worst(self, metric: str, name: str, candidates: Sequence[Outputs]) -> float:
        function = self.own.get(metric) or METRICS[metric]
        found = [float(function(r[name], c[name])) for r, c in zip(self.references, candidates, strict=True)]
        if any(math.isnan(value) for value in found):
            return math.nan
        return min(found) if metric in HIGHER_IS_BETTER and metric not in self.own else max(found)


def _ratio(bound: Tolerance, value: float) -> float:
    """How much of a bound a value takes: at most 1 where it holds, and only there."""
    if not bound.holds(value):
        if math.isnan(value):
            return math.inf
        if bound.metric in HIGHER_IS_BETTER:
            room = 1.0 - bound.bound
            return max((1.0 - value) / room, math.nextafter(1.0, 2.0)) if room > 0 else math.inf
        return max(value / bound.bound, math.nextafter(1.0, 2.0)) if bound.bound > 0 else math.inf
    if bound.metric in HIGHER_IS_BETTER:
        room = 1.0 - bound.bound
        return min(1.0, max(0.0, (1.0 - value) / room)) if room > 0 else 0.0
    return min(1.0, max(0.0, value / bound.bound)) if bound.bound > 0 else 0.0


def _lost(reference: np.ndarray[Any, Any], candidate: np.ndarray[Any, Any]) -> bool:
    """Whether an element became infinite or NaN that is finite in the reference."""
    if reference.dtype.kind not in "fV" or reference.shape != candidate.shape:
        return bool(reference.shape != candidate.shape)
    a, b = as_float64(reference), as_float64(candidate)
    return bool((np.isfinite(a) & ~np.isfinite(b)).any())


def _energy(reference: np.ndarray[Any, Any], candidate: np.ndarray[Any, Any]) -> float:
    if reference.dtype.kind not in "fV":
        return 0.0
    if reference.shape != candidate.shape:
        return math.inf
    a, b = as_float64(reference), as_float64(candidate)
    finite = np.isfinite(a)
    if not np.isfinite(b[finite]).all():
        return math.inf
    size = float(np.square(a[finite]).sum())
    error = float(np.square(b[finite] - a[finite]).sum())
    return error / size if size else (math.inf if error else 0.0)
