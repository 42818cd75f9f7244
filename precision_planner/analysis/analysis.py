"""`analyze`: census, patterns and rules of one model, and the `Analysis` that holds what they say."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from precision_planner.analysis.evidence import measure
from precision_planner.analysis.normalizations import Normalization, normalizations_of
from precision_planner.analysis.on_target import KnownDefect, Refused, find_defects, find_refused
from precision_planner.analysis.ranking import cost_of, rank_findings, tensor_of
from precision_planner.analysis.scales import folded_scales
from precision_planner.analysis.tensorrt import TensorRTWarnings, tensorrt_warnings
from precision_planner.analysis.values import MeasuredValue, measured_values, place_of_finding
from precision_planner.analysis.weights import Weights
from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.model.inputs import Inputs, load_inputs
from precision_planner.model.sources import InputSource, ModelSource
from precision_planner.numerics import get_format
from precision_planner.rules import DEFAULT_HEADROOM, Evaluation, Evidence, Finding, evaluate, load_rulebook
from precision_planner.targets import DEFAULT_TARGET, get_target

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["SCHEMA_VERSION", "Analysis", "ModelInfo", "analyze"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is, in numbers.

    Attributes:
      path: the file, "" for a model in memory.
      opset: version of the default domain.
      nodes: in the main graph, bodies and local functions together.
      initializers: in all graphs, sparse ones included.
      weight_bytes: of all initializers and Constants.
      producer: what exported it, as the model says.
      graph: the main graph's name.
    """

    path: str
    opset: int
    nodes: int
    initializers: int
    weight_bytes: int
    producer: str
    graph: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, repr=False)
