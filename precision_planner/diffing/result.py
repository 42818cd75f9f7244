"""The `Diff`: how far a candidate is from its reference, as a value that prints, saves and renders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from precision_planner.judging.judge import Judged, Judgement
from precision_planner.judging.metrics import Measured, json_number
from precision_planner.judging.quick import QuickMetrics

SCHEMA_VERSION = 1


@dataclass(frozen=True, repr=False)
class OutputDiff:
    """One output. Its metrics are read as attributes, too: ``found.outputs["logits"].sad``.

    Attributes:
      judged: what the judge found: name, shape, type, the worst of every metric over the batches, one's own among them.
      mean: metric -> mean over the batches.
      percentiles: percentile ("p50", ...) -> absolute error, of the worst batch.
      histogram: counts of absolute errors by decade: {"edges": [exponents of ten], "counts": [..], "zero": n}.
      flipped_rows: rows that changed class: {"batch", "row", "reference", "candidate"}, the first 100.
      own: one's own metrics, name -> worst value.
      before: for detectors, the metrics of what the selection reads.
    """

    judged: Judged
    mean: Mapping[str, float]
    percentiles: Mapping[str, float]
    histogram: Mapping[str, Any]
    flipped_rows: tuple[Mapping[str, Any], ...] = ()
    own: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"<OutputDiff {self.name} {shape} {self.dtype}: max_abs {self.max_abs:.3g}, rel_l2 {self.rel_l2:.3g}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "judged":
            raise AttributeError(name)
        return getattr(self.judged.values, name)

    @property
    def name(self) -> str:
        """The output's."""
        return self.judged.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the last batch."""
        return self.judged.shape

    @property
    def dtype(self) -> str:
        """Element type of the reference's array."""
        return self.judged.dtype

    @property
    def metrics(self) -> Measured:
        """The worst over the batches."""
        return self.judged.values

    @property
    def detections(self) -> Mapping[str, Any] | None:
        """For detectors, how the sets of boxes match; the other metrics are then of the matched boxes."""
        found = self.judged.detections
        if found is None:
            return None
        return found.to_dict() if self.before is None else {**found.to_dict(), "before": self.before}

    def get(self, metric: str) -> float:
        """A metric's value, one's own included."""
        return self.judged.values.number(metric)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **self.judged.values.to_dict(),
            **({} if self.judged.is_classes else {"flipped": None}),
            "shape": list(self.shape),
            "dtype": self.dtype,
            "classes": self.judged.is_classes,
            "problem": None if self.judged.problem is None else self.judged.problem.text,
            "mean": {name: json_number(value) for name, value in self.mean.items()},
            "percentiles": {name: json_number(value) for name, value in self.percentiles.items()},
            "histogram": dict(self.histogram),
            "flipped_rows": [dict(row) for row in self.flipped_rows],
            "detections": self.detections,
        }


@dataclass(frozen=True, slots=True)
class LayerDiff:
    """One intermediate value that both models have.

    Attributes:
      value: its name in the reference.
      candidate_value: its name in the candidate.
      node: the node of the reference that makes it.
      op_type: that node's.
      position: its place in topological order.
      inherited: the largest relative error among what the node reads; what it adds itself shows in the ratio.
      read_amax: the largest magnitude in the reference among the compared values that the node reads.
      stored: the type it is stored in by the candidate ("fp16", "bf16" or "fp32").
      metrics: the worst over the batches.
      candidate_node: the node of the candidate that makes it: another one where nodes were fused or renamed.
      island: whether that node computes in FP32 in a candidate that otherwise computes in 16 bits.
      rule: the plan's rule for that node, "" where it names none.
      reason: why the plan gave it its precision, "" where it says nothing.
    """

    value: str
    candidate_value: str
    node: str
    op_type: str
    position: int
    inherited: float
    read_amax: float
    stored: str
    metrics: QuickMetrics
    candidate_node: str = ""
    island: bool = False
    rule: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "value": self.value,
            "candidate_value": self.candidate_value,
            "node": self.node,
            "op_type": self.op_type,
            "position": self.position,
            "inherited": json_number(self.inherited),
            "stored": self.stored,
            "candidate_node": self.candidate_node,
            "island": self.island,
            "rule": self.rule,
            "reason": self.reason,
            **self.metrics.to_dict(),
        }


