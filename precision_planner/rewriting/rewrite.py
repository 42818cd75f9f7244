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

from precision_planner.errors import ConversionError, SelectorError
from precision_planner.judging.verdict import Verdict
from precision_planner.model import GraphIndex, Model, NodeId, Scope, TypeTable, infer_types
from precision_planner.model.inputs import load_inputs
from precision_planner.operators import RESHAPES, carries, moves_values, op_types, row_of
from precision_planner.patterns import Match, find_patterns
from precision_planner.patterns.selecting import Selector, pattern_kinds, selected_kinds
from precision_planner.rewriting.attention import VerifiedAttention, unwritten, verified_attention
from precision_planner.rewriting.convert import ConvertOptions, ConvertResult, convert
from precision_planner.rewriting.interface import int32_inputs as narrow_inputs
from precision_planner.rewriting.islands import keep_islands
from precision_planner.rewriting.passes import Passes, PassResult
from precision_planner.rewriting.report import build_report
from precision_planner.rewriting.safeguards import closed_norms, safeguards
from precision_planner.rewriting.sums import promise_sums
from precision_planner.rewriting.surgery import run_surgery
from precision_planner.rewriting.verify import summarize, verify_typed
from precision_planner.rewriting.weights import check_policy
from precision_planner.targets.refusals import Refusal
from precision_planner.targets.target import Islands
from precision_planner.transforms import FusionResult, fuse, fuse_verified, raise_opset
from precision_planner.transforms.fold_constants import Folded, fold_constants
from precision_planner.transforms.plugin_layernorm import apply_plugin_layernorm
from precision_planner.transforms.single import to_single
from precision_planner.typing import (
    Decision,
    KeepAs,
    PluginTypes,
    Precision,
    TypeAssignment,
    TypingOptions,
    assign_types,
)
from precision_planner.typing.decisions import sums_are_promised
from precision_planner.typing.elements import find_elements, opset_of
from precision_planner.typing.gather import BF16_CAST_OPSET

OLDEST_OPSET = 6
"""The opset from which Cast names its type by a number."""

BF16_OPSET = 22
"""The opset from which convolutions, pooling and InstanceNormalization take bfloat16."""


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
    return _Rewrite(
        source=Model.load(model),
        precision=precision,
        kinds=pattern_kinds(_list(fuse)),
        keep_fp32=_list(keep_fp32),
        keep_bf16=_list(keep_bf16),
        keep_sum32=_list(keep_sum32),
        islands=islands or Islands(),
        refused=tuple(refused),
        only_low=_list(only_low),
        keep_as=keep_as,
        io_types=io_types,
        int32_inputs=int32_inputs,
        weights=weights,
        layernorm=layernorm,
        surgery=surgery,
        plugins=dict(plugins or {}),
        given=dict(decisions or {}),
        inputs=inputs,
        verify=verify,
        safe=safe,
    ).run()


