"""`compare`: run both sides on the same inputs, measure, and say what it means."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from precision_planner.diffing.divergence import find_first_divergence, where_told
from precision_planner.diffing.drawings import fused_names
from precision_planner.diffing.graph import graph_diff
from precision_planner.diffing.layers import LayerComparison, is_mover
from precision_planner.diffing.passes import Gathered, Progress, output_pass
from precision_planner.diffing.result import Diff, LayerDiff
from precision_planner.diffing.run import Provider, Runner
from precision_planner.diffing.sources import Side, open_side
from precision_planner.errors import ConversionError, InputsError, ModelError
from precision_planner.judging.evidence import Selection, find_evidence
from precision_planner.judging.judge import Judge, OwnMetric, Tolerance
from precision_planner.judging.metrics import json_number, max_abs, rel_l2
from precision_planner.judging.tolerance import (
    check_detections,
    check_metrics,
    check_outputs,
    guarded,
    parse_tolerances,
)
from precision_planner.judging.ulps import metrics_of
from precision_planner.judging.verdict import grade_of, sentence_of
from precision_planner.model import Model
from precision_planner.model.inputs import Inputs, input_specs, load_inputs, take_rows
from precision_planner.model.order import reads
from precision_planner.model.session import Session
from precision_planner.numerics.formats import FORMATS
from precision_planner.rewriting.loading import refusal
from precision_planner.simulation import inline_functions, is_typed_low
from precision_planner.simulation.accumulation import Accumulation
from precision_planner.simulation.simulate import Semantics, WeightPolicy
from precision_planner.simulation.tf32 import Tf32
from precision_planner.targets import Target, get_target
from precision_planner.targets.lowering import Lowering

ROWS_TO_LOOK = 4
"""Rows of each batch that are run again to find the first divergence, where the layers were not asked for."""

_WORTH_A_LOOK = frozenset({"degraded", "garbage", "nonfinite"})


def compare(
    reference: Any,
    candidate: Any,
    inputs: Any = None,
    *,
    simulate: str | None = None,
    semantics: Semantics = "typed",
    weights: WeightPolicy | None = None,
    keep_fp32: Iterable[Any] = (),
    keep_bf16: Iterable[Any] = (),
    keep_sum32: Iterable[Any] = (),
    tf32: Tf32 | None = None,
    accumulation: Accumulation | None = None,
    lowering: Iterable[Lowering] | None = None,
    layers: bool | None = None,
    provider: Provider = "cpu",
    tolerance: Mapping[str, float] | Iterable[str | Tolerance] | None = None,
    metrics: Mapping[str, OwnMetric] | None = None,
    names: Mapping[str, str] | None = None,
    self_check: bool = True,
    checked: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> Diff:
    """Compare a candidate with a reference on the same inputs.

    The reference is run by onnxruntime in FP32 with its optimizations off. A candidate with 16-bit types in its
    graph is simulated honestly (`precision_planner.simulation`), for onnxruntime on a CPU would compute it in FP32.

    Args:
      reference: what is right; see `open_side`: a model, a plan's folder, saved outputs, an engine.
      candidate: what is judged; the same kinds.
      inputs: see `load_inputs`; None synthesises valid ones. Not needed where both sides are saved outputs.
      simulate: "fp16" or "bf16" simulates an FP32 candidate in that type, "none" runs a typed one as it is; None
        follows the candidate's types.
      semantics: of the simulation, "typed" or "fused"; see `precision_planner.simulation`.
      weights: how constants are rounded, "ieee" or "saturate"; by default what the semantics say.
      keep_fp32: nodes that stay FP32 when an FP32 candidate is simulated.
      keep_bf16: nodes that are BF16 then.
      keep_sum32: products that add up in FP32 then, whatever `accumulation` says of the others.
      tf32: a simulation takes the operands of products that stay FP32 in TF32, "nearest" (True) or "truncated" (see
        `precision_planner.simulation.prepare`); None does as a plan's folder says, rounded as its target rounds.
      accumulation: how products that are simulated in FP16 add up, "fp32" or "fp16"; by default in FP32, for a plan's
        folder as its target's file says.
      lowering: what a target's parser writes operators out as; by default what a plan's folder says of its target.
      layers: compare the intermediate values; None does so only where the outputs are beyond tolerance or wrong, to
        find the first divergence.
      provider: what runs models that are not simulated.
      tolerance: ``{"sad": 1e-3}`` or ``["logits:cosine=0.999"]``.
      metrics: one's own metrics, name -> function of (reference, candidate) arrays; larger is worse.
      names: old node name -> new, where nodes of the candidate have other names.
      self_check: run the reference with onnxruntime's optimizations too, to see how much they change.
      checked: the candidate has been loaded as it is; False does so first: what checker or runtime refuse is an error.
      command: the command line, for the report.
      progress: called with the number of steps done.

    Raises:
      ConversionError: options of a simulation that is not done.
      ToleranceError, InputsError, ModelError, MissingExtraError: see there.
    """
    step = progress or (lambda _: None)
    tolerances = parse_tolerances(tolerance)
    own = guarded(metrics)
    check_metrics(tolerances, own)
    ref_side, cand_side = open_side(reference), open_side(candidate)
    if not checked and cand_side.model is not None and cand_side.model is not ref_side.model:
        _check_loads(ref_side, cand_side)
    renamed = {**_fused_by_plan(ref_side, cand_side), **cand_side.names, **(names or {})}
    if cand_side.is_weak_plan and simulate is None:
        # the graph is FP32, the types stand in the plan; a weak build may keep chains of operators in a kernel
        simulate, semantics = str(cand_side.plan["precision"]), "fused"
        keep_fp32 = (*keep_fp32, *cand_side.kept("fp32"))
        keep_bf16 = (*keep_bf16, *cand_side.kept("bf16"))
        keep_sum32 = (*keep_sum32, *cand_side.kept("fp16+"))
    planned = get_target(str(cand_side.plan["target"])) if cand_side.plan else None
    if planned is not None and (cand_side.is_weak_plan or _is_typed_low(cand_side)):
        accumulation = accumulation or planned.sums
        lowering = planned.lowering if lowering is None else lowering
        if not cand_side.is_weak_plan and planned.chains == "fp32" and weights is None:
            semantics, weights = "fused", "ieee"
    kept = (*keep_fp32, *keep_bf16, *keep_sum32)
    how = semantics == "fused" or weights is not None or accumulation == "fp16"
    batches = _inputs(inputs, ref_side, cand_side)
    with Runner(ref_side) as ref_runner, Runner(cand_side, provider=provider) as cand_runner:
        ref_runner.open()
        cand_runner.open(
            simulate=simulate,
            semantics=semantics,
            weights=weights,
            keep_fp32=tuple(keep_fp32),
            keep_bf16=tuple(keep_bf16),
            keep_sum32=tuple(keep_sum32),
            tf32=_planned_tf32(cand_side, planned) if tf32 is None else tf32,
            accumulation=accumulation or "fp32",
            lowering=tuple(lowering or ()),
        )
        _check_simulated(cand_runner, simulate, bool(kept), how)
        units = cand_runner.precision if cand_runner.precision in FORMATS else "fp16"
        selection = Selection() if ref_side.model is None else find_evidence(ref_side.model)
        check_detections(tolerances, selection.evidence.is_detector)
        gathered = Gathered(Judge(tolerances, own, selection.evidence, metrics_of(units)))
        unordered = selection.unordered
        can_look = ref_runner.shows_values and cand_runner.shows_values and batches is not None
        looked = LayerComparison(ref_runner, cand_runner, renamed, unordered) if layers and can_look else None
        if looked is not None and looked.covers_outputs:
            assert batches is not None
            looked.run(batches, step, gathered)
        else:
            output_pass(ref_runner, cand_runner, batches, gathered, step)
            ref_runner.release()
            cand_runner.release()
            if looked is not None and batches is not None:
                looked.run(batches, step)
        judgement = gathered.result()
        check_outputs(tolerances, judgement.outputs, own)
        outputs = gathered.outputs(judgement, own)
        grade = grade_of(judgement)
        few = None
        if batches is not None and can_look:
            few = take_rows(batches, input_specs(_model(ref_side)), ROWS_TO_LOOK)
        if layers is None and can_look and few is not None and (judgement.failures or grade in _WORTH_A_LOOK):
            looked = LayerComparison(ref_runner, cand_runner, renamed, unordered)
            looked.run(few, step)
        if selection.evidence.is_detector and can_look and batches is not None:
            chosen = looked or LayerComparison(ref_runner, cand_runner, renamed, unordered)
            before = {name: found.to_dict() for name, found in chosen.measure(selection.before, batches, step).items()}
            outputs = {
                name: replace(output, before=before) if output.judged.detections else output
                for name, output in outputs.items()
            }
        found: tuple[LayerDiff, ...] = ()
        divergence = None
        if looked is not None and few is not None:
            found = looked.entries()
            graph_of = _readers(ref_side)
            divergence = find_first_divergence(found, cand_runner.precision, cand_side.entries, *graph_of)
            if divergence is not None and looked.refine(divergence["value"], few, step):
                found = looked.entries()
                divergence = find_first_divergence(found, cand_runner.precision, cand_side.entries, *graph_of)
        check = None
        if self_check and ref_runner.simulation is None and ref_side.model is not None and batches is not None:
            check = _self_check(ref_side.model, ref_runner, batches, gathered)
        graph = None
        if ref_side.model is not None and cand_side.model is not None:
            graph = graph_diff(ref_side.model, cand_side.model, renamed)
        return Diff(
            outputs=outputs,
            verdict=sentence_of(judgement, grade, where_told(divergence)),
            grade=grade,
            passed=judgement.passed,
            failures=tuple(failure.to_dict() for failure in judgement.failures),
            first_divergence=divergence,
            layers=found,
            graph=graph,
            reference={"label": ref_side.label, "kind": ref_side.kind, "run": ref_runner.description},
            candidate={"label": cand_side.label, "kind": cand_side.kind, "run": cand_runner.description},
            inputs={
                "source": "none" if batches is None else batches.source,
                "synthesised": batches is not None and batches.synthesised,
                "batches": judgement.batches,
                "skipped": gathered.skipped,
            },
            tolerances=tuple(map(str, tolerances)),
            reference_check=check,
            environment=environment(command),
            judgement=judgement,
            sources=(ref_side, replace(cand_side, names=renamed), inputs),
        )


def diff(reference: Any, candidate: Any, inputs: Any = None, **options: Any) -> Diff:
    """`compare` under the name that `precision_planner` exports; the options are the same."""
    return compare(reference, candidate, inputs, **options)


def environment(command: str = "") -> dict[str, str]:
    """Versions of what the numbers depend on, and the command that gave them."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("precision-planner", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "command": command} if command else found


