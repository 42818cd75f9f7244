"""Facts of a node, a pattern, an input, and of the run as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, numpy_helper

from precision_planner.numerics.formats import get_format
from precision_planner.rules.facts.lengths import reduction
from precision_planner.rules.facts.node_sets import upstream_of
from precision_planner.rules.facts.registry import SUBJECTS, FactValue, subject_fact

if TYPE_CHECKING:
    from precision_planner.model import Scope
    from precision_planner.rules.facts.evidence import Subject
    from precision_planner.rules.facts.model_facts import ModelFacts


def _attribute(subject: Subject, name: str) -> Any:
    assert subject.match is not None
    return subject.match.attributes.get(name)


@subject_fact(*SUBJECTS, type="text")
def precision(facts: ModelFacts, subject: Subject) -> FactValue:
    """The low precision asked for: fp16 or bf16."""
    return facts.source.precision


@subject_fact(*SUBJECTS, type="text", name="format")
def format_name(facts: ModelFacts, subject: Subject) -> FactValue:
    """The low precision as people write it: FP16 or BF16."""
    return facts.source.precision.upper()


@subject_fact(*SUBJECTS, type="text")
def target(facts: ModelFacts, subject: Subject) -> FactValue:
    """The build target, as --target has it."""
    return facts.source.target


@subject_fact(*SUBJECTS, type="number", unit="version")
def opset(facts: ModelFacts, subject: Subject) -> FactValue:
    """Version of the default operator domain."""
    return facts.source.model.opset


@subject_fact(*SUBJECTS, type="text")
def accumulation(facts: ModelFacts, subject: Subject) -> FactValue:
    """How GEMM and Conv accumulate on the target, as its file says: fp16 on TensorRT, fp32 on onnxruntime."""
    return facts.source.accumulation


@subject_fact(*SUBJECTS, type="text")
def data(facts: ModelFacts, subject: Subject) -> FactValue:
    """Where the calibration data comes from: given, synthesized, or none, as in a branch that it did not run."""
    if not facts.source.saw(subject.scope.path):
        return "none"
    return "synthesized" if facts.source.synthesized else "given"


@subject_fact("node", type="text")
def op_type(facts: ModelFacts, subject: Subject) -> FactValue:
    """The operator."""
    assert subject.node is not None
    return subject.node.op_type


@subject_fact("node", type="set")
def position(facts: ModelFacts, subject: Subject) -> FactValue:
    """Where the node stands; the names are listed below."""
    assert subject.position is not None
    return facts.surroundings_of(subject.scope, subject.position)


@subject_fact("node", type="set")
def in_pattern(facts: ModelFacts, subject: Subject) -> FactValue:
    """The kinds of the proven patterns that the node is part of."""
    return facts.patterns_of.get(facts.source.index.node_id(subject.scope, subject.position or 0), frozenset())


@subject_fact("node", "pattern", "input", type="set")
def consumers(facts: ModelFacts, subject: Subject) -> FactValue:
    """Op types of the nodes that read its output, in its own graph."""
    if subject.kind == "input":
        value = subject.value
    else:
        value = subject.match.output if subject.match is not None else next(iter(subject.node.output), "")  # type: ignore[union-attr]
    return frozenset(subject.scope.nodes[use.position].op_type for use in subject.scope.consumers(value))


@subject_fact("node", type="set")
def producers(facts: ModelFacts, subject: Subject) -> FactValue:
    """Op types of the nodes that make its inputs, seen through Identity, Cast and shape ops."""
    assert subject.node is not None
    sources = (facts.source_node(subject.scope, name) for name in subject.node.input if name)
    return frozenset(node.op_type for node in sources if node is not None)


@subject_fact("node", type="number", unit="elements")
def reduction_length(facts: ModelFacts, subject: Subject) -> FactValue:
    """How many values one output element sums up; unknown where a dimension is symbolic."""
    assert subject.node is not None
    return reduction(facts, subject.scope, subject.node)


@subject_fact("node", type="flag")
def squares_input(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether its first input is the square of something: Pow(x, 2) or Mul(x, x)."""
    assert subject.node is not None
    source = facts.source_node(subject.scope, next(iter(subject.node.input), ""))
    if source is None:
        return False
    if source.op_type == "Pow":
        return facts.number(subject.scope, source.input[1]) == 2
    return source.op_type == "Mul" and source.input[0] == source.input[1]


