"""Bring the infinite and huge bounds of Min, Max, Clip, Where and Pad back to the largest finite FP16 value.

A bound of 3.4e38 becomes infinite in FP16, and 0 * inf or inf - inf behind it is NaN (masked max pooling: the empty
segment holds the bound, and a factor of zero should silence it). TensorRT has refused infinities in such constants too.

Proof: the constant is read by these ops alone, where it is compared with or stands beside activations that do not pass
the clamp themselves (the rule asks for their range). Then Min, Max and Clip give the same, and Where and Pad give a
value that was out of reach before and is finite now.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, numpy_helper

from precision_planner.model.edit import Edit
from precision_planner.numerics.formats import FP16
from precision_planner.operators import Slots, row_of, slots_of
from precision_planner.transforms.repairs.site import Site

__all__ = ["plan"]


def plan(site: Site) -> Edit | str:
    """Plan the clamp of every bound that the site's nodes read.

    Parameters: limit (default 65504): the magnitude that stays.
    """
    limit = float(site.parameters.get("limit", FP16.max_finite))
    edit = Edit(site.scope.path)
    for node_id in site.nodes:
        place = site.place(node_id)
        if place is None:
            return f"{node_id.output} is gone"
        node = place[0].nodes[place[1]]
        for slot, name in _bounds(node):
            array = site.array(name)
            if array is None or array.dtype not in (np.float32, np.float64) or not (np.abs(array) > limit).any():
                continue
            # a new constant for this reader alone: others may mean the infinity
            clamped = np.asarray(np.clip(array, -limit, limit), array.dtype)
            fresh = site.fresh(f"{name}_finite_{place[1]}")
            edit.constants.append(numpy_helper.from_array(clamped, fresh))
            edit.rewire[place[1], slot] = fresh
    return edit if edit.rewire else "no bound is beyond the limit"


def _bounds(node: NodeProto) -> Iterator[tuple[int, str]]:
    """The inputs that can be bounds or fills: those of Clip and Pad, every operand of Min, Max and Where."""
    row = row_of(node)
    roles = [slot for slot, role in row.weights.items() if role in ("bound", "padding")]
    chosen = (
        Slots(tuple(roles)) if roles else row.joint if row.exact and row.broadcasts and not row.compares else Slots()
    )
    return slots_of(node, chosen)
