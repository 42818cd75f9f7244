"""What a plan asked for and what its engine has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from precision_planner.emitting.attention import AttentionReport
from precision_planner.emitting.building import BuildRun
from precision_planner.engines.asking import asked_weights
from precision_planner.engines.buildlog import PrecisionWarning, precision_warnings
from precision_planner.engines.engine_file import has_gpu, read_engine
from precision_planner.engines.inspection import Inspection, inspect_layers
from precision_planner.engines.kernels import Kernel, parse_kernels
from precision_planner.engines.layers import EngineInfo, EngineLayer, EngineTensor, type_of
from precision_planner.engines.weights import WeightEvidence, find_weights
from precision_planner.errors import EngineError, MissingExtraError
from precision_planner.model import Model
from precision_planner.plans.plan import PlannedNode, PrecisionPlan

_NETWORK_TYPES = {"HALF": "fp16", "FLOAT": "fp32", "BF16": "bf16"}


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """What was asked of a node and what became of it.

    Attributes:
      node: its name.
      op_type: its operator.
      asked: 'fp16', 'fp16+', 'bf16' or 'fp32'.
      keep_as: 'compute', 'island' or ''.
      network: the types its layers write in the parsed network; empty where it became no layer (folded away).
      kernels: the engine's layers that compute it.
      engine: the float types these write.
      met: whether what was asked is what is there; None where nothing tells.
    """

    node: str
    op_type: str
    asked: str
    keep_as: str
    network: tuple[str, ...]
    kernels: tuple[str, ...]
    engine: tuple[str, ...]
    met: bool | None


@dataclass(frozen=True, slots=True, repr=False)
class BuildReport:
    """One build, judged.

    Attributes:
      run: the build.
      outcomes: every node of the plan that handles floats.
      constraints: for a weak plan: [{node, outputs, precision, output_type, layers}], all of them matched.
      kernels: the engine's layers in execution order; empty where they were not seen.
      inspection: shares and islands; None without kernels.
      warnings: the builder's, about precision.
      attention: against plain FP16; None where it was not asked or cannot be told.
      source: where the kernels come from: 'inspector', 'builder log' or ''.
      weights: what the engine's bytes say of the weights that the plan keeps in FP32 or BF16.
    """

    run: BuildRun
    outcomes: tuple[NodeOutcome, ...] = ()
    constraints: tuple[Mapping[str, Any], ...] = ()
    kernels: tuple[EngineLayer, ...] = ()
    inspection: Inspection | None = None
    warnings: tuple[PrecisionWarning, ...] = ()
    attention: AttentionReport | None = None
    source: str = ""
    weights: tuple[WeightEvidence, ...] = ()

    @property
    def lost(self) -> tuple[WeightEvidence, ...]:
        """Weights that the plan keeps and the engine holds rounded."""
        return tuple(weight for weight in self.weights if weight.verdict == "rounded")

    @property
    def unmet(self) -> tuple[NodeOutcome, ...]:
        """Nodes that are not what was asked."""
        return tuple(outcome for outcome in self.outcomes if outcome.met is False)

    def __repr__(self) -> str:
        built = "not built" if self.run.engine is None else f"{len(self.unmet)} nodes not as asked"
        return f"<BuildReport for {self.run.plan.target}: {built}>"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        attention = self.attention
        return {
            "schema_version": 1,
            "kind": "build",
            "target": self.run.plan.target,
            "built_with": self.run.module,
            "tensorrt": self.run.network.get("tensorrt"),
            "engine": None if self.run.engine is None else str(self.run.engine),
            "ok": self.run.engine is not None,
            "reason": self.run.reason,
            "note": self.run.note,
            "asked": dict(Counter(outcome.asked for outcome in self.outcomes)),
            "met": sum(outcome.met is True for outcome in self.outcomes),
            "unmet": [_outcome_dict(outcome) for outcome in self.unmet],
            "folded": sum(outcome.met is None for outcome in self.outcomes),
            "nodes": [_outcome_dict(outcome) for outcome in self.outcomes],
            "constraints": [dict(entry) for entry in self.constraints],
            "kernels": self.inspection.to_dict()["kernels"] if self.inspection else [],
            "kernels_from": self.source,
            "by_layers": self.inspection.by_layers if self.inspection else {},
            "weights": [weight.to_dict() for weight in self.weights],
            "warnings": [{"text": warning.text, "tensors": list(warning.tensors)} for warning in self.warnings],
            "fused_attention": None
            if attention is None
            else {
                "planned": attention.planned,
                "plain": attention.plain,
                "lost": attention.lost,
                "reason": attention.reason,
                "costs": [{"nodes": c.nodes, "reason": c.reason, "kernels": c.kernels} for c in attention.costs],
                "regions_not_tried": attention.untried,
            },
        }


def _outcome_dict(outcome: NodeOutcome) -> dict[str, Any]:
    return {
        "node": outcome.node,
        "op_type": outcome.op_type,
        "asked": outcome.asked,
        "keep_as": outcome.keep_as,
        "network": list(outcome.network),
        "engine": list(outcome.engine),
        "kernels": list(outcome.kernels),
        "met": outcome.met,
    }


def judge_build(run: BuildRun, model: Model | None = None) -> BuildReport:
    """Compare a build with its plan; the attention comparison is left out (see `with_attention`).

    Args:
      run: the build.
      model: what was built: its initializers give the builder's warnings their ONNX names, and its weights are looked
        for in the engine's bytes.
    """
    names = [] if model is None else [tensor.name for tensor in model.proto.graph.initializer]
    warnings = precision_warnings(run.log, names)
    if run.engine is None:
        return BuildReport(run, warnings=warnings)
    kernels, source = _kernels(run)
    info = EngineInfo(kernels, str(run.engine))
    return BuildReport(
        run=run,
        outcomes=tuple(node_outcomes(run.plan, run.network, kernels)),
        constraints=tuple(run.network.get("constraints", ())),
        kernels=kernels,
        inspection=inspect_layers(info) if kernels else None,
        warnings=warnings,
        source=source,
        weights=() if model is None else find_weights(run.engine, asked_weights(model, _weak_plan(run.plan))),
    )


def _weak_plan(plan: PrecisionPlan) -> PrecisionPlan | None:
    """The plan where it and not the model's types says what is kept."""
    return plan if plan.typing == "weak" else None