@subject_fact("node", type="flag")
def same_inputs(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether its two inputs are the same value, as in Mul(x, x)."""
    assert subject.node is not None
    return len(subject.node.input) == 2 and subject.node.input[0] == subject.node.input[1]


@subject_fact("node", type="flag")
def has_constant(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether any of its inputs is a constant."""
    assert subject.node is not None
    return any(facts.constant_tensor(subject.scope, name) is not None for name in subject.node.input if name)


@subject_fact("node", type="set")
def upstream(facts: ModelFacts, subject: Subject) -> FactValue:
    """Op types of the arithmetic that leads to its inputs (what the node set `upstream` covers)."""
    nodes = (scope.nodes[position] for scope, position in upstream_of(facts, subject, ""))
    return frozenset(node.op_type for node in nodes)


@subject_fact("node", type="flag")
def starts_softplus(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether it is the Exp of log(1 + exp(x)), each step read by the next alone."""
    assert subject.node is not None
    scope, value = subject.scope, subject.node.output[0]
    for op_type in ("Add", "Log"):
        uses = scope.consumers(value)
        if len(uses) != 1 or scope.is_read_elsewhere(value, {uses[0].position}):
            return False
        node = scope.nodes[uses[0].position]
        if node.op_type != op_type or (op_type == "Add" and facts.number(scope, node.input[1 - uses[0].slot]) != 1):
            return False
        value = node.output[0]
    return subject.node.op_type == "Exp"


@subject_fact("node", type="flag")
def is_moments_variance(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether it is E[x^2] - E[x]^2: the mean of the squares minus the square of the mean of the same value.

    A mean is ReduceMean, global average pooling, or a sum times or over a constant, as Flax writes it.
    """
    assert subject.node is not None
    scope, node = subject.scope, subject.node
    if node.op_type != "Sub":
        return False
    squares = _averaged(facts, scope, node.input[0])
    squared = None if squares is None else _squared(facts, scope, squares)
    mean = _squared(facts, scope, node.input[1])
    averaged = None if mean is None else _averaged(facts, scope, mean)
    return squared is not None and averaged == squared


def _averaged(facts: ModelFacts, scope: Scope, value: str) -> str | None:
    """What a value is the mean of; None for everything else."""
    node = facts.source_node(scope, value)
    if node is None or not node.input:
        return None
    if node.op_type in ("ReduceMean", "GlobalAveragePool"):
        return node.input[0]
    if node.op_type not in ("Mul", "Div"):
        return None
    for slot in (0, 1) if node.op_type == "Mul" else (0,):
        total = facts.source_node(scope, node.input[slot])
        if total is not None and total.op_type == "ReduceSum" and facts.number(scope, node.input[1 - slot]):
            return total.input[0]
    return None


def _squared(facts: ModelFacts, scope: Scope, value: str) -> str | None:
    """What a value is the square of: Pow(x, 2) or Mul(x, x); None for everything else."""
    node = facts.source_node(scope, value)
    if node is None:
        return None
    if node.op_type == "Pow" and facts.number(scope, node.input[1]) == 2:
        return node.input[0]
    return node.input[0] if node.op_type == "Mul" and node.input[0] == node.input[1] else None


@subject_fact("node", type="flag")
def bound_becomes_one(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether its upper bound is a constant below 1 that the low precision rounds to 1, as 1 - 1e-6 in FP16."""
    assert subject.node is not None
    slots = {"Clip": (2,), "Min": tuple(range(len(subject.node.input)))}.get(subject.node.op_type, ())
    bounds = [facts.number(subject.scope, subject.node.input[slot]) for slot in slots if slot < len(subject.node.input)]
    half_ulp = get_format(facts.source.precision).unit_roundoff / 2  # below 1 the spacing is half of that above
    return any(bound is not None and 1.0 - half_ulp <= bound < 1.0 for bound in bounds)


@subject_fact("node", type="flag")
def complement_read(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether 1 - its output is read, as the logarithm of a Bernoulli's other side does."""
    assert subject.node is not None
    scope, value = subject.scope, subject.node.output[0]
    return any(
        scope.nodes[use.position].op_type == "Sub"
        and use.slot == 1
        and facts.number(scope, scope.nodes[use.position].input[0]) == 1
        for use in scope.consumers(value)
    )


@subject_fact("pattern", type="flag")
def in_attention(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether its nodes are part of an attention, whose scores a fused kernel holds in FP32."""
    assert subject.match is not None
    return any("attention" in facts.patterns_of.get(node, frozenset()) for node in subject.match.nodes)


@subject_fact("pattern", type="number", unit="keys")
def keys(facts: ModelFacts, subject: Subject) -> FactValue:
    """Of an attention: over how many keys its softmax runs; unknown where that is symbolic."""
    softmax = _attribute(subject, "softmax")
    place = facts.source.index.find(softmax) if softmax is not None else None
    return None if place is None else reduction(facts, place[0], place[0].nodes[place[1]])


@subject_fact("node", type="number", unit="value")
def fill_value(facts: ModelFacts, subject: Subject) -> FactValue:
    """What a ConstantOfShape fills with (0 where it does not say); unknown for other operators."""
    assert subject.node is not None
    if subject.node.op_type != "ConstantOfShape":
        return None
    tensor = next((attribute.t for attribute in subject.node.attribute if attribute.name == "value"), None)
    return 0.0 if tensor is None else float(numpy_helper.to_array(tensor).reshape(-1)[0])


@subject_fact("node", "pattern", type="number", unit="value")
def epsilon(facts: ModelFacts, subject: Subject) -> FactValue:
    """Its epsilon: the attribute of a native normalization, what a decomposed one adds; unknown where it has none."""
    if subject.match is not None:
        found = subject.match.attributes.get("epsilon")
        return None if found is None else float(found)
    assert subject.node is not None
    return next(
        (attribute.f for attribute in subject.node.attribute
         if attribute.name == "epsilon" and attribute.type == AttributeProto.FLOAT), None,
    )  # fmt: skip


@subject_fact("pattern", type="text")
def kind(facts: ModelFacts, subject: Subject) -> FactValue:
    """The pattern's kind."""
    assert subject.match is not None
    return subject.match.kind


@subject_fact("pattern", type="text")
def form(facts: ModelFacts, subject: Subject) -> FactValue:
    """native (one operator) or decomposed."""
    assert subject.match is not None
    return subject.match.form


@subject_fact("pattern", type="flag")
def proven(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether every condition of the pattern holds; false for a near miss."""
    assert subject.match is not None
    return subject.match.proven


@subject_fact("pattern", type="flag")
def fusable(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether it can be rewritten as one node."""
    assert subject.match is not None
    return subject.match.fusable


@subject_fact("pattern", type="text")
def reason(facts: ModelFacts, subject: Subject) -> FactValue:
    """Why it cannot be rewritten, or is a near miss; "" otherwise."""
    assert subject.match is not None
    return subject.match.reason


@subject_fact("pattern", type="flag")
def channels_first(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether it normalizes an axis that is not the last, so that one node needs a pair of Transposes."""
    return bool(_attribute(subject, "channels_first"))


@subject_fact("pattern", type="text")
def approximation(facts: ModelFacts, subject: Subject) -> FactValue:
    """Of a GELU: erf, tanh or sigmoid; unknown for other patterns."""
    found = _attribute(subject, "approximate")
    return None if found is None else str(found)


@subject_fact("pattern", type="number", unit="value")
def mask_value(facts: ModelFacts, subject: Subject) -> FactValue:
    """Of a softmax or attention: the lowest number in its mask; unknown where it has none or is computed."""
    found = _attribute(subject, "mask_value")
    return None if found is None else float(found)


@subject_fact("pattern", type="text")
def scale_position(facts: ModelFacts, subject: Subject) -> FactValue:
    """Of an attention or its scaling: whether the scale stands before or after the product of Q and K, or none."""
    found = _attribute(subject, "position") or _attribute(subject, "scale_position")
    return None if found is None else str(found)


@subject_fact("pattern", type="set")
def ops(facts: ModelFacts, subject: Subject) -> FactValue:
    """Op types of its nodes."""
    assert subject.match is not None
    found = (facts.source.index.find(node) for node in subject.match.nodes)
    return frozenset(place[0].nodes[place[1]].op_type for place in found if place is not None)


@subject_fact("pattern", type="number", unit="nodes")
def node_count(facts: ModelFacts, subject: Subject) -> FactValue:
    """How many nodes it consists of."""
    assert subject.match is not None
    return len(subject.match.nodes)
