"""From a choice to everything that a plan folder holds: the rewrite, its prediction, the record."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from precision_planner.analysis.on_target import KnownDefect, find_defects, find_refused
from precision_planner.diffing import Diff, compare
from precision_planner.diffing.result import OutputDiff
from precision_planner.emitting.folder import GoldenCase, emit_folder
from precision_planner.judging.evidence import find_evidence
from precision_planner.judging.metrics import BOUNDS, METRICS
from precision_planner.judging.verdict import Verdict, not_judged
from precision_planner.model import GraphIndex, Model, NodeId, type_name
from precision_planner.planning.ground import Ground
from precision_planner.planning.judged import own_files, verdict_of_diff
from precision_planner.planning.profiles import make_profiles
from precision_planner.planning.request import Request
from precision_planner.planning.spread import Built, spread
from precision_planner.planning.variants import Draft
from precision_planner.planning.weak import constrained_nodes, constraints_of, weak_model
from precision_planner.plans import PlannedNode, PrecisionPlan
from precision_planner.rewriting import RewriteResult, rewrite
from precision_planner.rewriting.plugins import write_plugin
from precision_planner.rewriting.rewrite import write_layernorms
from precision_planner.simulation.typed import is_typed_low
from precision_planner.targets import Target
from precision_planner.transforms.constant_rank import give_consumers_rank
from precision_planner.typing import Decision

__all__ = ["PlannedModel", "finish", "interface"]

NOT_ASKED = "verification was switched off"

BUILD_DEFAULTS: Mapping[str, Any] = {
    "tf32": False,
    "workspace_bytes": None,
    "optimization_level": None,
    "tactic_sources": None,
    "timing_cache": "timing.cache",
    "version_compatible": False,
    "hardware_compatible": False,
    "plugins": [],
}
"""Builder settings of a plan, where nothing else is asked."""


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A plan and everything that its folder holds.

    Attributes:
      plan: the decision, JSON-ready.
      model: what is built: typed for a strong target, FP32 with its fusions for a weak one.
      report: of the rewrite, as `planner rewrite --json` prints it.
      golden: inputs and the FP32 model's answers.
      diff: the predicted difference, None where the model could not be run.
      original: the model that was planned.
      verdict: what the prediction means.
      scripts: files of one's own metrics, by their names in the folder.
    """

    plan: PrecisionPlan
    model: Model
    report: Mapping[str, Any]
    golden: tuple[GoldenCase, ...] = ()
    diff: Diff | None = None
    original: Model | None = None
    verdict: Verdict | None = None
    scripts: Mapping[str, Path] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<PlannedModel for {self.plan.target}: {self.summary}>"

    def _repr_html_(self) -> str:
        from precision_planner.planning.plan_summary import planned_html

        return planned_html(self)

    @property
    def passed(self) -> bool | None:
        """Whether the prediction is within the tolerance; None where nothing was compared."""
        return self.plan.passed

    @property
    def summary(self) -> str:
        """The plan in a sentence."""
        counts = self.plan.counts
        low = counts.get(self.plan.precision, 0)
        said = f"{low} nodes in {self.plan.precision}, {len(self.plan.kept)} kept in FP32"
        if self.diff is not None:
            said += f"; predicted: {self.diff.verdict}"
        elif self.plan.inputs.get("not_run"):
            said += f"; nothing predicted: {self.plan.inputs['not_run']}"
        return said

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> list[Path]:
        """Write the plan folder; see `emit_folder`."""
        return emit_folder(Path(folder), self.plan, self.model, self.golden, scripts=self.scripts, force=force)


@dataclass(frozen=True)
class Finished:
    """A plan that was carried out.

    Attributes:
      planned: everything that its folder holds.
      mixed: TensorRT 8.6 would not compile the constraints around fused LayerNormalizations; see `constrained_nodes`.
    """

    planned: PlannedModel
    mixed: bool = False

    @property
    def worst(self) -> float:
        """The largest relative error of an output; infinite where something finite was lost."""
        diff = self.planned.diff
        if diff is None:
            return 0.0
        if any(output.nonfinite for output in diff.outputs.values()):
            return float("inf")
        found = [float(output.rel_l2) for output in diff.outputs.values()]
        return max(found, default=0.0)