def logged_kernels(log: Sequence[str]) -> tuple[Kernel, ...]:
    """The last listing of kernels in a log, empty where there is none."""
    starts = [number for number, line in enumerate(log) if line.endswith("Layers:")]
    if not starts:
        return ()
    listing = []
    for line in log[starts[-1] + 1 :]:
        if not line.strip().startswith("Name: "):
            break
        listing.append(line.strip())
    return parse_kernels("Layers:\n" + "\n".join(listing), strict=False)


def _kernels(run: BuildRun) -> tuple[tuple[EngineLayer, ...], str]:
    if run.engine is not None and has_gpu():
        try:
            info = read_engine(
                run.engine,
                plugins=run.plan.build.get("plugins") or (),
                folder=run.folder,
                host_code=bool(run.plan.build.get("version_compatible")),
            )
        except (EngineError, MissingExtraError):
            info = None  # built for another GPU than this one: the log has to do
        if info is not None and not info.names_only:
            return info.layers, "inspector"
    return tuple(_as_layer(kernel) for kernel in logged_kernels(run.log)), "builder log"


def _as_layer(kernel: Kernel) -> EngineLayer:
    def tensors(items: Any) -> tuple[EngineTensor, ...]:
        return tuple(EngineTensor(tensor.name, type_of(tensor.dtype)) for tensor in items)

    return EngineLayer(
        kernel.name, kernel.kind, tensors(kernel.inputs), tensors(kernel.outputs), kernel.tactic, kernel.nodes
    )


def node_outcomes(plan: PrecisionPlan, network: Mapping[str, Any], kernels: Sequence[EngineLayer]) -> list[NodeOutcome]:
    """What became of each node of the plan."""
    written: dict[str, list[str]] = {}
    for layer in network.get("layers", ()):
        types = [_NETWORK_TYPES[kind] for kind in layer["types"] if kind in _NETWORK_TYPES]
        for name in (*layer["nodes"], *layer["outputs"]):
            written.setdefault(name, []).extend(types)
    computed: dict[str, list[EngineLayer]] = {}
    for kernel in kernels:
        for name in kernel.nodes:
            computed.setdefault(name, []).append(kernel)
    constrained = {(entry["node"], tuple(entry["outputs"])[:1]) for entry in network.get("constraints", ())}
    return [_outcome(plan, node, written, computed, constrained) for node in plan.nodes if node.precision]


def _outcome(
    plan: PrecisionPlan,
    node: PlannedNode,
    written: Mapping[str, list[str]],
    computed: Mapping[str, list[EngineLayer]],
    constrained: set[tuple[str, tuple[str, ...]]],
) -> NodeOutcome:
    named = bool(node.node) and not re.fullmatch(r"[\w.]+\(.*\)", node.node)
    name = node.node if named else f"node_of_{node.output}"
    network = tuple(sorted(set(written.get(name) or written.get(node.output) or [])))
    layers = computed.get(name, [])
    engine = tuple(sorted({layer.precision for layer in layers if layer.precision not in ("", "int")}))
    if plan.typing == "strong":
        met = _met_strong(node, network)
    else:
        is_constrained = ((node.node if named else ""), (node.output,)) in constrained
        met = _met_weak(node, engine, is_constrained)
    return NodeOutcome(
        node.node, node.op_type, node.precision, node.keep_as, network, tuple(k.name for k in layers), engine, met
    )


def _met_strong(node: PlannedNode, network: tuple[str, ...]) -> bool | None:
    """A strongly typed network is what the engine computes: its types are the proof."""
    if not network:
        return None  # folded into constants, or integers alone
    if node.precision == "fp32" and node.keep_as == "compute":
        return True  # stored low, computed in FP32: the normalization layer does so by itself
    if node.precision == "fp16+":
        return "fp32" in network  # the product between Casts writes FP32 into the second of them
    return node.precision in network


def _met_weak(node: PlannedNode, engine: tuple[str, ...], is_constrained: bool) -> bool | None:
    """A constraint that matched under "obey" holds or the build fails; a low node is the builder's free choice."""
    if node.precision in ("fp32", "fp16+") and is_constrained:
        return True
    return (node.precision in engine or "mixed" in engine) if engine else None


def with_attention(report: BuildReport, attention: AttentionReport) -> BuildReport:
    """The report with its comparison of fused attention."""
    return BuildReport(
        report.run,
        report.outcomes,
        report.constraints,
        report.kernels,
        report.inspection,
        report.warnings,
        attention,
        report.source,
        report.weights,
    )
