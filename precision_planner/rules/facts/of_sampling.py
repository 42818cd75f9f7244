"""Facts of a node that samples an image or a map at coordinates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from precision_planner.numerics.formats import get_format
from precision_planner.operators import domain_of, named
from precision_planner.rules.facts.registry import FactValue, subject_fact

if TYPE_CHECKING:
    from precision_planner.rules.facts.evidence import Subject
    from precision_planner.rules.facts.model_facts import ModelFacts

COARSE = 2.0**-5
"""Pixels between two neighboring coordinates from which on a sample is visibly another one."""


@subject_fact("node", type="number", unit="pixels")
def coordinate_step(facts: ModelFacts, subject: Subject) -> FactValue:
    """Distance of neighboring coordinates in the low precision, in pixels of what GridSample or RoiAlign samples.

    Of a grid from -1 to 1 half the longest side times the spacing below 1; of boxes the spacing at the largest one.
    Unknown where the sides are symbolic.
    """
    node = subject.node
    if node is None or len(node.input) < 2 or domain_of(node):
        return None
    shape = facts.source.types.of(subject.scope, node.input[0]).shape
    sides = [] if shape is None else [side for side in shape[2:] if isinstance(side, int)]
    longest = max(sides) if shape is not None and sides and len(sides) == len(shape) - 2 else None
    bits = get_format(facts.source.precision).fraction_bits
    if node.op_type == "GridSample":
        return None if longest is None else longest / 2 * 2.0 ** -(bits + 1)
    attribute = named(node, "spatial_scale")
    scale = 1.0 if attribute is None else float(attribute.f)
    if scale <= 0:
        return None
    seen = facts.extremes(subject.scope, node.input[1])
    largest = seen[1] if seen is not None else None if longest is None else longest / scale
    if largest is None or not 0 < largest < math.inf:
        return None
    return 2.0 ** (math.floor(math.log2(largest)) - bits) * scale


@subject_fact("node", type="flag")
def samples_coarsely(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether `coordinate_step` is 1/32 of a pixel or more, or unknown."""
    step = coordinate_step(facts, subject)
    return not isinstance(step, int | float) or step >= COARSE
