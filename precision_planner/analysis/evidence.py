"""Everything that can be known of a model before a decision: patterns, weights, types, activation ranges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from precision_planner.analysis.weights import Weights, weights_census
from precision_planner.errors import PlanError
from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.model.inputs import Inputs
from precision_planner.patterns import find_patterns
from precision_planner.rules import Evidence
from precision_planner.rules.facts.evidence import DEFAULT_HEADROOM
from precision_planner.targets import DEFAULT_TARGET

if TYPE_CHECKING:
    from precision_planner.calibration import Calibration

__all__ = ["collect_evidence", "measure"]


def collect_evidence(
    model: Model,
    *,
    inputs: Inputs | None = None,
    precision: str = "fp16",
    target: str = DEFAULT_TARGET,
    headroom: float = DEFAULT_HEADROOM,
) -> Evidence:
    """Measure a model; see `measure`."""
    return measure(model, inputs=inputs, precision=precision, target=target, headroom=headroom)[0]


def measure(
    model: Model,
    *,
    inputs: Inputs | None = None,
    precision: str = "fp16",
    target: str = DEFAULT_TARGET,
    headroom: float = DEFAULT_HEADROOM,
    progress: Callable[[float], None] | None = None,
) -> tuple[Evidence, Weights]:
    """Measure a model: what the rules are given, and the census that it was taken from.

    Args:
      model: in FP32.
      inputs: what activations are measured on, by onnxruntime; None: they are not measured, and facts about them
        stay unknown.
      precision: "fp16" or "bf16".
      target: the build target's name.
      headroom: see `Evidence`.
      progress: told the bytes of weights read since the last call.

    Raises:
      PlanError: the headroom is no number above 0.
    """
    if not 0 < headroom < math.inf:
        raise PlanError(f"the headroom is {headroom:g}; give a factor above 0, such as {DEFAULT_HEADROOM:g}")
    index = GraphIndex(model.proto)
    types = infer_types(model, index)
    matches = find_patterns(model, index=index, types=types)
    weights = weights_census(model, index, matches, precision=precision, progress=progress)
    measured = _measured(model, inputs)
    evidence = Evidence(
        model,
        index,
        types,
        matches,
        weights.by_key(),
        None if measured is None else measured.ranges,
        unseen={} if measured is None else measured.unseen,
        synthesized=inputs is not None and inputs.synthesised,
        precision=precision,
        target=target,
        headroom=headroom,
    )
    return evidence, weights


def _measured(model: Model, inputs: Inputs | None) -> Calibration | None:
    if inputs is None:
        return None
    from precision_planner import calibration

    return calibration.measure(model, inputs)
