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
      energies: output -> its squared relative L2 error, summed over the batches (absolute where the reference is zero).
        Contributions of independent roundings add up in it, which they do in no tolerance's metric.
      values: "OUTPUT:METRIC" -> its worst value over the batches.
      scores: output -> the worst part of its own bounds.
      finite: no output is infinite or NaN that is finite in the reference.
    """

    score: float
    energies: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    finite: bool = True

    @property
    def energy(self) -> float:
        """The energies of all judged outputs."""
        return math.fsum(self.energies.values())

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
        outputs = self._outputs()
        scores = dict.fromkeys(outputs, 0.0)
        pairs = list(zip(self.references, candidates, strict=True))
        finite = not any(
            _lost(reference[name], candidate[name]) for reference, candidate in pairs for name in reference
        )
        for bound in self.bounds:
            for name in [bound.output] if bound.output is not None else list(self.references[0]):
                value = self._worst(bound.metric, name, candidates)
                values[f"{name}:{bound.metric}"] = value
                scores[name] = max(scores[name], _ratio(bound, value, bound.metric in self._falling))
        energies = {
            name: math.fsum(_energy(reference[name], candidate[name]) for reference, candidate in pairs)
            for name in outputs
        }
        score = max(scores.values(), default=0.0) if finite else math.inf
        return Judgement(score, energies, values, scores, finite)

    @property
    def _falling(self) -> frozenset[str]:
        """The metrics of which more is better; one's own never are."""
        return HIGHER_IS_BETTER - self.own.keys()

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
        return min(found) if metric in self._falling else max(found)


def _ratio(bound: Tolerance, value: float, falling: bool) -> float:
    """How much of a bound a value takes: at most 1 where it holds, and only there.

    Of a cosine the root is taken, as it falls with the square of the error and every other metric grows with it.
    """
    if math.isnan(value):
        return math.inf
    holds = value >= bound.bound if falling else value <= bound.bound
    used, room = (1.0 - value, 1.0 - bound.bound) if falling else (value, bound.bound)
    if room <= 0:
        return 0.0 if holds else math.inf
    part = max(0.0, used / room)
    if bound.metric == "cosine" and falling:
        part = math.sqrt(part)
    return min(1.0, part) if holds else max(part, math.nextafter(1.0, 2.0))


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
    return error / size if size else error
