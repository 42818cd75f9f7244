"""Which alternative of a rule's action can be taken: the first one that the graph and the target allow."""

from __future__ import annotations

from dataclasses import replace

import onnx

from precision_planner.model import NodeId
from precision_planner.rules.facts.evidence import Subject
from precision_planner.rules.facts.model_facts import ModelFacts
from precision_planner.rules.facts.node_sets import resolve_nodes
from precision_planner.rules.facts.resolution import too_coarse_for_bf16
from precision_planner.rules.language.rule import ActionSpec, Rule
from precision_planner.targets import get_target
from precision_planner.transforms.repairs import REPAIRS, Site

__all__ = ["BF16_OPSET", "first_possible", "runs_in_bf16"]

BF16_OPSET = 22
"""The opset from which Conv, pooling and InstanceNormalization take bfloat16; the conversion raises to it."""
_WARN = ActionSpec("warn")


def first_possible(
    rule: Rule, subject: Subject, facts: ModelFacts, constants: dict[str, float]
) -> tuple[ActionSpec, tuple[NodeId, ...], tuple[tuple[str, str], ...]]:
    """The first alternative that can be taken, its nodes, and why those before it cannot.

    Args:
      rule: the rule that fired.
      subject: on what.
      facts: the model.
      constants: named numbers, for alternatives with a condition.

    Returns:
      `warn` on the subject's own nodes where no alternative can be taken.
    """
    skipped: list[tuple[str, str]] = []
    for written in rule.actions:
        spec = _with_numbers(written, constants)
        nodes = resolve_nodes(facts, subject, spec.nodes)
        reason = _refusal(spec, nodes, subject, facts, constants)
        if not reason:
            return spec, nodes, tuple(skipped)
        skipped.append((spec.repair or spec.kind, reason))
    return _WARN, subject.node_ids(facts.source.index), tuple(skipped)


def _with_numbers(spec: ActionSpec, constants: dict[str, float]) -> ActionSpec:
    """The alternative with the named numbers among its parameters filled in."""
    if not any(isinstance(value, str) for value in spec.parameters.values()):
        return spec
    numbers = {key: constants[value] if isinstance(value, str) else value for key, value in spec.parameters.items()}
    return replace(spec, parameters=numbers)


def _refusal(
    spec: ActionSpec, nodes: tuple[NodeId, ...], subject: Subject, facts: ModelFacts, constants: dict[str, float]
) -> str:
    """Why an alternative cannot be taken; "" where it can."""
    if spec.when is not None:
        truth = spec.when.evaluate(lambda name: facts.lookup(subject, name), constants)
        if truth is not True:
            return f"{spec.when} is {'unknown' if truth is None else 'not so'}"
    if spec.kind == "warn":
        return ""
    if spec.kind == "fuse":
        match = subject.match
        return "" if match is not None and match.fusable else (match.reason if match is not None else "no pattern")
    if spec.repair in facts.without:
        return "not asked for"
    if spec.repair:
        source = facts.source
        site = Site(
            source.model,
            source.index,
            source.types,
            subject.scope,
            nodes,
            subject.value,
            spec.parameters,
            subject.match,
            facts.amax,
            facts.repair_memo,
        )
        planned = REPAIRS[spec.repair].plan(site)
        return planned if isinstance(planned, str) else ""
    if not nodes:
        return "there is no such node"
    if spec.kind == "keep_bf16":
        return _no_bf16(nodes, facts)
    return ""


def _no_bf16(nodes: tuple[NodeId, ...], facts: ModelFacts) -> str:
    target = facts.source.target
    if facts.source.precision == "bf16":
        return "it is BF16 that cannot hold it"
    if not get_target(target).bf16_kernels:
        return f"{target} has no BF16, or not for most operators"
    for node_id in nodes:
        place = facts.source.index.find(node_id)
        if place is not None and not runs_in_bf16(place[0].nodes[place[1]]):
            return f"{place[0].nodes[place[1]].op_type} takes no bfloat16"
    return too_coarse_for_bf16(facts, nodes)


def runs_in_bf16(node: onnx.NodeProto) -> bool:
    """Whether an operator's schema allows bfloat16 for its first output at opset 22, to which a model is raised."""
    if node.domain not in ("", "ai.onnx"):
        return False
    try:
        schema = onnx.defs.get_schema(node.op_type, BF16_OPSET)
    except onnx.defs.SchemaError:
        return False
    allowed = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
    return bool(schema.outputs) and "tensor(bfloat16)" in allowed.get(schema.outputs[0].type_str, ())