class Analysis:
    """What is known of a model before anything is changed. Prints, plots and saves itself.

    Attributes:
      info: the model in numbers.
      precision: the low precision that it was analyzed for, "fp16" or "bf16".
      target: the build target that the rules were asked for.
      normalizations: the proven ones, native and decomposed.
      near_misses: what nearly is a normalization, each with the reason why it is none.
      weights: the census.
      tensorrt_warnings: what TensorRT 8.6 would warn about (10.6 said nothing, see evidence/tensorrt106).
      findings: what the rules say: by severity, then by the error that it can cause.
      evaluation: the rules' answers as they came, with the actions and what stayed undecided.
      evidence: what the rules were given: the model, its index and types, every pattern, the activation ranges.
      inputs: what the ranges were measured on, None where none were measured.
    """

    info: ModelInfo
    precision: str
    target: str
    normalizations: tuple[Normalization, ...]
    near_misses: tuple[Normalization, ...]
    weights: Weights
    tensorrt_warnings: TensorRTWarnings
    findings: tuple[Finding, ...]
    evaluation: Evaluation
    evidence: Evidence
    inputs: Inputs | None = None

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {severity}" for severity, count in self.by_severity.items())
        return (
            f"<Analysis of {self.info.path or 'a model in memory'} for {self.precision}: "
            f"{len(self.weights)} float tensors, {len(self.normalizations)} normalizations, findings: {counts}>"
        )

    @cached_property
    def by_severity(self) -> dict[str, int]:
        """Severity -> number of findings."""
        counts = dict.fromkeys(("error", "warning", "info"), 0)
        for finding in self.findings:
            counts[finding.severity] = counts.get(finding.severity, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what `planner analyze --json` writes."""
        fmt = get_format(self.precision)
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "analysis",
            "model": self.info.to_dict(),
            "precision": self.precision,
            "target": self.target,
            "inputs": None
            if self.inputs is None
            else {
                "source": self.inputs.source,
                "synthesized": self.inputs.synthesised,
                "unseen_bodies": {"/".join(path): why for path, why in sorted(self.evidence.unseen.items())},
            },
            "normalizations": [norm.to_dict() for norm in self.normalizations],
            "near_misses": [norm.to_dict() for norm in self.near_misses],
            "weights": self.weights.to_dict(),
            "tensorrt_warnings": self.tensorrt_warnings.to_dict(),
            "findings": [self._finding(finding) for finding in self.findings],
            "format": {
                "name": fmt.name,
                "max_finite": fmt.max_finite,
                "smallest_normal": fmt.smallest_normal,
                "smallest_subnormal": fmt.smallest_subnormal,
            },
            "values": [value.to_dict() for value in self.values],
            "refused": [entry.to_dict() for entry in self.refused],
            "known_defects": [entry.to_dict() for entry in self.known_defects],
            "rules_asked": list(self.evaluation.rules),
            "undecided": [
                {
                    "rule": entry.rule,
                    "subject": entry.subject,
                    "missing": list(entry.missing),
                    "needs_data": entry.needs_data,
                }
                for entry in self.evaluation.undecided
            ],
        }

    def _finding(self, finding: Finding) -> dict[str, Any]:
        """A finding with the error that it can cause, its place, and for a weight what the census says of it."""
        cost = cost_of(finding, self.weights, self._tensors)
        tensor = tensor_of(finding, self.weights, self._tensors)
        extra = {} if tensor is None else {"role": tensor.role, "assessment": tensor.assessment.sentence}
        made = (place for node in finding.nodes for place in self._places.get(node, ()))
        at = place_of_finding((place, self.values[place]) for place in made)
        return {**finding.to_dict(), "cost": cost if math.isfinite(cost) else None, "at": at, **extra}

    @cached_property
    def values(self) -> tuple[MeasuredValue, ...]:
        """The float values in topological order, each with its range where it was measured."""
        return measured_values(self.evidence)

    @cached_property
    def _places(self) -> dict[NodeId, list[int]]:
        """Node -> the positions in `values` of what it makes."""
        places: dict[NodeId, list[int]] = {}
        for position, value in enumerate(self.values):
            if value.maker is not None:
                places.setdefault(value.maker, []).append(position)
        return places

    @cached_property
    def refused(self) -> tuple[Refused, ...]:
        """The nodes that the target does not take in that precision, by its file."""
        return find_refused(self.evidence.model, get_target(self.target), self.precision)

    @cached_property
    def known_defects(self) -> tuple[KnownDefect, ...]:
        """Where the target's builder is known to go wrong."""
        return find_defects(self.evidence.model, get_target(self.target), self.precision)

    @cached_property
    def _tensors(self) -> dict[Any, Any]:
        return {tensor.key: tensor for tensor in self.weights}

    def to_dataframe(self, table: str = "weights") -> pd.DataFrame:
        """One table as a DataFrame: "weights", "warnings", "findings" or "normalizations".

        Raises:
          ValueError: no such table.
          MissingExtraError: pandas is not installed.
        """
        from precision_planner.analysis.frames import analysis_frame

        return analysis_frame(self, table)

    def plot(self, tensor: str | None = None) -> Figure:
        """The exponent histogram of a tensor, or of the whole model, against the ranges of FP16 and BF16.

        Args:
          tensor: its name; None takes all weights together.

        Raises:
          KeyError: no float tensor of that name.
          MissingExtraError: matplotlib is not installed.
        """
        return self.weights.plot(tensor)

    def _repr_html_(self) -> str:
        from precision_planner.analysis.html import analysis_html
        from precision_planner.reporting.notebook import notebook_html

        return notebook_html(self.to_dict(), analysis_html(self))


def analyze(
    model: ModelSource,
    *,
    inputs: InputSource = None,
    precision: str = "fp16",
    rules: Iterable[str | os.PathLike[str]] = (),
    only: Collection[str] = (),
    disable: Collection[str] = (),
    target: str = DEFAULT_TARGET,
    headroom: float = DEFAULT_HEADROOM,
    policy: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> Analysis:
    """Say what a 16-bit format does to a model, without changing it.

    Args:
      model: a path, a ModelProto or a Model.
      inputs: what activation ranges are measured on, in FP32 by onnxruntime: a path, a dict of arrays, batches, or
        `precision_planner.model.inputs.Inputs` (synthesised ones, for example); None measures none, and rules that
        need ranges stay undecided.
      precision: "fp16" or "bf16".
      rules: folders with further rules.
      only: ids or tags of the rules to ask; all by default.
      disable: ids or tags of rules not to ask.
      target: the build target that rules may depend on.
      headroom: an activation is near the limit when largest finite / amax is below this.
      policy: "auto", "rules" or "torch-amp".
      progress: told the bytes of weights read since the last call.

    Returns:
      The analysis.

    Raises:
      PlannerError: the model, its external data, the rules or the inputs are not usable; the message says what to do.
    """
    precision = get_format(precision).name
    rulebook = load_rulebook(rules)
    loaded = Model.load(model)
    batches = None if inputs is None else load_inputs(inputs, loaded)
    evidence, weights = measure(
        loaded, inputs=batches, precision=precision, target=target, headroom=headroom, progress=progress
    )
    evaluation = evaluate(rulebook, evidence, only=only, disable=disable, policy=policy)
    index, matches = evidence.index, evidence.matches
    found = normalizations_of(matches, index)
    return Analysis(
        info=_model_info(loaded, index),
        precision=precision,
        target=target,
        normalizations=tuple(norm for norm in found if norm.proven),
        near_misses=tuple(norm for norm in found if not norm.proven),
        weights=weights,
        tensorrt_warnings=tensorrt_warnings(weights, index, matches, folded_scales(loaded, index)),
        findings=rank_findings(evaluation.findings, weights),
        evaluation=evaluation,
        evidence=evidence,
        inputs=batches,
    )


def _model_info(model: Model, index: GraphIndex) -> ModelInfo:
    return ModelInfo(
        path="" if model.path is None else str(model.path),
        opset=model.opset,
        nodes=sum(len(scope.nodes) for scope in index.scopes),
        initializers=sum(len(scope.initializers) + len(scope.sparse_initializers) for scope in index.scopes),
        weight_bytes=model.weight_bytes,
        graph=model.proto.graph.name,
        producer=" ".join(part for part in (model.proto.producer_name, model.proto.producer_version) if part),
    )
