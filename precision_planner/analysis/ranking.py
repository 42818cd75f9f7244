"""What matters first: findings in the order of the error that they can cause, not of how many values they count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from precision_planner.analysis.weights import WeightCensus, Weights
from precision_planner.rules import Finding

__all__ = ["cost_of", "rank_findings", "tensor_of"]

_SEVERITIES = ("error", "warning", "info")


def rank_findings(findings: Iterable[Finding], weights: Weights) -> tuple[Finding, ...]:
    """Findings by severity, then by the error that they can cause, then in the order given."""
    tensors = {(tensor.scope, tensor.name): tensor for tensor in weights}
    return tuple(
        sorted(
            findings,
            key=lambda finding: (_severity(finding.severity), -cost_of(finding, weights, tensors)),
        )
    )


def cost_of(
    finding: Finding, weights: Weights, tensors: Mapping[tuple[tuple[str, ...], str], WeightCensus] | None = None
) -> float:
    """The error that a finding can cause.

    For a weight the relative error of its cast (inf where a value becomes infinite or an epsilon zero). For anything
    else the largest magnitude in its evidence over the largest finite value of the format, inf from 1 on; 0 where the
    evidence has no magnitude.

    Args:
      finding: from the rules.
      weights: the census.
      tensors: the census by (scope path, name), where the caller has it.
    """
    tensor = tensor_of(finding, weights, tensors)
    if tensor is not None:
        return tensor.assessment.cost
    magnitudes = [
        abs(value)
        for name, value in finding.evidence.items()
        if name.rpartition(".")[2] in ("amax", "max_abs") and isinstance(value, int | float) and not math.isnan(value)
    ]
    ratio = max(magnitudes, default=0.0) / weights.format.max_finite
    return math.inf if ratio >= 1 else ratio


def tensor_of(
    finding: Finding, weights: Weights, tensors: Mapping[tuple[tuple[str, ...], str], WeightCensus] | None = None
) -> WeightCensus | None:
    """The tensor that a finding is about, None if it is about something else."""
    if finding.kind != "tensor":
        return None
    known = {tensor.key: tensor for tensor in weights} if tensors is None else tensors
    return known.get((finding.proposal.scope, finding.proposal.value or finding.subject))


def _severity(name: str) -> int:
    return _SEVERITIES.index(name) if name in _SEVERITIES else len(_SEVERITIES)