def _check_simulated(runner: Runner, simulate: str | None, keeps: bool, how: bool) -> None:
    """Refuse options of a simulation that is not done: the verdict would be of something else than was asked for.

    Args:
      runner: the candidate's, open.
      simulate: what was asked for.
      keeps: whether nodes were named that stay high.
      how: whether it was said how 16 bits are simulated.
    """
    label, asked = runner.side.label, simulate in FORMATS
    if asked and runner.side.model is None:
        raise ConversionError(f"{label} is no model that could be simulated; leave --simulate out, or give the model")
    typed = _is_typed_low(runner.side)
    if asked and typed and runner.precision != simulate:
        raise ConversionError(
            f"{label} is typed {runner.precision} already and simulated as it is typed; leave --simulate out, or give "
            "the FP32 model"
        )
    if keeps and (typed or not asked):
        raise ConversionError(
            f"--keep-fp32 is for an FP32 model that is simulated, and {label} is "
            + ("typed already; leave it out" if typed else "not; add --simulate fp16")
        )
    if how and runner.simulation is None:
        raise ConversionError(
            f"--semantics, --weights and --accumulation say how 16 bits are simulated, and {label} is run as it is; "
            "add --simulate fp16"
        )


def _check_loads(reference: Side, candidate: Side) -> None:
    """Refuse a candidate that checker or runtime refuse: a simulation would compute what nothing can run.

    Where they refuse the reference, too (an operator of somebody's own), they say nothing of the candidate.
    """
    assert candidate.model is not None
    refused = refusal(candidate.model)
    if refused and (reference.model is None or not refusal(reference.model)):
        raise ModelError(f"{candidate.label} cannot be loaded as it is: {refused}")