def finish(
    draft: Draft,
    ground: Ground,
    request: Request,
    decisions: Mapping[NodeId, Decision],
    *,
    tf32: bool = False,
    search: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Finished:
    """Rewrite a draft's model by decisions, and predict what the build will compute.

    Args:
      draft: what the rules led to.
      ground: the model and its data.
      request: what was asked.
      decisions: about nodes of the draft's model.
      tf32: the build lets products in FP32 use TF32.
      search: what a search measured.
      progress: called with what is being done.
    """
    say = progress or (lambda text: None)
    aim, choice, options = request.aim, draft.choice, draft.variant.options
    data, runs = ground.data, request.verify and not ground.obstacle
    say("typing the graph")
    result = rewrite(
        choice.model,
        precision=aim.precision,
        fuse=draft.variant.fuse,
        decisions=decisions,
        inputs=data.first() if runs else None,
        verify=request.verify,
        safe=False,
        islands=aim.target.islands if aim.target.strong else None,
        refused=aim.target.refused,
        **options,
    )
    assert result.assignment is not None
    constrained: dict[NodeId, str] = {}
    mixed = False
    if aim.target.strong:
        built = result.typed
    else:
        built = weak_model(choice.model, draft.variant.fuse, data if runs else None, options)
        constrained, mixed = constrained_nodes(result, built, hold_low=request.hold_low)
        built = give_consumers_rank(built, tuple(constrained)).model
    say("simulating the result")
    judges = not ground.obstacle and (request.verify or bool(aim.bounds))
    simulated = _built(result, request, tf32)
    difference = _predict(ground, simulated, result, request) if judges else None
    distribution = spread(ground, simulated, aim) if judges else {}
    verdict = verdict_of_diff(difference) if difference is not None else not_judged(ground.obstacle or NOT_ASKED)
    metric_files, scripts = own_files(aim.metrics)
    low = "" if aim.target.strong else aim.precision
    settings = {**{name: value for name, value in request.build.items() if value is not None}, "tf32": tf32}
    plan = PrecisionPlan(
        model=_model_facts(ground.original),
        target=aim.target.name,
        typing=aim.target.typing,
        precision=aim.precision,
        nodes=_planned_nodes(result),
        fusions=tuple(result.report["fused"]),
        rejected=tuple(result.report["rejected"]),
        repairs=choice.repairs,
        weights=tuple(result.report["weights"]["changes"]),
        casts=int(result.report["casts"]),
        constraints=constraints_of(constrained, built),
        interface=interface(built),
        profiles=make_profiles(
            built,
            data,
            request.profiles.smallest,
            request.profiles.usual,
            request.profiles.longest,
            original=ground.original,
        ),
        build={**BUILD_DEFAULTS, **settings},
        predicted={name: _metrics(output) for name, output in (difference.outputs if difference else {}).items()},
        distribution=distribution,
        tolerance=tuple({"output": b.output, "metric": b.metric, "bound": b.bound} for b in aim.bounds),
        inputs={
            "source": data.source,
            "synthesized": data.synthesised,
            "batches": len(ground.golden),
            "not_run": ground.obstacle or None,
            "unseen_bodies": {"/".join(path): why for path, why in sorted(choice.evidence.unseen.items())},
        },
        findings=tuple(finding.to_dict() for finding in choice.findings),
        refused=tuple(entry.to_dict() for entry in find_refused(built, aim.target, low)),
        known_defects=tuple(entry.to_dict() for entry in _defects(built, ground.model, aim.target, low)),
        passed=difference.passed if difference is not None and aim.bounds else None,
        verification=_without_times(result.report["verification"]),
        verdict=verdict.to_dict(),
        metrics=metric_files,
        judging=find_evidence(ground.model).evidence.to_dict(),
        search=dict(search or {}),
        rewriting={
            "fuse": list(draft.variant.fuse),
            "surgery": ground.surgery,
            "inlined": bool(ground.original.proto.functions) and not ground.model.proto.functions,
            "io_types": options.get("io_types", "keep"),
            "int32_inputs": bool(options.get("int32_inputs", False)),
            "weights": options.get("weights", "auto"),
            "layernorm": request.layernorm,
            "plugins": [write_plugin(name, types) for name, types in (options.get("plugins") or {}).items()],
        },
    )
    planned = PlannedModel(plan, built, result.report, ground.golden, difference, ground.original, verdict, scripts)
    return Finished(planned, mixed)


def with_layernorms(planned: PlannedModel, form: str) -> PlannedModel:
    """What is built with its LayerNormalizations as `--layernorm` says.

    Last of all: nothing here can run a plugin, so it is the operator that was decided about and simulated.
    """
    model = write_layernorms(planned.model, form).model
    return planned if model is planned.model else replace(planned, model=model)


def _built(result: RewriteResult, request: Request, tf32: bool) -> Built:
    """What the build will compute, as it is simulated.

    A typed graph is simulated as ONNX defines it, but for what products add up in and how TF32 rounds: that is the
    target's. A weak build may round anywhere it likes: the simulation takes the worst it is allowed to do, chains of
    pointwise operators kept inside a kernel and weights saturated.
    """
    assert result.assignment is not None
    target = request.aim.target
    how: dict[str, Any] = {"tf32": tf32 and target.tf32, "lowering": target.lowering}
    if not target.strong:
        nodes = result.assignment.nodes.values()
        return Built(
            result.fused,
            {
                **how,
                "precision": result.report["precision"],
                "semantics": "fused",
                "keep_fp32": [node.node for node in result.assignment.kept if node.keep_as != "compute"],
                "keep_bf16": [node.node for node in nodes if node.compute == "bf16"],
                "sums32": [node.node for node in result.assignment.sums32],
                "accumulation": target.sums,
            },
        )
    if not is_typed_low(result.typed):
        return Built(result.typed, {"precision": "tf32", "tf32": target.tf32} if how["tf32"] else None)
    if target.chains == "fp32":  # its kernels hold chains of pointwise operators so
        how |= {"semantics": "fused", "weights": "ieee"}
    return Built(result.typed, {**how, "accumulation": target.sums})


def _predict(ground: Ground, built: Built, result: RewriteResult, request: Request) -> Diff:
    """The difference between the FP32 model and what the build will compute, by simulation."""
    how = dict(built.how or {"tf32": False})
    simulate = how.pop("precision", None)
    return compare(
        ground.model,
        built.model,
        ground.data,
        simulate=None if simulate == "tf32" else simulate,  # a model that is all FP32 is simulated for TF32's sake
        keep_sum32=how.pop("sums32", ()),
        tolerance=request.aim.bounds,
        metrics=request.aim.metrics,
        names=result.report["names"],
        checked=True,
        **how,
    )


def _defects(built: Model, given: Model, target: Target, low: str) -> tuple[KnownDefect, ...]:
    """Defects that strike at what is built; and at the model as it was, whose patterns Casts may hide."""
    found = find_defects(built, target, low)
    seen = {defect.key for defect in found}
    return found if target.has_builder else (*found, *(d for d in find_defects(given, target) if d.key not in seen))


def _without_times(checks: Mapping[str, Any]) -> dict[str, Any]:
    """What was checked, without how long it took: the same inputs give the same plan."""
    return {
        name: _without_times(value) if isinstance(value, Mapping) else value
        for name, value in checks.items()
        if name != "seconds"
    }


def _planned_nodes(result: RewriteResult) -> tuple[PlannedNode, ...]:
    assignment = result.assignment
    assert assignment is not None
    index = GraphIndex(result.fused.proto)
    planned = []
    for scope, position, node in index.nodes():
        identity = index.node_id(scope, position)
        typing = assignment.nodes.get(identity)
        if typing is None:
            continue
        decision = result.decisions.get(identity)
        planned.append(
            PlannedNode(
                node=index.display(identity),
                op_type=f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
                scope=identity.scope,
                output=identity.output,
                precision=typing.compute,
                keep_as=typing.keep_as or "",
                reason=typing.reason,
                rule=typing.rule,
                evidence=dict(decision.evidence) if decision else {},
            )
        )
    return tuple(planned)


def _model_facts(model: Model) -> dict[str, Any]:
    index = GraphIndex(model.proto)
    return {
        "name": model.path.name if model.path else (model.proto.graph.name or "model"),
        "graph": model.proto.graph.name,
        "opset": model.opset,
        "nodes": sum(len(scope.nodes) for scope in index.scopes),
        "weight_bytes": model.weight_bytes,
    }


def interface(model: Model) -> dict[str, dict[str, Any]]:
    """{inputs, outputs}: name -> {dtype, shape}, symbolic dimensions by name, unknown ones as None."""
    from precision_planner.model.types import from_type_proto

    def facts(info: Any) -> dict[str, Any]:
        value = from_type_proto(info.type)
        return {"dtype": type_name(value.elem_type), "shape": None if value.shape is None else list(value.shape)}

    graph = model.proto.graph
    initializers = {tensor.name for tensor in graph.initializer}
    return {
        "inputs": {info.name: facts(info) for info in graph.input if info.name not in initializers},
        "outputs": {info.name: facts(info) for info in graph.output},
    }


def _metrics(output: OutputDiff) -> dict[str, Any]:
    told = {name: output.get(name) for name in (*(n for n in BOUNDS if n in METRICS), "sad_mean")}
    return {**told, "nonfinite": output.nonfinite, "detections": output.detections}
