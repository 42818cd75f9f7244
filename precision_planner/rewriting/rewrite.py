"""`rewrite`: surgery, fusion, decisions, types, weights, verification, in this order."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from precision_planner.errors import ConversionError
from precision_planner.judging.verdict import Verdict
from precision_planner.model import GraphIndex, Model, NodeId, TypeTable, infer_types
from precision_planner.model.edit import PassResult
from precision_planner.model.inputs import load_inputs
from precision_planner.patterns import Match, find_patterns
from precision_planner.patterns.selecting import pattern_kinds, selected_kinds
from precision_planner.rewriting.attention import VerifiedAttention, unwritten, verified_attention
from precision_planner.rewriting.checks import summarize, verify_typed
from precision_planner.rewriting.convert import ConvertOptions, ConvertResult, convert
from precision_planner.rewriting.deciding import asked_for, carry, check_converted
from precision_planner.rewriting.interface import Narrowed, narrow_inputs
from precision_planner.rewriting.islands import keep_islands
from precision_planner.rewriting.opsets import check_opset, raise_for_bf16
from precision_planner.rewriting.options import Options, listed
from precision_planner.rewriting.passes import Passes
from precision_planner.rewriting.report import build_report
from precision_planner.rewriting.safeguards import closed_norms, safeguards
from precision_planner.rewriting.sums import SumsResult, promise_sums
from precision_planner.rewriting.surgery import run_surgery
from precision_planner.rewriting.weights import check_policy
from precision_planner.targets.refusals import Refusal
from precision_planner.targets.target import Islands
from precision_planner.transforms import FusionResult, fuse, fuse_verified
from precision_planner.transforms.fold_constants import fold_constants
from precision_planner.transforms.plugin_layernorm import apply_plugin_layernorm
from precision_planner.transforms.single import to_single
from precision_planner.typing import Decision, KeepAs, PluginTypes, TypeAssignment, TypingOptions, assign_types

__all__ = ["RewriteResult", "default_output", "rewrite", "write_layernorms"]


@dataclass(frozen=True)
class RewriteResult:
    """A rewritten model and what was done to it.

    Attributes:
      typed: the model as the planner holds it, weights not in memory.
      report: the dict of the command's JSON.
      assignment: the types, None with precision "fp32".
      source: the model before everything, after surgery.
      fused: the model that the assignment is about: with its fusions, before types.
      decisions: what was decided about nodes of `fused`.
      verdict: what the result answers, where it was judged; see `precision_planner.planning.rewrite`.
    """

    typed: Model
    report: dict[str, Any]
    assignment: TypeAssignment | None
    source: Model
    fused: Model
    decisions: Mapping[NodeId, Decision]
    verdict: Verdict | None = None

    def __repr__(self) -> str:
        report = self.report
        kept = f"{report['converted']} nodes converted, {len(report['kept_fp32'])} kept in FP32"
        return f"<RewriteResult {report['precision']}: {kept}; {self.verdict or 'not judged'}>"

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The whole model as a ModelProto; ModelError past 2 GiB (use `save`)."""
        return self.typed.to_proto()

    def save(self, path: str | os.PathLike[str], force: bool = False) -> list[Path]:
        """Write the model, weights streamed, atomically; returns the files, the model first.

        Raises:
          OutputError: the output exists (without force), is the input, or cannot be written.
        """
        return self.typed.save(path, force=force)