@dataclass(frozen=True)
class Diff:
    """How far a candidate is from its reference.

    Attributes:
      outputs: output name -> `OutputDiff`.
      verdict: one sentence.
      grade: "identical", "fine", "degraded", "garbage", "nonfinite" or "not judged".
      passed: every tolerance is kept, every output could be compared, something was, and nothing is NaN or infinite
        that is finite in the reference.
      failures: the tolerances that are not: {"output", "metric", "value", "bound"}.
      first_divergence: the first value, in topological order, that is wrong beyond what its type explains:
        {"value", "node", "op_type", "reason", ...}; None where nothing is, or nothing was compared.
      layers: every intermediate value that both have, in topological order; () where they were not asked for.
      graph: what was added, removed, retyped and fused (see `graph_diff`), None for outputs without a model.
      reference, candidate: what was compared and how it was run.
      inputs: {"source", "synthesised", "batches"}.
      tolerances: as texts.
      reference_check: what onnxruntime's own optimizations change in the reference.
      environment: versions, and the command.
      explanation: what `explain` collected, as its JSON; None before.
      judgement: what the judge found; not saved.
      explainer: what `explain` asks; not saved.
      sources: what was compared and on which inputs, as given, for `explain` and the drawings; not saved.
    """

    outputs: Mapping[str, OutputDiff]
    verdict: str
    grade: str
    passed: bool
    failures: tuple[Mapping[str, Any], ...] = ()
    first_divergence: Mapping[str, Any] | None = None
    layers: tuple[LayerDiff, ...] = ()
    graph: Mapping[str, Any] | None = None
    reference: Mapping[str, Any] = field(default_factory=dict)
    candidate: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    tolerances: tuple[str, ...] = ()
    reference_check: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    explanation: Mapping[str, Any] | None = None
    judgement: Judgement | None = field(default=None, repr=False, compare=False)
    explainer: Callable[..., Mapping[str, Any]] | None = field(default=None, repr=False, compare=False)
    sources: tuple[Any, Any, Any] | None = field(default=None, repr=False, compare=False)

    def explain(self) -> Diff:
        """The diff with what a report tells beyond it: what plain 16 bits do, the plan, the weights, drawings.

        That takes a plan, a census of the weights and a simulation, which stand above a diff: `pp.diff` gives its
        diffs the means to. Without them, or without sources, nothing is known, and the diff comes back as it is.
        """
        if self.sources is None or self.explainer is None:
            return self
        reference, candidate, inputs = self.sources
        return replace(self, explanation=self.explainer(reference, candidate, self, inputs))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinities and NaN are the strings "inf", "-inf" and "nan"."""
        told = {} if self.explanation is None else {"explanation": dict(self.explanation)}
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "diff",
            "verdict": self.verdict,
            "grade": self.grade,
            "passed": self.passed,
            "outputs": {name: output.to_dict() for name, output in self.outputs.items()},
            "first_divergence": None if self.first_divergence is None else dict(self.first_divergence),
            "layers": [layer.to_dict() for layer in self.layers],
            "failures": [dict(failure) for failure in self.failures],
            "tolerances": list(self.tolerances),
            "graph": None if self.graph is None else dict(self.graph),
            "reference": dict(self.reference),
            "candidate": dict(self.candidate),
            "inputs": dict(self.inputs),
            "reference_check": None if self.reference_check is None else dict(self.reference_check),
            "environment": dict(self.environment),
            **told,
        }

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(name)}</td>"
            + "".join(f"<td>{getattr(output, key):.4g}</td>" for key in ("sad", "max_abs", "rel_l2", "cosine", "top1"))
            + "</tr>"
            for name, output in self.outputs.items()
        )
        head = "".join(f"<th>{key}</th>" for key in ("output", "sad", "max_abs", "rel_l2", "cosine", "top1"))
        summary = f"<p><b>{escape(self.grade)}</b>: {escape(self.verdict)}</p><table><tr>{head}</tr>{rows}</table>"
        data = self.to_dict()
        if self.explanation is None and self.sources is not None:
            from precision_planner.diffing.drawings import side_drawings

            data["explanation"] = {"drawings": side_drawings(*self.sources[:2])}
        from precision_planner.reporting.notebook import notebook_html

        return notebook_html(data, summary)

    def __repr__(self) -> str:
        return f"<Diff {self.grade.upper()}: {self.verdict}>"

    def __str__(self) -> str:
        return self.verdict
