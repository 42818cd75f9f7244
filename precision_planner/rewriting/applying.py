"""A plan is a value that is applied: the decisions in a plan.json, saved or edited by hand, carried out on its model.

1. The repairs that the plan records are carried out again, each with the parameters and the measurements it went by.
2. Every node gets the precision that the plan says, and nothing else decides: neither rules nor a search, and no data
   is needed. A node that only moved values between FP32 neighbors follows them again.
3. What the plan says of a node that is not there, or is another operator there, is an error that names the node.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from precision_planner.errors import PlanError
from precision_planner.model import GraphIndex, Model, NodeId, display_name
from precision_planner.model.inline import inline_functions
from precision_planner.operators import is_comparison, is_conversion, is_generator, moves_values
from precision_planner.patterns import find_patterns
from precision_planner.plans import PlannedNode, PrecisionPlan
from precision_planner.rewriting.plugins import parse_plugins
from precision_planner.rewriting.rewrite import RewriteResult, rewrite
from precision_planner.rewriting.surgery import run_surgery
from precision_planner.targets import get_target
from precision_planner.transforms.repairs import REPAIRS, RepairRequest, apply_repairs
from precision_planner.typing import Decision
from precision_planner.typing.result import BETWEEN_NEIGHBORS

__all__ = ["apply", "load_plan"]


def load_plan(plan: PrecisionPlan | Mapping[str, Any] | str | os.PathLike[str]) -> PrecisionPlan:
    """A plan from its file, its folder or its JSON data.

    Raises:
      PlanError: there is no such file, or what is in it is no plan.
    """
    if isinstance(plan, PrecisionPlan):
        return plan
    if isinstance(plan, Mapping):
        return PrecisionPlan.from_dict(plan)
    path = Path(plan)
    path = path / "plan.json" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read as a plan ({error}); give a plan.json, or a plan's folder") from None
    return PrecisionPlan.from_json(text)


def apply(
    model: Model | onnx.ModelProto | str | os.PathLike[str],
    plan: PrecisionPlan | Mapping[str, Any] | str | os.PathLike[str],
    *,
    inputs: object = None,
    verify: bool = True,
) -> RewriteResult:
    """Rewrite a model as a plan says.

    Args:
      model: the model that was planned.
      plan: a `PrecisionPlan`, a plan.json, a plan's folder, or its data.
      inputs: data for the comparison of fused and original model; synthesized where None.
      verify: compare the fused model and load the typed one in onnxruntime.

    Returns:
      The typed model and its report; what is computed otherwise than planned is among the report's notes.

    Raises:
      PlanError: the plan is none, or does not fit the model; the message says where.
    """
    planned = load_plan(plan)
    prepared = _prepared(Model.load(model), planned)
    source = _repaired(prepared, planned)
    recipe = planned.rewriting
    target = get_target(planned.target)
    result = rewrite(
        source,
        precision=planned.precision,
        fuse=tuple(recipe.get("fuse", ("layernorm",))),
        decisions=dict(_decisions(source, planned)),
        io_types=str(recipe.get("io_types", "keep")),
        int32_inputs=bool(recipe.get("int32_inputs", False)),
        weights=str(recipe.get("weights", "auto")),
        layernorm=str(recipe.get("layernorm", "onnx")),
        plugins=parse_plugins(recipe.get("plugins", ())),
        islands=target.islands if target.strong else None,
        refused=target.refused,
        inputs=inputs,
        verify=verify,
        safe=False,
    )
    notes = list(_differences(result, planned))
    # what the result is judged against is the model before its repairs
    return replace(result, source=prepared, report={**result.report, "notes": [*result.report["notes"], *notes]})


def _prepared(model: Model, plan: PrecisionPlan) -> Model:
    """The model as it was planned: of the right size, after surgery, its functions inlined where the plan's were."""
    here = sum(len(scope.nodes) for scope in GraphIndex(model.proto).scopes)
    for what, found, wanted in (
        ("nodes", here, plan.model.get("nodes")),
        ("opset", model.opset, plan.model.get("opset")),
    ):
        if wanted is not None and wanted != found:
            raise PlanError(
                f"the plan was made for {plan.model.get('name', 'a model')} with {what} {wanted}, "
                f"this model has {found}; give that model, or plan this one"
            )
    surgery = plan.rewriting.get("surgery")
    if surgery:
        model = run_surgery(model, str(surgery))
    return inline_functions(model) if plan.rewriting.get("inlined") else model


