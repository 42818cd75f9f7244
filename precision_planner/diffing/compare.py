"""`compare`: run both sides on the same inputs, measure, and say what it means."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from precision_planner.diffing.collect import OutputCollector, OwnMetric
from precision_planner.diffing.layers import compare_layers
from precision_planner.diffing.result import Diff, LayerDiff, OutputDiff
from precision_planner.diffing.run import Provider, Runner
from precision_planner.diffing.sources import Side, open_side
from precision_planner.diffing.tolerance import Tolerance, check_metrics, check_outputs, parse_tolerances
from precision_planner.diffing.verdict import find_first_divergence, grade_of, verdict_of
from precision_planner.errors import InputsError, ModelError
from precision_planner.model.inputs import Inputs, input_specs, load_inputs
from precision_planner.model.order import reads
from precision_planner.model.session import Session
from precision_planner.numerics.metrics import json_number, max_abs, rel_l2
from precision_planner.simulation import inline_functions
from precision_planner.simulation.simulate import Semantics, WeightPolicy

Progress = Callable[[float], None]


def compare(
    reference: Any,
    candidate: Any,
    inputs: Any = None,
    *,
    simulate: str | None = None,
    semantics: Semantics = "typed",
    weights: WeightPolicy | None = None,
    keep_fp32: Iterable[Any] = (),
    layers: bool | None = None,
    provider: Provider = "cpu",
    tolerance: Mapping[str, float] | Iterable[str | Tolerance] | None = None,
    metrics: Mapping[str, OwnMetric] | None = None,
    names: Mapping[str, str] | None = None,
    self_check: bool = True,
    command: str = "",
    progress: Progress | None = None,
) -> Diff:
    """Compare a candidate with a reference on the same inputs.

    The reference is run by onnxruntime in FP32 with its optimizations off. A candidate with 16-bit types in its
    graph is simulated honestly (`precision_planner.simulation`), for onnxruntime on a CPU would compute it in FP32.

    Args:
      reference, candidate: see `open_side`: models, plans' folders, saved outputs, engines.
      inputs: see `load_inputs`; None synthesises valid ones. Not needed where both sides are saved outputs.
      simulate: "fp16" or "bf16" simulates an FP32 candidate in that type, "none" runs a typed one as it is; None
        follows the candidate's types.
      semantics, weights, keep_fp32: of the simulation.
      layers: compare the intermediate values; None does so only where the outputs are beyond tolerance or wrong, to
        find the first divergence.
      provider: what runs models that are not simulated.
      tolerance: ``{"sad": 1e-3}`` or ``["logits:cosine=0.999"]``.
      metrics: one's own metrics, name -> function of (reference, candidate) arrays; larger is worse.
      names: old node name -> new, where nodes of the candidate have other names.
      self_check: run the reference with onnxruntime's optimizations too, to see how much they change.
      command: the command line, for the report.
      progress: called with the number of steps done.

    Raises:
      ToleranceError, InputsError, ModelError, MissingExtraError: see there.
    """
    step = progress or (lambda _: None)
    tolerances = parse_tolerances(tolerance)
    own = dict(metrics or {})
    check_metrics(tolerances, own)
    ref_side, cand_side = open_side(reference), open_side(candidate)
    batches = _inputs(inputs, ref_side, cand_side)
    with Runner(ref_side) as ref_runner, Runner(cand_side, provider=provider) as cand_runner:
        ref_runner.open()
        cand_runner.open(simulate=simulate, semantics=semantics, weights=weights, keep_fp32=tuple(keep_fp32))
        precision = cand_runner.precision if cand_runner.precision != "fp32" else "fp16"
        outputs, count, skipped = _run(ref_runner, cand_runner, batches, precision, own, step)
        check_outputs(tolerances, outputs, own)
        failures = _failures(outputs, tolerances)
        grade = grade_of(outputs)
        found: tuple[LayerDiff, ...] = ()
        if layers or (layers is None and (failures or grade in ("degraded", "garbage", "nonfinite"))):
            found = compare_layers(ref_runner, cand_runner, batches, {**cand_side.names, **(names or {})}, step)
        divergence = find_first_divergence(
            found, cand_runner.precision, cand_side.entries, *_readers(ref_side if found else None)
        )
        check = _self_check(ref_side, ref_runner, batches) if self_check and ref_runner.simulation is None else None
        graph = None
        if ref_side.model is not None and cand_side.model is not None:
            from precision_planner.diffing.graph import graph_diff

            graph = graph_diff(ref_side.model, cand_side.model, {**cand_side.names, **(names or {})})
        return Diff(
            outputs=outputs,
            verdict=verdict_of(outputs, grade, failures, divergence),
            grade=grade,
            passed=not failures and grade != "nonfinite",
            failures=failures,
            first_divergence=divergence,
            layers=found,
            graph=graph,
            reference={"label": ref_side.label, "kind": ref_side.kind, "run": ref_runner.description},
            candidate={"label": cand_side.label, "kind": cand_side.kind, "run": cand_runner.description},
            inputs={
                "source": "none" if batches is None else batches.source,
                "synthesised": batches is not None and batches.synthesised,
                "batches": count,
                "skipped": skipped,
            },
            tolerances=tuple(map(str, tolerances)),
            reference_check=check,
            environment=environment(command),
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


def _run(
    reference: Runner,
    candidate: Runner,
    inputs: Inputs | None,
    precision: str,
    own: Mapping[str, OwnMetric],
    step: Progress,
) -> tuple[dict[str, OutputDiff], int, list[str]]:
    collectors: dict[str, OutputCollector] = {}
    skipped: list[str] = []
    count = 0
    for label, batch in _batches(inputs, reference):
        try:
            expected = reference.run(batch)
        except ModelError as error:
            # a made-up length that the model cannot take (a fixed number of positions) says nothing about it
            if inputs is None or not inputs.synthesised:
                raise
            skipped.append(f"{label}: {error}")
            continue
        given = candidate.run(batch)
        for name, array in _pairs(expected, given, reference.side.label, candidate.side.label):
            collector = collectors.setdefault(name, OutputCollector(name, precision, own))
            collector.add(array[0], array[1])
        count += 1
        step(1)
    if not count:
        why = f" ({skipped[0]})" if skipped else ""
        raise InputsError(f"no batch could be run{why}; give --inputs with a batch that the model takes")
    return {name: collector.result() for name, collector in collectors.items()}, count, skipped


def _batches(inputs: Inputs | None, reference: Runner) -> Iterator[tuple[str, dict[str, np.ndarray] | None]]:
    if inputs is None:
        assert reference.side.outputs is not None
        for number, _ in enumerate(reference.side.outputs()):
            yield f"batch {number}", None
        return
    for number, batch in enumerate(inputs):
        yield (inputs.labels[number] if number < len(inputs.labels) else f"batch {number}"), batch


def _pairs(
    expected: Mapping[str, Any], given: Mapping[str, Any], reference: str, candidate: str
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Outputs of one name, as arrays: sequences element by element, empty optionals left out."""
    names = [name for name in expected if name in given]
    if not names:
        raise InputsError(
            f"{candidate} has none of the outputs of {reference}: {', '.join(expected)}; it has {', '.join(given)}"
        )
    missing = [name for name in expected if name not in given]
    if missing:
        raise InputsError(f"{candidate} lacks the output '{missing[0]}'; it has {', '.join(given)}")
    for name in names:
        a, b = expected[name], given[name]
        if isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                raise InputsError(f"output '{name}' is a sequence of {len(a)} in the reference and {len(b)} in {candidate}")
            yield from ((f"{name}[{i}]", (np.asarray(x), np.asarray(y))) for i, (x, y) in enumerate(zip(a, b, strict=True)))
        elif a is not None and b is not None:
            x, y = np.asarray(a), np.asarray(b)
            if x.shape != y.shape:
                raise InputsError(
                    f"output '{name}' has shape {list(x.shape)} in the reference and {list(y.shape)} in {candidate}; "
                    "compare the same inputs, or detections by --metric"
                )
            yield name, (x, y)