def rewrite(
    model: Model | onnx.ModelProto | str | os.PathLike[str],
    *,
    precision: str = "fp16",
    fuse: Sequence[str] | str | None = ("layernorm",),
    keep_fp32: Sequence[str] | str = (),
    keep_bf16: Sequence[str] | str = (),
    keep_sum32: Sequence[str] | str = (),
    islands: Islands | None = None,
    refused: Sequence[Refusal] = (),
    only_low: Sequence[str] | str = (),
    keep_as: KeepAs | None = None,
    io_types: str = "keep",
    int32_inputs: bool = False,
    weights: str = "auto",
    layernorm: str = "onnx",
    surgery: str | None = None,
    plugins: Mapping[str, PluginTypes] | None = None,
    decisions: Mapping[NodeId, Decision] | None = None,
    inputs: object = None,
    verify: bool = True,
    safe: bool = True,
) -> RewriteResult:
    """Rewrite a model in a low precision.

    Args:
      model: a path, a ModelProto or a `Model`.
      precision: "fp16", "bf16", or "fp32" (fusion alone).
      fuse: pattern kinds or categories that become one node; empty or None for none.
      keep_fp32: selectors of nodes that stay in FP32.
      keep_bf16: selectors of nodes that compute in BF16.
      keep_sum32: selectors of nodes in FP16 whose products sum in FP32 (fp16+): each is put between Casts, its bias
        outside. Nodes among them that are no products are left as they are.
      refused: what the build target has no kernels for in the low type; it stays in FP32.
      islands: which FP32 islands the builder of the typed graph takes away; these are given what keeps them.
      only_low: selectors of the only nodes that go low; all others stay in FP32.
      keep_as: how kept normalizations are kept: "compute" or "island"; None takes what costs least.
      io_types: "keep", "low" or "low=GLOB,GLOB".
      int32_inputs: int64 inputs become INT32.
      weights: what becomes of weights that the type cannot hold: "auto", "saturate" or "ieee".
      layernorm: "onnx", or "plugin:NAME" to write LayerNormalization nodes as a TensorRT plugin.
      surgery: "FILE.py[:FUNCTION]", run first.
      plugins: op type of a plugin or custom operator -> its types.
      decisions: for single nodes of the input model, as a plan has them; selectors win over them.
      inputs: data for the comparison of fused and original model; synthesized where None.
      verify: compare the fused model and load the typed one in onnxruntime.
      safe: keep in FP32 what is known to break (`precision_planner.rewriting.safeguards`), and with `inputs` what
        overflows on them; a plan, which decides that itself, leaves it out.

    Raises:
      ConversionError: a low precision was asked for and nothing could be converted.
      SelectorError: a selector matches nothing.
    """
    options = Options(
        precision=precision,
        kinds=pattern_kinds(listed(fuse)),
        keep_fp32=listed(keep_fp32),
        keep_bf16=listed(keep_bf16),
        keep_sum32=listed(keep_sum32),
        islands=islands or Islands(),
        refused=tuple(refused),
        only_low=listed(only_low),
        keep_as=keep_as,
        io_types=io_types,
        int32_inputs=int32_inputs,
        weights=weights,
        layernorm=layernorm,
        surgery=surgery,
        plugins=dict(plugins or {}),
        decisions=dict(decisions or {}),
        inputs=inputs,
        verify=verify,
        safe=safe,
    )
    check_policy(weights)
    started = time.perf_counter()
    loaded, passes = Model.load(model), Passes()
    steps = _fused_alone if options.low is None else _typed
    return _finished(loaded, steps(_after_surgery(loaded, options, passes), options, passes), options, passes, started)


@dataclass(frozen=True)
class _Steps:
    """What stands behind the passes that decide and type, before those of the interface.

    Attributes:
      source: after surgery, folding and attentions: what patterns were looked for in.
      index: of `source`.
      fusion: what became of the patterns.
      fusing: seconds that the comparison of fused and original model took.
      model: what the types were assigned to.
      types: inferred for `model`.
      decisions: about nodes of `model`.
      assignment: the types; None where only patterns were fused.
      result: the typed model.
      attentions: names of the attentions that are one node now.
      notes: what was seen that no pass says.
    """

    source: Model
    index: GraphIndex
    fusion: FusionResult
    fusing: float
    model: Model
    types: TypeTable
    decisions: Mapping[NodeId, Decision]
    assignment: TypeAssignment | None
    result: ConvertResult
    attentions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _after_surgery(loaded: Model, options: Options, passes: Passes) -> Model:
    script = options.surgery
    if not script:
        return loaded
    return passes.run("surgery", loaded, lambda model: PassResult(run_surgery(model, script))).model


