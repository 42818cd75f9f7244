"""What was written, judged: its honest simulation against the model that it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from precision_planner.diffing import Diff, compare
from precision_planner.diffing.divergence import where_told
from precision_planner.errors import ConversionError, InputsError, MissingExtraError, ModelError, TargetError
from precision_planner.judging.verdict import Verdict, inputs_told, not_judged, verdict_of
from precision_planner.model.inputs import Batch, Inputs, load_inputs
from precision_planner.model.sources import InputSource, ModelSource, PathLike
from precision_planner.plans import PrecisionPlan
from precision_planner.rewriting import RewriteResult
from precision_planner.rewriting import rewrite as rewrite_only
from precision_planner.rewriting.applying import apply as apply_only
from precision_planner.rewriting.applying import load_plan
from precision_planner.simulation import is_typed_low
from precision_planner.targets import Target, get_target

__all__ = ["MAX_BATCHES", "apply", "judge_rewrite", "rewrite", "verdict_of_diff"]

MAX_BATCHES = 3
"""Batches that a rewrite is judged on: the made-up smallest, usual and longest, or the first of those given."""


def rewrite(
    model: ModelSource,
    *,
    inputs: InputSource = None,
    verify: bool = True,
    target: str | None = None,
    **options: Any,
) -> RewriteResult:
    """Rewrite a model in a low precision, and judge what came out.

    The written model is simulated honestly on the inputs, or on made-up ones, and `report["verdict"]` says what that
    means: {grade, sentence, judged_on, first_wrong}; grade is FINE, DEGRADED, GARBAGE, NONFINITE or NOT JUDGED.

    Args:
      model: a path, a ModelProto or a `Model`.
      inputs: as `planner --inputs`, arrays by name, or None: made up.
      verify: check and judge the result; False says "NOT JUDGED".
      target: the build target: what it has no kernels for stays in FP32, islands that its builder takes away are
        written so that they stay, and the verdict is of its arithmetic. None: what holds everywhere.
      options: see `precision_planner.rewriting.rewrite`: precision, fuse, keep_fp32, keep_bf16, only_low, io_types, ...

    Raises:
      ConversionError: nothing could be converted, or what was written is refused by checker or runtime.
      SelectorError, InputsError: see there.
      TargetError: no such target, or one that takes no types from the graph.
    """
    chosen = None if target is None else get_target(target)
    if chosen is not None:
        if not chosen.strong:
            raise TargetError(f"{chosen.name} is weakly typed, so a typed graph is not for it; use planner plan")
        options = {**options, "refused": chosen.refused, "islands": chosen.islands}
    result = rewrite_only(model, inputs=inputs, verify=verify, **options)
    verdict = judge_rewrite(result, inputs, chosen) if verify else not_judged("verification was switched off")
    return replace(result, report={**result.report, "verdict": verdict.to_dict()}, verdict=verdict)


def apply(
    model: ModelSource,
    plan: PrecisionPlan | Mapping[str, Any] | PathLike,
    *,
    inputs: InputSource = None,
    verify: bool = True,
) -> RewriteResult:
    """Carry out a plan, saved or edited, on its model, and judge what came out.

    Args:
      model: the model that was planned: a path, a ModelProto or a `Model`.
      plan: a `PrecisionPlan`, a plan.json, a plan's folder, or its data.
      inputs: as of `rewrite`.
      verify: check and judge the result; False says "NOT JUDGED".

    Raises:
      PlanError: the plan does not fit the model; the message says where.
    """
    result = apply_only(model, load_plan(plan), inputs=inputs, verify=verify)
    verdict = judge_rewrite(result, inputs) if verify else not_judged("verification was switched off")
    return replace(result, report={**result.report, "verdict": verdict.to_dict()}, verdict=verdict)


def judge_rewrite(result: RewriteResult, inputs: Any = None, target: Target | None = None) -> Verdict:
    """Simulate a rewritten model against the model that it was made of.

    Args:
      result: of a rewrite.
      inputs: see `load_inputs`; at most `MAX_BATCHES` batches are run.
      target: whose arithmetic is simulated; None: sums in FP32, operators as ONNX has them.

    Raises:
      InputsError: the inputs given do not fit.
    """
    data = first_batches(load_inputs(inputs, result.source), MAX_BATCHES)
    try:
        low = target is not None and is_typed_low(result.typed)
        found = compare(
            result.source,
            result.typed,
            data,
            names=result.report["names"],
            self_check=False,
            checked=True,
            accumulation=target.sums if target is not None and low else None,
            lowering=target.lowering if target is not None else None,
        )
    except (ModelError, ConversionError, MissingExtraError) as error:
        return not_judged(str(error))
    except InputsError as error:
        if not data.synthesised:
            raise
        return not_judged(str(error))
    return verdict_of_diff(found)


def verdict_of_diff(found: Diff) -> Verdict:
    """The verdict of a comparison."""
    assert found.judgement is not None
    told = inputs_told(
        "" if found.inputs["synthesised"] else str(found.inputs["source"]),
        bool(found.inputs["synthesised"]),
        int(found.inputs["batches"]),
    )
    return verdict_of(
        found.judgement, told, bool(found.inputs["synthesised"]), first_wrong=where_told(found.first_divergence)
    )


def first_batches(inputs: Inputs, limit: int) -> Inputs:
    """The first batches alone."""

    def batches() -> Iterator[Batch]:
        return islice(iter(inputs), limit)

    labels: Sequence[str] = inputs.labels[:limit]
    return Inputs(batches, inputs.source, inputs.synthesised, tuple(labels))


def exit_code(verdict: Verdict | None, passed: bool | None, fail_on_made_up: bool) -> int:
    """1 beyond a tolerance, and for nonsense on given inputs (on made-up ones where that is asked for); else 0."""
    if passed is False:
        return 1
    return 0 if verdict is None else verdict.exit_code(fail_on_made_up)


def told(verdict: Verdict, fail_on_made_up: bool) -> tuple[str, str]:
    """(the last line, a warning or "") of a command that wrote something."""
    warning = ""
    if verdict.is_wrong and verdict.is_made_up and not fail_on_made_up:
        warning = "the verdict rests on made-up inputs, so the exit code is 0; give --inputs, or --fail-on-made-up"
    return str(verdict), warning


def own_files(metrics: Mapping[str, Any]) -> tuple[dict[str, dict[str, str | None]], dict[str, Any]]:
    """Where one's own metrics are defined, for the plan's folder.

    Returns:
      (name -> {"file": name in the folder, None where there is no source, "function"}, name in the folder -> file).
    """
    import inspect
    from pathlib import Path

    known: dict[str, dict[str, str | None]] = {}
    files: dict[str, Any] = {}
    for name, function in metrics.items():
        try:
            source = Path(inspect.getsourcefile(inspect.unwrap(function)) or "")
        except TypeError:  # no Python function: a builtin, or an object that is called
            source = Path()
        called = str(getattr(function, "__qualname__", ""))
        if source.is_file() and called.isidentifier():
            target = f"metrics/{source.name}"
            if files.get(target, source) != source:
                target = f"metrics/{name}_{source.name}"
            files[target] = source
            known[name] = {"file": target, "function": called}
        else:
            known[name] = {"file": None, "function": called}
    return known, files