def _repaired(model: Model, plan: PrecisionPlan) -> Model:
    for entry in plan.repairs:
        at = entry.get("at")
        name = str(entry.get("repair"))
        if not isinstance(at, Mapping) or name not in REPAIRS:
            raise PlanError(
                f"the plan records a repair {name} at {', '.join(entry.get('nodes', ()))} "
                "without saying how it was done; plan the model again with this version"
            )
        scope = tuple(at["scope"])
        request = RepairRequest(
            name,
            scope,
            tuple(NodeId(tuple(path), output) for path, output in at["nodes"]),
            str(at["value"]),
            dict(at["parameters"]),
            _match(model, scope, at["pattern"]) if at["pattern"] else None,
            str(entry.get("rule", "")),
        )
        result = apply_repairs(model, [request], {(scope, value): amax for value, amax in at["amax"].items()})
        if not result.applied:
            why = result.refused[0][1] if result.refused else "it does not apply"
            raise PlanError(
                f"the plan's repair {name} at {', '.join(entry['nodes'])} cannot be carried out here: {why}"
            )
        model = result.model
    return model


def _match(model: Model, scope: tuple[str, ...], pattern: Mapping[str, str]) -> Any:
    found = find_patterns(model, kinds=[pattern["kind"]])
    return next((one for one in found if one.scope == scope and one.output == pattern["output"]), None)


def _decisions(model: Model, plan: PrecisionPlan) -> Iterator[tuple[NodeId, Decision]]:
    index = GraphIndex(model.proto)
    for node in plan.nodes:
        identity = NodeId(node.scope, node.output)
        if not node.precision or node.reason == BETWEEN_NEIGHBORS:
            continue
        if node.precision == plan.precision and _follows(index, identity):
            continue
        keep_as = node.keep_as if node.precision == "fp32" and node.keep_as else None
        reason = node.reason or f"{node.precision} in the plan"
        yield identity, Decision(node.precision, reason, node.rule, keep_as, node.evidence, binding=True)  # type: ignore[arg-type]


def _follows(index: GraphIndex, identity: NodeId) -> bool:
    """Whether a node takes the type of what stands around it, as whatever only moves values does."""
    place = index.find(identity)
    if place is None:
        return False
    node = place[0].nodes[place[1]]
    return moves_values(node) or is_conversion(node) or is_generator(node) or is_comparison(node)


def _differences(result: RewriteResult, plan: PrecisionPlan) -> Iterator[str]:
    """What is computed otherwise than planned; PlanError for a node that is not there."""
    assert result.assignment is not None
    index = GraphIndex(result.fused.proto)
    for node in plan.nodes:
        identity = NodeId(node.scope, node.output)
        place = index.find(identity)
        if place is None or _op_type(place[0].nodes[place[1]]) != node.op_type:
            raise PlanError(_misfit(node, None if place is None else place[0].nodes[place[1]]))
        typing = result.assignment.nodes.get(identity)
        if typing is not None and typing.compute != node.precision and not typing.moves:
            why = f": {typing.reason}" if typing.reason else ""
            yield f"{node.node} is {typing.compute}, not {node.precision} as in the plan{why}"


def _op_type(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _misfit(planned: PlannedNode, found: onnx.NodeProto | None) -> str:
    where = f"'{planned.output}'" + (f" in {'/'.join(planned.scope)}" if planned.scope else "")
    here = "no node of this model makes that" if found is None else f"here {display_name(found)} is {_op_type(found)}"
    told = f"its node {planned.node} is {planned.op_type} and makes {where}"
    return f"the plan does not fit: {told}; {here}; plan this model"
