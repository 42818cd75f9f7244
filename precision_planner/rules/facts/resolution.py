"""Whether BF16's eight bits are enough for what reads a value: the range is not all that a reader needs.

A softmax takes the exponential of differences, TopK and ArgMax order values, a sine reduces its argument by multiples
of pi, a cumulative sum adds up its errors. Past a certain magnitude BF16 does not tell apart what these tell apart, so
there it is no cure for an overflow in FP16.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from onnx import NodeProto

from precision_planner.model import NodeId, Scope
from precision_planner.model.index import display_name
from precision_planner.numerics.formats import BF16
from precision_planner.operators import is_arithmetic, row_of
from precision_planner.rules.facts.model_facts import ModelFacts

__all__ = ["too_coarse_for_bf16"]

_SOFTMAX = math.ldexp(1.0, BF16.fraction_bits)
"""From here on the spacing is 1: a weight of the softmax is wrong by e^0.5."""
_ANGLE = math.ldexp(1.0, BF16.fraction_bits - 6)
"""Up to here an angle is known to within 2^-8."""
_COUNT = math.ldexp(1.0, BF16.fraction_bits + 1)
"""Up to here whole numbers are exact."""


def too_coarse_for_bf16(facts: ModelFacts, nodes: Iterable[NodeId]) -> str:
    """Why nodes may not run in BF16: who reads what they make and needs more than eight bits; "" where nobody does.

    Readers are looked for through operators that work value by value or only move values; what a product or a
    normalization makes of a value is another matter.
    """
    for node_id in nodes:
        place = facts.source.index.find(node_id)
        if place is None:
            continue
        scope, position = place
        node = scope.nodes[position]
        found = _refused(facts, scope, position) or _reader(facts, scope, list(node.output))
        if found:
            return found
    return ""


def _reader(facts: ModelFacts, scope: Scope, values: list[str]) -> str:
    for value in filter(None, values):
        for read in facts.flow.uses(scope, value, lambda node, _: is_arithmetic(node, activations=True)):
            found = _refused(facts, read.scope, read.position)
            if found:
                return found
    return ""


def _limit(node: NodeProto) -> float | None:
    """The largest magnitude that a node may read in BF16; None for no limit of its own."""
    row = row_of(node)
    if row.orders:
        return 0.0  # the order of near values is lost at any magnitude
    if row.angles:
        return _ANGLE
    if row.scans:
        return _COUNT
    return _SOFTMAX if row.scores and not row.product else None


def _refused(facts: ModelFacts, scope: Scope, position: int) -> str:
    node = scope.nodes[position]
    limit = _limit(node)
    if limit is None or not node.input:
        return ""
    extremes = facts.extremes(scope, node.input[0])
    if limit and (extremes is None or extremes[1] <= limit):
        return ""
    reach = "" if extremes is None else f" up to {extremes[1]:.4g}"
    return f"{node.op_type} {display_name(node)} reads values{reach}, for which BF16 has too few bits"
