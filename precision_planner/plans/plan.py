"""The `PrecisionPlan`: what is decided for every node, why, and for which build. Versioned JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from precision_planner._reading import parse_json
from precision_planner.errors import PlanError
from precision_planner.reporting.schemas import published_schema
from precision_planner.targets import facts_for_scripts, get_target

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """The decision for one node of the planned model.

    Attributes:
      node: what to call it: its name, or ``OpType(output)``.
      op_type: its operator, with the domain where it is not ONNX's own.
      scope: the path of the body it stands in, empty in the main graph.
      output: its first output; with `scope`, its identity.
      precision: 'fp16', 'fp16+' (halves, summed in FP32), 'bf16', 'fp32', or '' for a node that handles no floats.
      keep_as: 'compute' (low inputs and outputs, FP32 inside) or 'island' (FP32 in and out), for a node kept in FP32.
      reason: why, in a sentence; '' for a node that simply follows the default.
      rule: the rule that decided, None where none did.
      evidence: the numbers behind the decision.
    """

    node: str
    op_type: str
    scope: tuple[str, ...]
    output: str
    precision: str
    keep_as: str = ""
    reason: str = ""
    rule: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a weakly typed build must apply to the layers of one node.

    Attributes:
      node: the ONNX node's name, '' where it has none.
      outputs: its outputs, by which its layers are found where TensorRT does not know the name.
      precision: the layer precision: 'fp32', 'bf16' in a plan for FP16, or the plan's own where that is held, too.
      output_type: the layer output type, the same: a layer computed in FP32 may otherwise still store FP16.
    """

    node: str
    outputs: tuple[str, ...]
    precision: str = "fp32"
    output_type: str = "fp32"


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes of one input that the engine is built for: smallest, usual, longest."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrecisionPlan:
    """One decision about a model's precision, for one target.

    Attributes:
      model: facts about the input: file name, opset, nodes, bytes.
      target: the target's name; its typing is in `typing`.
      precision: the low precision asked for: 'fp16' or 'bf16'.
      nodes: every node that handles floats, in the order of the graph.
      fusions: patterns replaced by native operators: {kind, nodes, into}.
      rejected: patterns recognized and not replaced: {kind, nodes, reason}.
      repairs: rewrites that keep the FP32 function and cure a finding: {repair, rule, nodes}.
      weights: values that do not survive the cast unchanged: {name, policy, changed, ...}.
      casts: boundary Casts inserted.
      constraints: for a weak target.
      interface: {inputs, outputs}: name -> {dtype, shape} of the planned model.
      profiles: input -> smallest, usual, longest shape.
      build: builder settings: tf32, workspace_bytes, optimization_level, version_compatible, plugins, ...
      predicted: output -> metric -> value, by honest simulation on `inputs`.
      distribution: what the prediction spreads over (`planning.spread`): {draws, share, batches, quantiles: output ->
        metric -> value, passed, reason}; empty where nothing was simulated.
      tolerance: the bounds asked for: [{output, metric, bound}].
      inputs: where the data came from: {source, synthesized, batches}.
      findings: what the rules said of the input model.
      refused: nodes that the target does not take: {node, op_type, reason, instead, source}.
      known_defects: where its builder is known to go wrong: {key, title, nodes, symptom, breaker, reference}.
      passed: whether the prediction meets the tolerance; None where there was nothing to compare.
      verification: of the typed model, as in the report of `planner rewrite`.
      verdict: what the prediction means: {grade, sentence, judged_on, first_wrong}.
      metrics: one's own metrics, name -> {file in the plan's folder, function}.
      judging: which outputs hold boxes or classes, for verify.py.
      search: what the search measured (see `SearchReport.data`); empty where there was none.
      rewriting: how the model is rewritten, beside the nodes: {fuse, surgery, inlined, io_types, int32_inputs, weights,
        layernorm, plugins}; with it the plan can be applied.
    """

    model: Mapping[str, Any]
    target: str
    typing: str
    precision: str
    nodes: tuple[PlannedNode, ...]
    fusions: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Mapping[str, Any], ...] = ()
    repairs: tuple[Mapping[str, Any], ...] = ()
    weights: tuple[Mapping[str, Any], ...] = ()
    casts: int = 0
    constraints: tuple[Constraint, ...] = ()
    interface: Mapping[str, Any] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    build: Mapping[str, Any] = field(default_factory=dict)
    predicted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    distribution: Mapping[str, Any] = field(default_factory=dict)
    tolerance: tuple[Mapping[str, Any], ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Mapping[str, Any], ...] = ()
    refused: tuple[Mapping[str, Any], ...] = ()
    known_defects: tuple[Mapping[str, Any], ...] = ()
    passed: bool | None = None
    verification: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] | None = None
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    judging: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    rewriting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[PlannedNode, ...]:
        """The nodes that stay above the low precision, by decision."""
        return tuple(node for node in self.nodes if node.precision == "fp32" and node.reason)

    @property
    def counts(self) -> dict[str, int]:
        """Nodes by precision."""
        found: dict[str, int] = {}
        for node in self.nodes:
            found[node.precision] = found.get(node.precision, 0) + 1
        return dict(sorted(found.items()))

    @property
    def tf32_instead(self) -> str:
        """Where FP32 with TF32 throughout is estimated to be as fast: whether that met the tolerance; else ''.

        Kept products and the Casts around them may cost more than 16 bits save elsewhere. Nothing is said of TF32's
        error where it was not simulated.
        """
        here, throughout = (self.search.get(name, 0.0) for name in ("cost_us", "tf32_us"))
        alone = self.search.get("tf32_alone")
        if not get_target(self.target).has_builder or not self.kept or alone is None or not 0.0 < throughout <= here:
            return ""
        values = ", ".join(f"{name} {value}" for name, value in alone.items() if name not in ("passed", "nonfinite"))
        said = "by the search's estimate FP32 with TF32 throughout is no slower than this plan"
        if not alone["passed"]:
            return f"{said}, but misses the tolerance as simulated: {values}"
        return (
            f"{said} and meets the tolerance as simulated ({values}): compare the two builds before you take this one"
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON data; keys as in the published schema, order fixed."""
        data = _plain(asdict(self))
        facts = facts_for_scripts(get_target(self.target))
        return {"schema_version": SCHEMA_VERSION, "kind": "precision_plan", **data, "target_facts": facts}

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} nodes in {name.upper()}" for name, count in self.counts.items() if name)
        told = {True: "; within tolerance", False: "; BEYOND tolerance", None: ""}[self.passed]
        return f"<PrecisionPlan of {self.model.get('name', 'a model')} for {self.target}: {counts}{told}>"

    def _repr_html_(self) -> str:
        counts = ", ".join(f"{count} nodes in {name.upper()}" for name, count in self.counts.items() if name)
        from precision_planner.reporting.notebook import notebook_html

        return notebook_html(self.to_dict(), f"<p>{counts}; {self.casts} Casts, for {self.target}</p>")

    def to_json(self) -> str:
        """The plan as text: stable, so that two plans can be compared line by line."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> PrecisionPlan:
        """Read a plan back; PlanError for what does not follow the schema."""
        check_plan(data)
        fields = {key: value for key, value in data.items() if key in PrecisionPlan.__dataclass_fields__}
        fields["nodes"] = tuple(PlannedNode(**{**node, "scope": tuple(node["scope"])}) for node in data["nodes"])
        fields["constraints"] = tuple(
            Constraint(**{**entry, "outputs": tuple(entry["outputs"])}) for entry in data.get("constraints", ())
        )
        fields["profiles"] = {
            name: Profile(**{key: tuple(shape) for key, shape in profile.items()})
            for name, profile in data.get("profiles", {}).items()
        }
        for name in ("fusions", "rejected", "repairs", "weights", "tolerance", "findings", "refused", "known_defects"):
            fields[name] = tuple(data.get(name, ()))
        return PrecisionPlan(**fields)

    @staticmethod
    def from_json(text: str) -> PrecisionPlan:
        """Read a plan back; PlanError for what is no JSON or no plan."""
        try:
            data = parse_json(text)
        except ValueError as error:
            raise PlanError(f"the plan is not JSON ({error}); run planner plan again") from None
        if not isinstance(data, dict):
            raise PlanError("the plan is not a JSON object; run planner plan again")
        return PrecisionPlan.from_dict(data)


def plan_schema() -> dict[str, Any]:
    """The published JSON schema of plan.json."""
    return published_schema("plan")


def check_plan(data: Mapping[str, Any]) -> None:
    """Raise PlanError, naming the place, for data that does not follow the schema."""
    import jsonschema

    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise PlanError(f"this plan has schema version {version}, this planner reads {SCHEMA_VERSION}; plan again")
    error = next(iter(jsonschema.Draft202012Validator(plan_schema()).iter_errors(data)), None)
    if error is not None:
        place = "/".join(map(str, error.absolute_path)) or "the top"
        raise PlanError(f"the plan is broken at {place}: {error.message}; run planner plan again")


def _plain(value: Any) -> Any:
    """JSON data: tuples as lists, non-finite numbers as strings (JSON has none)."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return _plain(value.item())
    return value