def _list(value: Sequence[str] | str | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


@dataclass
class _Rewrite:
    """One run of the pipeline."""

    source: Model
    precision: str
    kinds: tuple[str, ...]
    keep_fp32: tuple[str, ...]
    keep_bf16: tuple[str, ...]
    keep_sum32: tuple[str, ...]
    islands: Islands
    refused: tuple[Refusal, ...]
    only_low: tuple[str, ...]
    keep_as: KeepAs | None
    io_types: str
    int32_inputs: bool
    weights: str
    layernorm: str
    surgery: str | None
    plugins: dict[str, PluginTypes]
    given: dict[NodeId, Decision]
    inputs: object
    verify: bool
    safe: bool

    def run(self) -> RewriteResult:
        started = time.perf_counter()
        check_policy(self.weights)
        options = self._options()
        loaded = self.source
        passes = Passes()
        if self.surgery:
            script = self.surgery
            self.source = passes.run("surgery", loaded, lambda model: PassResult(run_surgery(model, script)))
        if options is not None and options.low == onnx.TensorProto.BFLOAT16:
            widened = to_single(self.source, onnx.TensorProto.FLOAT16)
            self.source = passes.run("widen", self.source, lambda _: PassResult(widened))
        folded = fold_constants(self.source) if options is not None else Folded(self.source)
        self.source = passes.run("fold", self.source, lambda _: PassResult(folded.model))
        attentions = self._attentions()
        self.source = passes.run("attention", self.source, lambda _: PassResult(attentions.model))
        index = GraphIndex(self.source.proto)
        types = infer_types(self.source, index)
        kinds = self._needed_kinds()
        matches = find_patterns(self.source, index=index, types=types, kinds=kinds) if kinds else []
        guards, reasons = self._safeguards(index, types)
        reasons += [*attentions.notes, *unwritten(self.kinds)]
        if folded.values:
            reasons = [f"computed from constants in FP32: {', '.join(folded.values)}", *reasons]
        decisions = guards | self._decisions(index, matches)
        before_fusion = time.perf_counter()
        fusion = self._fuse(index, matches)
        passes.run("fuse", self.source, lambda _: PassResult(fusion.model, fusion.names))
        fusing = time.perf_counter() - before_fusion if self.verify else 0.0
        model = fusion.model
        assignment: TypeAssignment | None = None
        table = types
        result = ConvertResult(model)
        if options is not None:
            decisions = _carry(decisions, fusion, index, self.keep_as)
            raised, unraised = self._raise_for_bf16(model, decisions)
            model = passes.run("raise_opset", model, lambda _: PassResult(raised))
            reasons += unraised
            if options.low and "" in model.opsets and model.opset < OLDEST_OPSET:
                raise ConversionError(
                    f"the model has opset {model.opset}, whose Casts name types by words and which few still run; "
                    f"export it with opset {OLDEST_OPSET} or newer"
                )
            if options.low == onnx.TensorProto.BFLOAT16 and options.low_globs and 1 < model.opset < BF16_CAST_OPSET:
                why = f" and cannot be raised: {unraised[0]}" if unraised else ""
                raise ConversionError(
                    f"a bfloat16 interface needs opset {BF16_CAST_OPSET} for its Casts, and the model has "
                    f"{model.opset}{why}; leave --io-types out, or export it anew"
                )
            now = index if model is self.source else GraphIndex(model.proto)
            table = types if model is self.source else infer_types(model, now)
            if self.safe and self.keep_as is None:
                decisions = closed_norms(now, decisions)
            assignment = assign_types(model, decisions, options, index=now, types=table)
            self._check(assignment)
            result = convert(model, assignment, ConvertOptions(self.weights))  # type: ignore[arg-type]
            converted = passes.run("convert", model, lambda _: PassResult(result.model))
            result = self._promise_sums(result, assignment)
            passes.run("sums", converted, lambda _: PassResult(result.model))
        typed = passes.run("plugins", result.model, lambda made: PassResult(self._as_plugins(made)))
        narrowed: Mapping[str, str] = {}
        if self.int32_inputs:
            narrow, narrowed = narrow_inputs(typed)
            typed = passes.run("int32_inputs", typed, lambda _: PassResult(narrow))
        seconds = time.perf_counter() - started - fusing
        before_checks = time.perf_counter()
        checks = self._verify(loaded, typed, fusion, changed=typed is not loaded)
        refused = checks.get("typed", {})
        if refused.get("passed") is False:
            raise ConversionError(
                f"the {self.precision} model that was made is refused: {refused['reason']}; keep the node named "
                "there in FP32 (--keep-fp32), and report the model"
            )
        checks["seconds"] = round(fusing + time.perf_counter() - before_checks, 3)
        report = build_report(
            source=self.source,
            source_index=index,
            model=model,
            fusion=fusion,
            assignment=assignment,
            types=table,
            result=result,
            verification=checks,
            narrowed=narrowed,
            precision=self.precision,
            notes=reasons,
            seconds=seconds,
        )
        report["fused"] += [{"kind": "attention", "nodes": [name]} for name in attentions.fused]
        report["passes"] = passes.done
        return RewriteResult(typed, report, assignment, self.source, model, decisions)

    def _attentions(self) -> VerifiedAttention:
        """Attentions as one node, where that was asked for."""
        if "attention" not in self.kinds:
            return VerifiedAttention(self.source)
        return verified_attention(self.source, self.inputs, verify=self.verify)

    def _needed_kinds(self) -> tuple[str, ...]:
        """The pattern kinds that are fused or that a selector names; recognizing all of them takes time."""
        named = selected_kinds((*self.keep_fp32, *self.keep_bf16, *self.keep_sum32, *self.only_low))
        return tuple(dict.fromkeys((*self.kinds, *named)))

    def _options(self) -> TypingOptions | None:
        if self.precision == "fp32":
            return None
        precision: Precision = self.precision  # type: ignore[assignment]
        return TypingOptions(precision, self.io_types, self.keep_as, self.plugins, refused=self.refused)

    def _safeguards(self, index: GraphIndex, types: TypeTable) -> tuple[dict[NodeId, Decision], list[str]]:
        if not self.safe or self.precision == "fp32":
            return {}, []
        return safeguards(
            self.source, index, types, self.precision, inputs=self.inputs, constants=self.weights == "auto"
        )

    def _fuse(self, index: GraphIndex, matches: Sequence[Match]) -> FusionResult:
        if not self.kinds:
            return FusionResult(self.source, opset=self.source.opset)
        if not self.verify:
            return fuse(self.source, matches, kinds=self.kinds, index=index)
        batches = None if self.inputs is None else load_inputs(self.inputs, self.source)
        return fuse_verified(self.source, matches, kinds=self.kinds, inputs=batches, index=index)

    # decisions

    def _decisions(self, index: GraphIndex, matches: Sequence[Match]) -> dict[NodeId, Decision]:
        """Decisions about the nodes of the input model; later ones win."""
        found = dict(self.given)
        selector = Selector(self.source, index, matches)
        if self.only_low:
            chosen = selector.select(*self.only_low)
            for scope, position, node in index.nodes():
                identity = index.node_id(scope, position)
                if identity in chosen:
                    if self.precision in ("fp16", "bf16"):
                        found[identity] = Decision(self.precision, "named by --only-low", binding=True)  # type: ignore[arg-type]
                elif not moves_values(node) and not row_of(node).generates and node.op_type != "Constant":
                    found[identity] = Decision("fp32", "not named by --only-low", keep_as=self.keep_as, binding=True)
        for identity in self._summing(index, selector):
            reason = f"selected by --keep-sum32 {','.join(self.keep_sum32)}"
            found[identity] = Decision("fp16+", reason, binding=True)
        for identity in selector.select(*self.keep_bf16):
            found[identity] = Decision("bf16", f"selected by --keep-bf16 {','.join(self.keep_bf16)}", binding=True)
        for wanted in self.keep_fp32:
            reason = f"selected by --keep-fp32 {wanted}"
            for identity in selector.select(wanted):
                found[identity] = Decision("fp32", reason, keep_as=self.keep_as, binding=True)
        return found

    def _summing(self, index: GraphIndex, selector: Selector) -> list[NodeId]:
        """The products that --keep-sum32 names; an error where it names none."""
        if not self.keep_sum32:
            return []
        chosen = selector.select(*self.keep_sum32)
        places = ((identity, index.find(identity)) for identity in chosen)
        found = [i for i, at in places if at is not None and sums_are_promised(at[0].nodes[at[1]])]
        if not found:
            raise SelectorError(
                f"--keep-sum32 {','.join(self.keep_sum32)} names no product: sums are promised for "
                "MatMul, Gemm, Conv and ConvTranspose"
            )
        if self.precision != "fp16":
            raise ConversionError(f"--keep-sum32 is for --precision fp16; products in {self.precision} sum in FP32")
        return found

    def _promise_sums(self, result: ConvertResult, assignment: TypeAssignment) -> ConvertResult:
        """FP32 sums and FP32 islands, written so that a builder does what the types say."""
        places = [(n.node.scope, n.node.output) for n in assignment.sums32]
        promised = promise_sums(result.model, [(path, result.renamed.get((path, v), v)) for path, v in places])
        kept = keep_islands(promised.model, self.islands)
        return replace(result, model=kept.model, casts=result.casts + promised.casts)

    # opset

    def _raise_for_bf16(self, model: Model, decisions: Mapping[NodeId, Decision]) -> tuple[Model, list[str]]:
        """Raise the opset where a node that is to compute in BF16 has it only there."""
        everything = self.precision == "bf16"
        if model.opset >= BF16_OPSET or not (everything or any(d.precision == "bf16" for d in decisions.values())):
            return model, []
        index = GraphIndex(model.proto)

        def wanted(scope: Scope, position: int) -> bool:
            decision = decisions.get(index.node_id(scope, position))
            return everything if decision is None else decision.precision == "bf16"

        gains = any(
            wanted(scope, position) and _gains_bf16(model, node, opset_of(model.proto, scope, ""))
            for scope, position, node in index.nodes()
        )
        if not gains:
            return model, []
        raised = raise_opset(model, BF16_OPSET)
        return raised.model, ([raised.reason] if raised.reason else [])

    def _check(self, assignment: TypeAssignment) -> None:
        """Nothing converted is an error, unless the user kept everything or the model was low before."""
        if assignment.converted:
            return
        kept = assignment.kept
        asked = self.keep_fp32 or self.only_low or self.given
        if (
            kept
            and asked
            and all(node.decided or node.forced or node.moves for node in kept)
            and any(node.decided for node in kept)
        ):
            return
        if _is_low_already(self.source, assignment.options.low):
            return
        if not kept:
            raise ConversionError(
                f"nothing was converted to {self.precision}: the model computes nothing in FP32; "
                "check that this is the model you mean"
            )
        reasons: dict[str, int] = {}
        for node in kept:
            reasons[node.reason] = reasons.get(node.reason, 0) + 1
        most = max(reasons, key=lambda reason: reasons[reason])
        raise ConversionError(
            f"nothing was converted to {self.precision}: {len(kept)} nodes stay FP32, {reasons[most]} of them because: "
            f"{most}; keep fewer nodes, or leave the model as it is"
        )

    def _as_plugins(self, model: Model) -> Model:
        return write_layernorms(model, self.layernorm)

    # verification

    def _verify(self, loaded: Model, typed: Model, fusion: FusionResult, *, changed: bool) -> dict[str, Any]:
        if not self.verify:
            return {"max_abs": None, "passed": None, "reason": "switched off by --no-verify"}
        if not changed:
            return {"max_abs": 0.0, "passed": True, "reason": "nothing was changed"}
        if self.layernorm != "onnx":
            reason = "onnxruntime has no TensorRT plugins; checked by structure only"
            return summarize(fusion.verification, {"passed": None, "reason": reason})
        return summarize(fusion.verification, verify_typed(loaded, typed))


def write_layernorms(model: Model, form: str) -> Model:
    """LayerNormalization as `--layernorm` says: "onnx" (as it is) or "plugin:NAME".

    Raises:
      ConversionError: another form, or a plugin and no LayerNormalization that can be written so.
    """
    kind, _, name = form.partition(":")
    if kind == "onnx" and not name:
        return model
    if kind != "plugin" or not name:
        raise ConversionError(f"--layernorm {form!r} is unknown; use onnx or plugin:NAME")
    return apply_plugin_layernorm(model, None, name).model


def _carry(
    decisions: Mapping[NodeId, Decision], fusion: FusionResult, before: GraphIndex, keep_as: KeepAs | None
) -> dict[NodeId, Decision]:
    """Decisions about the nodes of the fused model: a fused node inherits from what it replaced."""
    carried = dict(decisions)
    after = GraphIndex(fusion.model.proto)
    by_output = {
        (scope.path, name): after.node_id(scope, p) for scope, p, node in after.nodes() for name in node.output
    }
    for match in fusion.fused:
        found = [decisions[node] for node in match.nodes if node in decisions]
        target = by_output.get((match.scope, match.output))
        if found and target is not None:
            strongest = next((d for d in found if d.precision == "fp32"), found[0])
            for name in _written(fusion, match, target, before, after):
                carried[name] = strongest
    for match, reason in fusion.islands:
        for node in match.nodes:
            carried.setdefault(
                node, Decision("fp32", f"{match.kind} not fused: {reason}", keep_as=keep_as, binding=True)
            )
    return carried


def _written(fusion: FusionResult, match: Match, target: NodeId, before: GraphIndex, after: GraphIndex) -> set[NodeId]:
    """The nodes that stand where a match stood: what the names map to, and what makes its output."""
    names = {fusion.names.get(before.display(node), "") for node in match.nodes} - {""}
    written = {target}
    scope = after.by_path.get(match.scope)
    if scope is not None:
        written |= {after.node_id(scope, at) for at, node in enumerate(scope.nodes) if node.name in names}
    return written


def _gains_bf16(model: Model, node: onnx.NodeProto, opset: int) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    now, later = op_types(node.op_type, "", opset), op_types(node.op_type, "", BF16_OPSET)
    if now is None or later is None or not now.outputs or not later.outputs:
        return False
    brain = onnx.TensorProto.BFLOAT16
    return brain not in now.outputs[0].elements and brain in later.outputs[0].elements


def _is_low_already(model: Model, element: int) -> bool:
    """Whether a model computes in the low type as it comes."""
    index = GraphIndex(model.proto)
    elements = find_elements(model, index)
    return any(
        node.op_type != "Constant"
        and not carries(node, 0, RESHAPES)
        and any(elements.of(index, scope, output).elem_type == element for output in node.output)
        for scope, _, node in index.nodes()
    )


def default_output(path: str | os.PathLike[str], precision: str) -> Path:
    """Where `planner rewrite` writes without -o: ``model.fp16.onnx`` beside ``model.onnx``."""
    source = Path(path)
    stem = source.name.removesuffix(".onnx")
    return source.with_name(f"{stem}.{precision}.onnx")