def _fused_alone(source: Model, options: Options, passes: Passes) -> _Steps:
    """Patterns as one node each; no types."""
    attentions = passes.run("attention", source, lambda model: _attentions(model, options))
    source = attentions.model
    index = GraphIndex(source.proto)
    types = infer_types(source, index)
    matches = _matches(source, index, types, options)
    decisions = asked_for(source, index, matches, options)
    fusion, fusing = _fused(source, index, matches, options, passes)
    result = ConvertResult(fusion.model)
    notes = tuple(unwritten(options.kinds))
    return _Steps(source, index, fusion, fusing, fusion.model, types, decisions, None, result, attentions.fused, notes)


def _typed(source: Model, options: Options, passes: Passes) -> _Steps:
    """Patterns as one node each, and every value in the type that was decided."""
    assert options.low is not None, "there is a low precision to type in"
    typing = TypingOptions(options.low, options.io_types, options.keep_as, options.plugins, refused=options.refused)
    if typing.low == TensorProto.BFLOAT16:
        source = passes.run("widen", source, lambda model: PassResult(to_single(model, TensorProto.FLOAT16))).model
    given = source
    source = passes.run("fold", source, fold_constants).model
    options = options.about(given, source)
    attentions = passes.run("attention", source, lambda model: _attentions(model, options))
    source = attentions.model
    index = GraphIndex(source.proto)
    types = infer_types(source, index)
    matches = _matches(source, index, types, options)
    guards: dict[NodeId, Decision] = {}
    notes: list[str] = []
    if options.safe:
        bare = options.weights == "auto"
        guards, notes = safeguards(source, index, types, options.precision, inputs=options.inputs, constants=bare)
    decisions = guards | asked_for(source, index, matches, options)
    fusion, fusing = _fused(source, index, matches, options, passes)
    decisions = carry(decisions, fusion, index, options.keep_as)
    raised = passes.run("raise_opset", fusion.model, lambda model: raise_for_bf16(model, options.precision, decisions))
    model = raised.model
    check_opset(model, typing, raised.notes)
    now = index if model is source else GraphIndex(model.proto)
    table = types if model is source else infer_types(model, now)
    if options.safe and options.keep_as is None:
        decisions = closed_norms(now, decisions)
    assignment = assign_types(model, decisions, typing, index=now, types=table)
    asked = bool(options.keep_fp32 or options.only_low or options.decisions)
    check_converted(source, assignment, asked=asked)
    policy = ConvertOptions(options.weights)  # type: ignore[arg-type]
    converted = passes.run("convert", model, lambda given: convert(given, assignment, policy))
    summed = passes.run("sums", converted.model, lambda given: _promised(given, converted, assignment, options))
    result = replace(converted, model=summed.model, casts=converted.casts + summed.casts)
    told = (*notes, *unwritten(options.kinds))
    return _Steps(source, index, fusion, fusing, model, table, decisions, assignment, result, attentions.fused, told)


def _finished(loaded: Model, steps: _Steps, options: Options, passes: Passes, started: float) -> RewriteResult:
    """Plugins, the interface, the checks and the report."""
    typed = passes.run("plugins", steps.result.model, lambda model: write_layernorms(model, options.layernorm)).model
    narrowed = Narrowed(typed)
    if options.int32_inputs:
        narrowed = passes.run("int32_inputs", typed, narrow_inputs)
        typed = narrowed.model
    seconds = time.perf_counter() - started - steps.fusing
    before_checks = time.perf_counter()
    checks = _checks(loaded, typed, steps.fusion, options)
    refused = checks.get("typed", {})
    if refused.get("passed") is False:
        raise ConversionError(
            f"the {options.precision} model that was made is refused: {refused['reason']}; keep the node named "
            "there in FP32 (--keep-fp32), and report the model"
        )
    checks["seconds"] = round(steps.fusing + time.perf_counter() - before_checks, 3)
    report = build_report(
        source=steps.source,
        source_index=steps.index,
        model=steps.model,
        fusion=steps.fusion,
        assignment=steps.assignment,
        types=steps.types,
        result=steps.result,
        verification=checks,
        narrowed=narrowed.inputs,
        precision=options.precision,
        notes=[*passes.notes, *steps.notes],
        seconds=seconds,
    )
    report["fused"] += [{"kind": "attention", "nodes": [name]} for name in steps.attentions]
    report["passes"] = passes.done
    return RewriteResult(typed, report, steps.assignment, steps.source, steps.model, steps.decisions)