def _readers(side: Side | None) -> tuple[dict[str, list[str]], list[str]]:
    """(value -> the values made from it, the outputs) of a side's main graph."""
    if side is None or side.model is None:
        return {}, []
    graph = inline_functions(side.model).proto.graph
    found: dict[str, list[str]] = {}
    for node in graph.node:
        for name in reads(node):
            found.setdefault(name, []).extend(output for output in node.output if output)
    return found, [value.name for value in graph.output]


def _failures(outputs: Mapping[str, OutputDiff], tolerances: Iterable[Tolerance]) -> tuple[dict[str, Any], ...]:
    failures = []
    for tolerance in tolerances:
        for name, output in outputs.items():
            if tolerance.output not in (None, name):
                continue
            value = output.get(tolerance.metric)
            if not tolerance.holds(value):
                failures.append(
                    {
                        "output": name,
                        "metric": tolerance.metric,
                        "value": json_number(value),
                        "bound": json_number(tolerance.bound),
                    }
                )
    return tuple(failures)


def _self_check(side: Side, runner: Runner, inputs: Inputs | None) -> dict[str, Any] | None:
    """How far onnxruntime's optimizations take the reference from itself, on the first batch."""
    if side.model is None or inputs is None or not input_specs(side.model):
        return None
    try:
        batch = inputs.first()
        plain = runner.run(batch)
        with Session(side.model, optimize=True) as session:
            optimized = session.run(runner.feeds(batch))
    except ModelError as error:
        return {"reason": str(error)}
    found: dict[str, Any] = {}
    for name, value in plain.items():
        a, b = np.asarray(value), np.asarray(optimized[name])
        if a.shape == b.shape and a.dtype.kind in "fiub":
            found[name] = {"max_abs": json_number(max_abs(a, b)), "rel_l2": json_number(rel_l2(a, b))}
    return found
