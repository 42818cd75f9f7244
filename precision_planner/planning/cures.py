"""Does a rule's action cure what the rule found: the case's graph in 16 bits before and after.

The rules say what a case shows (`symptom`) and what its action must reach (`cure`). Here the graph is computed three
times: in FP32 as it is, in 16 bits as it is, and in 16 bits after the action. How a graph is computed in 16 bits is the
caller's choice; by default it is `precision_planner.simulation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.planning.policy import Resolution, resolve
from precision_planner.rules import Case, Rule, RuleBook, evaluate
from precision_planner.rules.engine.cases import Measure, case_evidence, case_inputs, case_model
from precision_planner.rules.facts.evidence import measured_amax
from precision_planner.rules.language.schema import read_cases
from precision_planner.transforms import fuse
from precision_planner.transforms.repairs import apply_repairs
from precision_planner.typing import Decision, TypingOptions, assign_types

__all__ = [
    "CureResult",
    "Cured",
    "apply_action",
    "check_cure",
    "example_graphs",
    "graph_text",
    "relative_error",
    "simulated",
]

Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]
Compute: TypeAlias = Callable[[Model, Arrays, str | None, Mapping[NodeId, Decision]], Arrays]
"""(model, inputs, low precision or None for the reference, decisions) -> outputs."""


@dataclass(frozen=True)
class Cured:
    """A case's model after its rule's action.

    Attributes:
      model: fused or repaired.
      decisions: what is kept high in it.
      kept: how many nodes are kept.
      resolution: how the action was resolved.
    """

    model: Model
    decisions: Mapping[NodeId, Decision]
    kept: int
    resolution: Resolution


@dataclass(frozen=True)
class CureResult:
    """The numbers of one case.

    Attributes:
      rule: the rule's id.
      case: the case.
      before: relative L2 error in 16 bits as the graph is; inf where it is not finite.
      after: the same after the action; None where the case claims no cure.
      changed: relative L2 difference that the action makes in the reference; None without a rewrite.
      kept: nodes kept in FP32 or BF16.
      action: what was done.
      failures: what the case claims and the numbers do not show.
    """

    rule: str
    case: Case
    before: float
    after: float | None
    changed: float | None
    kept: int
    action: str
    failures: tuple[str, ...]


def simulated(model: Model, inputs: Arrays, low: str | None, decisions: Mapping[NodeId, Decision]) -> Arrays:
    """Compute by onnxruntime in FP32 (`low` None) or by the simulation, with the interface kept in FP32."""
    from precision_planner.model.session import Session
    from precision_planner.simulation import open_simulation, prepare

    feeds = {name: np.asarray(array) for name, array in inputs.items()}
    if low is None:
        with Session(model) as session:
            return session.run(feeds)
    options = TypingOptions(precision="bf16" if low == "bf16" else "fp16")
    simulation = prepare(model, assignment=assign_types(model, decisions, options), weights="ieee")
    with open_simulation(simulation) as session:
        return session.run(simulation.feeds(feeds))


def apply_action(rule: Rule, case: Case, measure: Measure) -> Cured:
    """Let a rule speak about its case and do what it proposes."""
    evidence = case_evidence(rule, case, measure)
    policy = rule.policies[0]
    evaluation = evaluate(RuleBook((rule,)), evidence, policy=policy)
    # under "auto" the order of the keeps is that of "rules"; torch's promotion is no cure of a case
    resolution = resolve(evaluation, evidence, policy="rules")
    model, decisions = evidence.model, dict(resolution.decisions)
    if resolution.fuse:
        model = fuse(model, resolution.fuse).model
    if resolution.repairs:
        model = apply_repairs(model, resolution.repairs, measured_amax(evidence)).model
    index = GraphIndex(model.proto)
    decisions = {node: decision for node, decision in decisions.items() if index.find(node) is not None}
    return Cured(model, decisions, len(decisions), resolution)


def check_cure(rule: Rule, case: Case, measure: Measure, compute: Compute = simulated) -> CureResult | None:
    """Compute a case before and after; None for a case that claims no symptom.

    Args:
      rule: the rule.
      case: one of its cases.
      measure: how activations are measured.
      compute: how a graph is computed.

    Raises:
      RuleError: the case's graph or inputs are not valid.
    """
    if case.symptom is None:
        return None
    model = case_model(rule, case)
    inputs = case_inputs(rule, case, model)
    assert inputs is not None, f"{rule.id}: a case with a symptom needs inputs"
    reference = compute(model, inputs, None, {})
    before = relative_error(reference, compute(model, inputs, case.precision, {}))
    failures = _missing_symptom(case.symptom, before)
    if case.cure is None:
        return CureResult(rule.id, case, before, None, None, 0, "", tuple(failures))
    cured = apply_action(rule, case, measure)
    after = relative_error(reference, compute(cured.model, inputs, case.precision, cured.decisions))
    changed = None
    if cured.resolution.repairs or cured.resolution.fuse:
        changed = relative_error(reference, compute(cured.model, inputs, None, {}))
    if not after <= float(case.cure["error_below"]):
        failures.append(f"after the action the error is {after:.3g}, not below {case.cure['error_below']}")
    return CureResult(rule.id, case, before, after, changed, cured.kept, _named(cured), tuple(failures))


def relative_error(reference: Arrays, candidate: Arrays) -> float:
    """The largest relative L2 error over the outputs; inf where a finite element became infinite or NaN.

    Elements that are not finite in the reference do not count.
    """
    worst = 0.0
    for name, wanted in reference.items():
        expected, found = np.asarray(wanted, np.float64), np.asarray(candidate[name], np.float64)
        finite = np.isfinite(expected)
        if not np.isfinite(found[finite]).all():
            return float("inf")
        norm = float(np.linalg.norm(expected[finite]))
        worst = max(worst, float(np.linalg.norm((found - expected)[finite])) / (norm or 1.0))
    return worst


def _missing_symptom(symptom: Mapping[str, Any], before: float) -> list[str]:
    failures = []
    if symptom.get("nonfinite") and np.isfinite(before):
        failures.append(f"the graph stays finite (error {before:.3g})")
    bound = symptom.get("error_above")
    if bound is not None and not before > float(bound):
        failures.append(f"the error is {before:.3g}, not above {bound}")
    return failures


def _named(cured: Cured) -> str:
    resolution = cured.resolution
    if resolution.fuse:
        return "fuse"
    if resolution.repairs:
        return resolution.repairs[0].repair
    return "keep " + "/".join(sorted({decision.precision for decision in cured.decisions.values()}))


def example_graphs(rule: Rule, measure: Measure) -> tuple[str, str, str] | None:
    """A rule's first firing case as text: its name, the graph, the graph after the action ("" where it only warns)."""
    case = next((case for case in read_cases(rule) if case.kind == "fires"), None)
    if case is None:
        return None
    cured = apply_action(rule, case, measure)
    after = (
        ""
        if cured.kept == 0 and not cured.resolution.fuse and not cured.resolution.repairs
        else graph_text(cured.model, cured.decisions)
    )
    return case.name, graph_text(case_model(rule, case), {}), after


def graph_text(model: Model, decisions: Mapping[NodeId, Decision]) -> str:
    """The nodes of a main graph, one a line, with the precision of those that are kept."""
    index = GraphIndex(model.proto)
    lines = []
    for position, node in enumerate(index.main.nodes):
        if node.op_type == "Constant":
            continue
        outputs = ", ".join(name for name in node.output if name)
        kept = decisions.get(index.node_id(index.main, position))
        note = f"    # {kept.precision}" if kept is not None else ""
        lines.append(f"{outputs} = {node.op_type}({', '.join(node.input)}){note}")
    return "\n".join(lines)