def _is_typed_low(side: Side) -> bool:
    return side.model is not None and is_typed_low(side.model)


def _planned_tf32(side: Side, target: Target | None) -> Tf32:
    """What a plan's folder says, as its target rounds."""
    return target.tf32 if target is not None and side.plan.get("build", {}).get("tf32") else False


def _inputs(source: Any, reference: Side, candidate: Side) -> Inputs | None:
    side = reference if reference.model is not None else candidate
    if side.model is None:
        if source is not None or "engine" in (reference.kind, candidate.kind):
            raise InputsError(
                "inputs can be given only where one side is a model that says what it takes; compare saved outputs "
                "without --inputs"
            )
        return None
    return load_inputs(source, side.model)


def _model(side: Side) -> Model:
    assert side.model is not None
    return side.model


def _fused_by_plan(reference: Side, candidate: Side) -> dict[str, str]:
    if reference.model is None or candidate.model is None or not candidate.plan:
        return {}
    return fused_names(reference.model, candidate.model, candidate.plan.get("fusions") or ())


def _readers(side: Side) -> tuple[dict[str, list[str]], list[str], set[str]]:
    """(value -> the values made from it, the outputs, what only holds another value) of a side's main graph."""
    if side.model is None:
        return {}, [], set()
    graph = inline_functions(side.model).proto.graph
    found: dict[str, list[str]] = {}
    for node in graph.node:
        for name in reads(node):
            found.setdefault(name, []).extend(output for output in node.output if output)
    moved = {name for node in graph.node if is_mover(node, casts=True) for name in node.output}
    return found, [value.name for value in graph.output], moved


def _self_check(model: Model, runner: Runner, inputs: Inputs, gathered: Gathered) -> dict[str, Any] | None:
    """How far onnxruntime's optimizations take the reference from itself, on the first batch."""
    runner.release()
    try:
        with Session(model, optimize=True) as session:
            optimized = session.run(runner.feeds(inputs.first()))
    except ModelError as error:
        return {"reason": str(error)}
    found: dict[str, Any] = {}
    for name, value in gathered.first.items():
        if name not in optimized or isinstance(value, list) or value is None:
            continue
        a, b = np.asarray(value), np.asarray(optimized[name])
        if a.shape == b.shape and a.dtype.kind in "fiub":
            found[name] = {"max_abs": json_number(max_abs(a, b)), "rel_l2": json_number(rel_l2(a, b))}
    return found
