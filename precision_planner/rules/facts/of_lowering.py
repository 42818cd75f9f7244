"""Facts of a node that the target's parser writes out: what stands between its steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx import NodeProto, helper

from precision_planner.rules.facts.lengths import reduction
from precision_planner.rules.facts.registry import FactValue, subject_fact
from precision_planner.targets import get_target
from precision_planner.targets.lowering import Form, in_half

if TYPE_CHECKING:
    from precision_planner.rules.facts.evidence import Subject
    from precision_planner.rules.facts.model_facts import ModelFacts


@subject_fact("node", type="flag")
def written_out(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether the target's parser makes several layers of it, and what is between them is stored in the low type."""
    return _form(facts, subject) is not None


@subject_fact("node", type="number", unit="magnitude", data=True)
def steps_amax(facts: ModelFacts, subject: Subject) -> FactValue:
    """Of a node that is written out: the largest magnitude between its steps, or a bound of it."""
    return _step(facts, subject, 1)


@subject_fact("node", type="number", unit="magnitude", data=True)
def steps_amin(facts: ModelFacts, subject: Subject) -> FactValue:
    """Of a node that is written out: the smallest magnitude above zero of the last value between its steps."""
    return _step(facts, subject, 0)


def _form(facts: ModelFacts, subject: Subject) -> Form | None:
    node = subject.node
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    lowering = in_half(get_target(facts.source.target).lowering).get(node.op_type)
    return None if lowering is None else lowering.form


def _step(facts: ModelFacts, subject: Subject, end: int) -> float | None:
    """The last value before the result, from what was measured of the result (end 0: the smallest, 1: the largest)."""
    form, node = _form(facts, subject), subject.node
    if form is None or node is None:
        return None
    result = facts.extremes(subject.scope, node.output[0])
    if form == "lp_normalization":
        given = facts.extremes(subject.scope, node.input[0])
        length = _length(facts, subject, node)
        power = 1 if _attribute(node, "p", 2) == 1 else 2
        if given is None or length is None:
            return None
        return given[1] ** power * length if end else (None if given[0] is None else given[0] ** power)
    if form in ("sum_log", "exp_sum_log", "softmax_log"):
        bounds = facts.bounds(subject.scope, node.output[0])
        return None if bounds is None else _exp(bounds[end])
    measured = None if result is None else result[end]
    power = {"squares_root": 2, "powers_root": _attribute(node, "p", 2)}.get(form, 1)
    return None if measured is None else float(measured**power)


def _length(facts: ModelFacts, subject: Subject, node: NodeProto) -> int | None:
    shape = facts.source.types.of(subject.scope, node.input[0]).shape
    axis = _attribute(node, "axis", -1)
    length = None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]
    return length if isinstance(length, int) else reduction(facts, subject.scope, node)


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(helper.get_attribute_value(a)) for a in node.attribute if a.name == name), default)


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)
