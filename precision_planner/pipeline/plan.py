"""`plan`: decide, search, rewrite, predict."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precision_planner.diffing import Diff, compare
from precision_planner.diffing.result import OutputDiff
from precision_planner.emitting.folder import GoldenCase, emit_folder
from precision_planner.errors import ModelError, PlanError, TargetError
from precision_planner.model import GraphIndex, Model, NodeId, type_name
from precision_planner.model.inline import inline_functions
from precision_planner.model.inputs import Inputs, load_inputs
from precision_planner.model.session import Session
from precision_planner.numerics.tolerance import check_metrics, check_outputs, parse_tolerances
from precision_planner.pipeline.searching import SearchRequest, search_choice
from precision_planner.pipeline.weak import (
    constrained_nodes,
    constraints_of,
    is_cheaper,
    layernorms,
    left_to_gain,
    weak_model,
    with_norms,
)
from precision_planner.planning import PlannedNode, PrecisionPlan
from precision_planner.planning.decide import decide
from precision_planner.planning.profiles import Shapes, make_profiles
from precision_planner.planning.search import Clock, OwnMetric, parse_budget
from precision_planner.rewriting import RewriteResult, rewrite
from precision_planner.rewriting.surgery import run_surgery
from precision_planner.simulation.typed import is_typed_low
from precision_planner.targets import DEFAULT_TARGET, Target, get_target, newest
from precision_planner.transforms.constant_rank import give_consumers_rank

RESCALE = "rescale_stream"
MAX_GOLDEN = 3
"""Cases kept for verify.py: the smallest, usual and longest shape."""

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
    """

    plan: PrecisionPlan
    model: Model
    report: Mapping[str, Any]
    golden: tuple[GoldenCase, ...] = ()
    diff: Diff | None = None
    original: Model | None = None

    def _repr_html_(self) -> str:
        from precision_planner.pipeline.explain import planned_html

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
        return emit_folder(Path(folder), self.plan, self.model, self.golden, force=force)


