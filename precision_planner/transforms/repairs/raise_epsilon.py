"""Raise an epsilon that FP16 flushes to zero to one that it holds.

1e-12 is zero in FP16, and 0 / 0 is NaN. The smallest subnormal, 2^-24, is the least that does an epsilon's work.

Proof: the other operand is never zero and at least 2^12 times the new epsilon on the calibration data (the rule asks
for that), so the sum changes by less than FP16's own rounding. Where that is not known the rule keeps FP32 instead.

Cases: 1. Add(x, eps); 2. Max(x, eps); 3. Clip(x, min=eps).
"""

from __future__ import annotations

from precision_planner.model.edit import Edit
from precision_planner.numerics.formats import FP16
from precision_planner.operators import row_of, slots_of
from precision_planner.transforms.repairs.site import Site, constant

__all__ = ["plan"]


def plan(site: Site) -> Edit | str:
    """Plan the replacement in the site's nodes.

    Parameters: to (default 2^-24): the new epsilon.
    """
    to = float(site.parameters.get("to", FP16.smallest_subnormal))
    edit = Edit(site.scope.path)
    for node_id in site.nodes:
        place = site.place(node_id)
        if place is None:
            return f"{node_id.output} is gone"
        position = place[1]
        node = place[0].nodes[position]
        for slot, name in slots_of(node, row_of(node).lifts):
            number = site.number(name)
            if number is None or not 0 < number < to:
                continue
            rank = site.types.of(site.scope, name).rank or 0
            label = site.fresh(f"{name}_raised_{position}")
            fresh = constant(label, to, site.elem_type(name), (1,) * rank)
            edit.constants.append(fresh)
            edit.rewire[position, slot] = fresh.name
    return edit if edit.rewire else "there is no epsilon below the new one"
