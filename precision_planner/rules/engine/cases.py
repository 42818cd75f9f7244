"""Running a rule's cases: does it fire where it should, keep quiet where it should, propose what it should.

Whether the graph fails in the low precision and the action cures it needs the conversion and the simulation, which lie
above the rules: `precision_planner.planning.cures` does that part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx

from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.numerics.census import FLOAT_TYPES, census
from precision_planner.numerics.stats import TensorStats
from precision_planner.rules.engine.evaluate import evaluate
from precision_planner.rules.engine.findings import Evaluation
from precision_planner.rules.facts.evidence import Evidence, RangeLike, ValueKey
from precision_planner.rules.language.builders import BUILDERS
from precision_planner.rules.language.case_inputs import make_input
from precision_planner.rules.language.rule import Case, Rule, RuleBook
from precision_planner.rules.language.yaml_tree import fail

__all__ = ["CaseResult", "Measure", "case_evidence", "case_inputs", "case_model", "run_case"]

Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]
Measure: TypeAlias = Callable[[Model, Sequence[Arrays]], Mapping[ValueKey, RangeLike]]
"""Ranges of a model's activations over batches; `precision_planner.calibration` has one."""


@dataclass(frozen=True)
class CaseResult:
    """What became of one case.

    Attributes:
      rule: the rule's id.
      case: the case.
      failures: what differs from what was expected; empty if the case passed.
      evaluation: what the rule said.
    """

    rule: str
    case: Case
    failures: tuple[str, ...]
    evaluation: Evaluation

    @property
    def passed(self) -> bool:
        """Whether nothing differs."""
        return not self.failures


def run_case(rule: Rule, case: Case, measure: Measure) -> CaseResult:
    """Run one case; the rule is alone in the book.

    Args:
      rule: the rule.
      case: one of its cases.
      measure: how activations are measured.

    Raises:
      RuleError: the case's graph or inputs are not valid; with file and line.
    """
    evidence = case_evidence(rule, case, measure)
    evaluation = evaluate(RuleBook((rule,)), evidence, policy=rule.policies[0])
    return CaseResult(rule.id, case, tuple(_failures(case, evaluation)), evaluation)


def case_model(rule: Rule, case: Case) -> Model:
    """The graph of a case.

    Raises:
      RuleError: the text is no valid graph.
    """
    if case.builder:
        made = BUILDERS[case.builder]
        proto = made.build(**{**made.parameters, **case.parameters})
    else:
        try:
            proto = onnx.parser.parse_model(case.model)
        except onnx.parser.ParseError as error:
            raise fail(
                rule.path, case.line, f"the case's model is no ONNX text: {' '.join(str(error).split())}"
            ) from None
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise fail(rule.path, case.line, f"the case's model is not valid: {' '.join(str(error).split())}") from None
    return Model.load(proto)


def case_inputs(rule: Rule, case: Case, model: Model) -> dict[str, np.ndarray[Any, Any]] | None:
    """The calibration data of a case, None where it has none.

    Raises:
      RuleError: an input that the graph has not, or one that is missing.
    """
    if case.inputs is None:
        return None
    graph = model.proto.graph
    wanted = {value.name: value for value in graph.input if value.name not in {t.name for t in graph.initializer}}
    for name in {*case.inputs} ^ {*wanted}:
        what = "has no such input" if name in case.inputs else "needs it"
        raise fail(rule.path, case.line, f"the case's input '{name}': the graph {what}")
    found = {}
    for name, value in wanted.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        found[name] = make_input(case.inputs[name], dtype)
    return found


def case_evidence(rule: Rule, case: Case, measure: Measure) -> Evidence:
    """Everything that the rule is asked about."""
    from precision_planner.patterns import find_patterns

    model = case_model(rule, case)
    inputs = case_inputs(rule, case, model)
    index = GraphIndex(model.proto)
    types = infer_types(model, index)
    options: dict[str, Any] = dict(case.options)
    return Evidence(
        model,
        index,
        types,
        matches=tuple(find_patterns(model, index=index, types=types)),
        census=model_census(model, index),
        ranges=None if inputs is None else measure(model, [inputs]),
        precision=case.precision,
        target=case.target,
        synthesized=bool(options.get("synthesized", False)),
        accumulation=options.get("accumulation"),
        headroom=float(options.get("headroom", 4.0)),
    )


def model_census(model: Model, index: GraphIndex) -> dict[ValueKey, TensorStats]:
    """The census of a small model's weights and Constant nodes, by scope and name."""
    found: dict[ValueKey, TensorStats] = {}
    for scope in index.scopes:
        names = [*scope.initializers, *(node.output[0] for node in scope.nodes if node.op_type == "Constant")]
        for name in names:
            array = index.constant(scope, name, model)
            if array is not None and array.dtype in FLOAT_TYPES:
                found[scope.path, name] = census(np.ascontiguousarray(array))
    return found


def _failures(case: Case, evaluation: Evaluation) -> list[str]:
    findings = evaluation.findings
    if case.fires is None:
        if findings:
            return [f"fires on {findings[0].subject}, where a fact is missing"]
        return [] if evaluation.undecided else ["is decided, and should be unknown"]
    if not case.fires:
        undecided = evaluation.undecided
        if findings:
            return [f"fires on {findings[0].subject}: {findings[0].message}"]
        if undecided:
            return [f"is undecided on {undecided[0].subject} for want of {', '.join(undecided[0].missing)}"]
        return []
    if not findings:
        undecided = evaluation.undecided
        why = f": undecided for want of {', '.join(undecided[0].missing)}" if undecided else ""
        return [f"does not fire{why}"]
    failures = []
    if case.count is not None and len(findings) != case.count:
        failures.append(f"fires {len(findings)} times, not {case.count}")
    for finding in findings:
        if case.severity and finding.severity != case.severity:
            failures.append(f"{finding.subject}: severity is {finding.severity}, not {case.severity}")
        if case.action and finding.proposal.kind != case.action:
            skipped = "; ".join(f"{kind}: {reason}" for kind, reason in finding.proposal.skipped)
            failures.append(f"{finding.subject}: action is {finding.proposal.kind}, not {case.action} ({skipped})")
    if case.nodes is not None:
        named = {name for finding in findings for name in finding.action["nodes"]}
        if named != set(case.nodes):
            failures.append(f"covers {', '.join(sorted(named)) or 'no node'}, not {', '.join(sorted(case.nodes))}")
    return failures
