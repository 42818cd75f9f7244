"""Carrying out the repairs that the rules ask for, and checking those whose exactness can be checked by a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision_planner.model import Model
from precision_planner.model.inputs import Inputs
from precision_planner.model.session import Session
from precision_planner.rules import Evidence
from precision_planner.rules.facts.evidence import measured_amax
from precision_planner.transforms.repairs import RepairRequest, RepairResult, apply_repairs

__all__ = ["Repaired", "carry_out", "largest_difference"]

_CHECKED = "rescale_stream"
_TOLERANCE = 2.0**-20
"""Of the largest answer: a rescaling is exact, so this is room for subnormals and other kernels, no more."""


@dataclass(frozen=True)
class Repaired:
    """A model after repairs.

    Attributes:
      model: the repaired model; the model itself where nothing was repaired.
      entries: what was done, JSON-ready: {repair, rule, nodes, at} (`at`: what it takes to do it
        again), and where there is something to say {note, max_abs}.
    """

    model: Model
    entries: tuple[Mapping[str, Any], ...]


def carry_out(evidence: Evidence, requests: Sequence[RepairRequest], inputs: Inputs | None) -> Repaired:
    """Apply repairs; a rescaling is run against the model before it, and taken back if the answer differs.

    Args:
      evidence: the model and what was measured on it.
      requests: in order of precedence.
      inputs: the first batch is run; None: nothing was measured, so nothing is rescaled.
    """
    if not requests:
        return Repaired(evidence.model, ())
    amax = measured_amax(evidence)
    others = apply_repairs(evidence.model, [one for one in requests if one.repair != _CHECKED], amax)
    entries = _entries(evidence, others)
    rescaled = apply_repairs(others.model, [one for one in requests if one.repair == _CHECKED], amax)
    if not rescaled.applied or inputs is None:
        return Repaired(others.model, entries)
    difference, largest = largest_difference(others.model, rescaled.model, inputs.first())
    if not difference <= _TOLERANCE * largest:
        return Repaired(others.model, entries)
    return Repaired(
        rescaled.model, (*entries, *({**entry, "max_abs": difference} for entry in _entries(evidence, rescaled)))
    )


def _entries(evidence: Evidence, result: RepairResult) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "repair": request.repair,
            "rule": request.label,
            "nodes": [evidence.index.display(node) for node in request.nodes],
            **({"note": note} if note else {}),
            "at": {
                "scope": list(request.scope),
                "nodes": [[list(node.scope), node.output] for node in request.nodes],
                "value": request.value,
                "parameters": dict(request.parameters),
                "pattern": request.match and {"kind": request.match.kind, "output": request.match.output},
                "amax": _measured(evidence, request),
            },
        }
        for request, note in zip(result.applied, result.notes, strict=True)
    )


def _measured(evidence: Evidence, request: RepairRequest) -> dict[str, float]:
    """The magnitudes that a repair went by, so that it can be done again without data; empty for most."""
    if request.repair != _CHECKED:
        return {}
    return {value: amax for (path, value), amax in measured_amax(evidence).items() if path == request.scope}


def largest_difference(before: Model, after: Model, batch: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """(largest absolute difference between the answers of two models in FP32, largest answer).

    Args:
      before: run by onnxruntime with its optimizations off.
      after: the same.
      batch: input name -> array.

    Returns:
      An infinite difference where one is finite and the other is not.
    """
    with Session(before) as session:
        wanted = session.run(batch)
    with Session(after) as session:
        found = session.run(batch)
    difference, largest = 0.0, 0.0
    for name, value in wanted.items():
        if value.dtype.kind != "f" or not value.size:
            continue
        old, new = value.astype(np.float64), found[name].astype(np.float64)
        sane = np.isfinite(old)
        if not np.isfinite(new[sane]).all():
            return float("inf"), largest
        difference = max(difference, float(np.abs(new - old)[sane].max(initial=0.0)))
        largest = max(largest, float(np.abs(old[sane]).max(initial=0.0)))
    return difference, largest