def plan(
    source: Model | Any,
    *,
    target: str = DEFAULT_TARGET,
    precision: str = "fp16",
    inputs: Any = None,
    tolerance: Any = None,
    headroom: float = 4.0,
    policy: str = "auto",
    rules: Sequence[str | os.PathLike[str]] = (),
    only: Sequence[str] = (),
    disable: Sequence[str] = (),
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
    build: Mapping[str, Any] | None = None,
    calibrate: bool = True,
    surgery: str | None = None,
    fuse: Sequence[str] = ("layernorm",),
    verify: bool = True,
    budget: str | int | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    metrics: Mapping[str, OwnMetric] | None = None,
    stop: Callable[[], bool] | None = None,
    clock: Clock | None = None,
    without: Sequence[str] = (),
    hold_low: bool = False,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> PlannedModel:
    """Decide the precision of a model for one build target, and predict the result.

    Calibrates on the inputs, asks the rules, applies their repairs, searches for what else the tolerance needs (and
    what it does not need), types the graph, and simulates what comes out against the FP32 model.

    Args:
      source: a path, a ModelProto or a `Model`.
      target: see `precision_planner.targets.TARGETS`.
      precision: "fp16" or "bf16".
      inputs: as `planner --inputs`, arrays by name, or None: synthesized.
      tolerance: {"sad": 1e-3}, or the command's ``[OUTPUT:]METRIC=VALUE`` strings.
      headroom: keep what comes closer to the largest finite value than this factor.
      policy: "auto"; "rules" and "torch-amp" do not search.
      rules: folders of further rules.
      only: ids or tags of the only rules asked.
      disable: ids or tags of rules not asked.
      min_shapes: input -> smallest shape of the optimization profile.
      opt_shapes: input -> usual shape.
      max_shapes: input -> longest shape.
      build: builder settings that replace the defaults: tf32, workspace_bytes, optimization_level, ...
      calibrate: measure activation ranges (needs onnxruntime); without, only what holds without data is decided.
      surgery: "FILE.py[:FUNCTION]", run first.
      fuse: pattern kinds that become one node.
      verify: run the fused and the typed model in onnxruntime.
      budget: of the search, where there is a tolerance to meet: evaluations (400 by default) or seconds ("90s").
      jobs: evaluations at once, in processes of their own.
      scheduler: address of a dask scheduler whose workers evaluate.
      metrics: one's own metrics for tolerances, name -> function of (reference, candidate) arrays; larger is worse.
      stop: asked before each evaluation; True ends the search with the best plan so far, as KeyboardInterrupt does.
      clock: of a budget that is used already, instead of `budget` and `stop`.
      without: repairs that are not applied (`planner rules` names them). A plan that misses its tolerance after
        `rescale_stream` is made again without it: FP16 keeps 11 bits of a large value at any scale, FP32 all.
      hold_low: constrain the layers in the low precision, too, for a weakly typed target: the engine is then what the
        plan says also where the builder finds another type faster.
      progress: called with what is being done.
      options: those of `rewrite`: keep_fp32, keep_bf16, only_low, keep_as, io_types, int32_inputs, weights, plugins.

    Raises:
      TargetError: no such target, or one that cannot express the precision.
      PlanError: shapes that do not fit.
    """
    say = progress or (lambda text: None)
    chosen = get_target(target)
    without = tuple(dict.fromkeys((*without, *chosen.avoid)))

    def again(**changes: Any) -> PlannedModel:
        given = dict(
            target=target, precision=precision, inputs=inputs, tolerance=tolerance, headroom=headroom, policy=policy,
            rules=rules, only=only, disable=disable, min_shapes=min_shapes, opt_shapes=opt_shapes,
            max_shapes=max_shapes, build=build, calibrate=calibrate, surgery=surgery, fuse=fuse, verify=verify,
            clock=used, jobs=jobs, scheduler=scheduler, metrics=metrics, without=without, hold_low=hold_low,
            progress=progress, **options,
        )  # fmt: skip
        return plan(source, **{**given, **changes})

    _check_target(chosen, precision, options)
    if hold_low and chosen.strong:
        raise TargetError(f"{chosen.name} is strongly typed: every layer is held to its type; leave --hold-low out")
    original = Model.load(source)
    model = run_surgery(original, surgery) if surgery else original
    bounds = parse_tolerances(tolerance)
    used = clock or Clock(parse_budget(budget), stop)
    request = SearchRequest(used, jobs, scheduler, dict(metrics or {}))
    check_metrics(bounds, request.metrics)
    check_outputs(bounds, [value.name for value in model.proto.graph.output], request.metrics)
    searching = bool(bounds) and policy == "auto" and calibrate
    settings = {name: value for name, value in (build or {}).items() if value is not None}
    # where a tolerance decides, TF32 is one more way to meet it, and simulated like the others
    tf32 = settings.setdefault("tf32", searching and chosen.has_builder)
    if searching and model.proto.functions:
        model = inline_functions(model)  # what is inside a function can only be decided for each of its calls
    data = load_inputs(inputs, model)
    golden, obstacle = _golden_or_obstacle(model, data)
    if obstacle and bounds:
        raise PlanError(
            f"the tolerance cannot be judged: {obstacle}; leave the tolerance out to plan by structure alone"
        )
    calibrate = calibrate and not obstacle
    say("measuring activations" if calibrate else "reading weights")
    choice = decide(
        model,
        data if calibrate else None,
        precision=precision,
        target=target,
        headroom=headroom,
        policy=policy,
        rules=rules,
        only=only,
        disable=disable,
        fuse=fuse,
        without=without,
    )
    found = None
    if searching and not obstacle:
        choice, found = search_choice(
            choice, data, chosen, bounds, request, precision=precision, fuse=fuse, options=options, progress=say,
            tf32=tf32,
        )  # fmt: skip
    say("typing the graph")
    result = rewrite(
        choice.model,
        precision=precision,
        fuse=fuse,
        decisions=choice.decisions,
        inputs=data.first() if verify and not obstacle else None,
        verify=verify,
        **options,
    )
    assert result.assignment is not None
    constrained: dict[NodeId, str] = {}
    if chosen.strong:
        built = result.typed
    else:
        built = weak_model(choice.model, fuse, data if verify and not obstacle else None, options)
        constrained, mixed = constrained_nodes(result, built, hold_low=hold_low)
        searched = None if found is None else found.data
        gain = searched is not None and not used.ended and left_to_gain(searched)
        if not chosen.norm_beside_fp32 and fuse and layernorms(built) > layernorms(model) and (mixed or gain):
            decomposed = again(fuse=(), keep_as="island", keep_fp32=with_norms(options))
            if mixed or (decomposed.passed and is_cheaper(decomposed.plan.search, searched)):
                return decomposed
        built = give_consumers_rank(built, tuple(constrained)).model
    say("simulating the result")
    difference = None if obstacle else _predict(model, result, chosen, data, bounds, request.metrics, tf32)
    missed = found is not None and not found.data["passed"]
    if missed and tf32 and (build or {}).get("tf32") is None and not used.ended:
        exact = again(build={**(build or {}), "tf32": False})
        if exact.passed:
            return exact
    failed = bool(bounds) and difference is not None and not difference.passed
    if failed and _rescaled(choice.repairs) and not used.ended:
        other = again(without=(*without, RESCALE))
        if other.passed:
            return other
    return PlannedModel(
        plan=PrecisionPlan(
            model=_model_facts(original),
            target=target,
            typing=chosen.typing,
            precision=precision,
            nodes=_planned_nodes(result),
            fusions=tuple(result.report["fused"]),
            rejected=tuple(result.report["rejected"]),
            repairs=choice.repairs,
            weights=tuple(result.report["weights"]["changes"]),
            casts=int(result.report["casts"]),
            constraints=constraints_of(constrained, built),
            interface=interface(built),
            profiles=make_profiles(built, data, min_shapes, opt_shapes, max_shapes),
            build={**BUILD_DEFAULTS, **settings},
            predicted={name: _metrics(output) for name, output in (difference.outputs if difference else {}).items()},
            tolerance=tuple({"output": b.output, "metric": b.metric, "bound": b.bound} for b in bounds),
            inputs={
                "source": data.source,
                "synthesized": data.synthesised,
                "batches": len(golden),
                "not_run": obstacle or None,
            },
            findings=tuple(finding.to_dict() for finding in choice.findings),
            passed=difference.passed if difference is not None and bounds else None,
            search={} if found is None else found.data,
        ),
        model=built,
        report=result.report,
        golden=golden,
        diff=difference,
        original=original,
    )


def _rescaled(repairs: Sequence[Mapping[str, Any]]) -> bool:
    return any(entry["repair"] == RESCALE for entry in repairs)


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


def _predict(
    model: Model,
    result: RewriteResult,
    target: Target,
    data: Inputs,
    bounds: Any,
    metrics: Mapping[str, OwnMetric],
    tf32: bool,
) -> Diff:
    """The difference between the FP32 model and what the build will compute, by simulation.

    A typed graph is simulated as ONNX defines it, but for what products add up in and how TF32 rounds: that is the
    target's. A weak build may round anywhere it likes: the simulation takes the worst it is allowed to do, chains of
    pointwise operators kept inside a kernel and weights saturated.
    """
    assert result.assignment is not None
    if target.strong:
        return compare(
            model,
            result.typed,
            data,
            tolerance=bounds,
            metrics=metrics,
            names=result.report["names"],
            tf32=tf32 and target.tf32,
            accumulation=target.sums if is_typed_low(result.typed) else None,
            layers=False,
        )
    return compare(
        model,
        result.fused,
        data,
        simulate=result.report["precision"],
        semantics="fused",
        keep_fp32=[node.node for node in result.assignment.kept if node.keep_as != "compute"],
        keep_bf16=[node.node for node in result.assignment.nodes.values() if node.compute == "bf16"],
        keep_sum32=[node.node for node in result.assignment.sums32],
        accumulation=target.sums,
        tolerance=bounds,
        metrics=metrics,
        names=result.report["names"],
        tf32=tf32 and target.tf32,
        layers=False,
    )


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
    return {name: output.get(name) for name in ("sad", "max_abs", "mean_abs", "rel_l2", "cosine", "top1")} | {
        "sad_mean": output.sad_mean,
        "nonfinite": output.nonfinite,
    }


def _golden_or_obstacle(model: Model, data: Inputs) -> tuple[tuple[GoldenCase, ...], str]:
    """The golden cases, or why there are none: onnxruntime cannot load the model, or run it on made-up data.

    Such a model (custom operators, plugins) is planned by its structure and its weights alone.

    Raises:
      ModelError: the given inputs cannot be run.
    """
    try:
        with Session(model):
            pass
    except ModelError as error:
        return (), str(error)
    try:
        return golden_cases(model, data), ""
    except ModelError as error:
        if not data.synthesised:
            raise
        return (), str(error)


def golden_cases(model: Model, data: Inputs, limit: int = MAX_GOLDEN) -> tuple[GoldenCase, ...]:
    """What the FP32 model answers to the first batches, with onnxruntime's optimizations off."""
    cases: list[GoldenCase] = []
    with Session(model) as session:
        for number, batch in enumerate(data):
            if number == limit:
                break
            name = data.labels[number] if number < len(data.labels) else f"batch-{number}"
            cases.append(GoldenCase(_file_name(name, number), batch, session.run(batch)))
    return tuple(cases)


def _file_name(label: str, number: int) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in Path(label).stem)
    return plain.strip("-") or f"batch-{number}"
