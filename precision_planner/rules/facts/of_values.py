"""Facts of a value: an activation as it was measured, a constant as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precision_planner.model import FLOAT_TYPES, type_name
from precision_planner.numerics.formats import get_format
from precision_planner.rules.facts.registry import FactValue, value_fact

if TYPE_CHECKING:
    from precision_planner.model import Scope
    from precision_planner.rules.facts.model_facts import ModelFacts


@value_fact(type="number", unit="magnitude", data=True)
def amax(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """The largest magnitude; of a constant its own, infinities included."""
    extremes = facts.extremes(scope, value)
    return None if extremes is None else extremes[1]


@value_fact(type="number", unit="magnitude", data=True, combine=min)
def amin(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """The smallest magnitude above zero; unknown where all is zero."""
    extremes = facts.extremes(scope, value)
    return None if extremes is None else extremes[0]


@value_fact(type="number", unit="value", data=True, combine=min)
def minimum(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """The smallest value, sign and all."""
    bounds = facts.bounds(scope, value)
    return None if bounds is None else bounds[0]


@value_fact(type="number", unit="value", data=True)
def maximum(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """The largest value, sign and all."""
    bounds = facts.bounds(scope, value)
    return None if bounds is None else bounds[1]


@value_fact(type="number", unit="factor", data=True, combine=min)
def headroom(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """Largest finite value / amax; 65504/amax in FP16. Unknown where all is zero."""
    extremes = facts.extremes(scope, value)
    if extremes is None or not extremes[1]:
        return None
    return get_format(facts.source.precision).max_finite / extremes[1]


@value_fact(type="flag", combine=any)
def is_constant(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """Whether it is an initializer that nobody can override, or a Constant node's output."""
    return facts.constant_tensor(scope, value) is not None


@value_fact(type="flag", combine=any)
def is_graph_output(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """Whether the graph returns it."""
    return scope.is_output(value)


@value_fact(type="number", unit="value")
def value(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """The number that a constant of one element holds; unknown for everything else."""
    return facts.number(scope, value)


@value_fact(type="number", unit="elements")
def size(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """Number of elements; unknown where a dimension is."""
    shape = facts.source.types.of(scope, value).shape
    if shape is None or any(not isinstance(dim, int) for dim in shape):
        return None
    count = 1
    for dim in shape:
        count *= dim if isinstance(dim, int) else 1
    return count


@value_fact(type="number", unit="axes")
def rank(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """Number of axes."""
    return facts.source.types.of(scope, value).rank


@value_fact(type="number", unit="elements")
def length(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """Size of the last axis; unknown where it is symbolic."""
    shape = facts.source.types.of(scope, value).shape
    return shape[-1] if shape and isinstance(shape[-1], int) else None


@value_fact(type="text")
def elem_type(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """Element type, as ONNX calls it in lower case: float, float16, int64, ..."""
    found = facts.source.types.of(scope, value).elem_type
    return type_name(found) if found else None


@value_fact(type="flag", combine=any)
def is_float(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """Whether it is float, float16, bfloat16 or double."""
    found = facts.source.types.of(scope, value).elem_type
    return found in FLOAT_TYPES if found else None


@value_fact(type="text")
def producer(facts: ModelFacts, scope: Scope, value: str) -> FactValue:
    """Op type of the node that makes it, seen through Identity, Cast and shape ops; "" for an input or constant."""
    node = facts.source_node(scope, value)
    return "" if node is None else node.op_type