def _attentions(model: Model, options: Options) -> VerifiedAttention:
    """Attentions as one node, where that was asked for."""
    if "attention" not in options.kinds:
        return VerifiedAttention(model)
    return verified_attention(model, options.inputs, verify=options.verify)


def _matches(model: Model, index: GraphIndex, types: TypeTable, options: Options) -> list[Match]:
    """What is fused or named by a selector; recognizing every kind would take time."""
    kinds = tuple(dict.fromkeys((*options.kinds, *selected_kinds(options.selectors))))
    return find_patterns(model, index=index, types=types, kinds=kinds) if kinds else []


def _fused(
    source: Model, index: GraphIndex, matches: Sequence[Match], options: Options, passes: Passes
) -> tuple[FusionResult, float]:
    """(the fusion, seconds of its comparison with the original)."""

    def step(model: Model) -> FusionResult:
        if not options.kinds:
            return FusionResult(model, opset=model.opset)
        if not options.verify:
            return fuse(model, matches, kinds=options.kinds, index=index)
        batches = None if options.inputs is None else load_inputs(options.inputs, model)
        return fuse_verified(model, matches, kinds=options.kinds, inputs=batches, index=index)

    started = time.perf_counter()
    fusion = passes.run("fuse", source, step)
    return fusion, time.perf_counter() - started if options.verify else 0.0


def _promised(model: Model, converted: ConvertResult, assignment: TypeAssignment, options: Options) -> SumsResult:
    """FP32 sums and FP32 islands, written so that a builder does what the types say."""
    places = [(n.node.scope, n.node.output) for n in assignment.sums32]
    promised = promise_sums(model, [(path, converted.renamed.get((path, v), v)) for path, v in places])
    return replace(promised, model=keep_islands(promised.model, options.islands).model)


def _checks(loaded: Model, typed: Model, fusion: FusionResult, options: Options) -> dict[str, Any]:
    if not options.verify:
        return {"max_abs": None, "passed": None, "reason": "switched off by --no-verify"}
    if typed is loaded:
        return {"max_abs": 0.0, "passed": True, "reason": "nothing was changed"}
    if options.layernorm != "onnx":
        reason = "onnxruntime has no TensorRT plugins; checked by structure only"
        return summarize(fusion.verification, {"passed": None, "reason": reason})
    return summarize(fusion.verification, verify_typed(loaded, typed))


def write_layernorms(model: Model, form: str) -> PassResult:
    """LayerNormalization as `--layernorm` says: "onnx" (as it is) or "plugin:NAME".

    Raises:
      ConversionError: another form, or a plugin and no LayerNormalization that can be written so.
    """
    kind, _, name = form.partition(":")
    if kind == "onnx" and not name:
        return PassResult(model)
    if kind != "plugin" or not name:
        raise ConversionError(f"--layernorm {form!r} is unknown; use onnx or plugin:NAME")
    return apply_plugin_layernorm(model, None, name)


def default_output(path: str | os.PathLike[str], precision: str) -> Path:
    """Where `planner rewrite` writes without -o: ``model.fp16.onnx`` beside ``model.onnx``."""
    source = Path(path)
    stem = source.name.removesuffix(".onnx")
    return source.with_name(f"{stem}.{precision}.onnx")
