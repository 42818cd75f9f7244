"""Divide before a sum instead of behind it, so that the sum stays in range: sum(x) / n = mean(x).

ReduceSum of 4096 values of 100 is inf in FP16, and dividing inf by 4096 does not help. Where the divisor is the number
of summands the two nodes are a ReduceMean, which every builder sums in FP32; otherwise each summand is divided.

Cases: 1. Div(ReduceSum(x), c); 2. Mul(ReduceSum(x), c), either order.
"""

from __future__ import annotations

import math

from onnx import NodeProto, helper

from precision_planner.model.edit import Edit
from precision_planner.transforms.repairs.site import Site, constant

__all__ = ["plan"]


def plan(site: Site) -> Edit | str:
    """Plan the move for the one ReduceSum among the site's nodes."""
    for node_id in site.nodes:
        place = site.place(node_id)
        if place is not None and place[0].nodes[place[1]].op_type == "ReduceSum":
            return _move(site, place[1])
    return "there is no ReduceSum"


def _move(site: Site, position: int) -> Edit | str:
    scope = site.scope
    reduce = scope.nodes[position]
    total = reduce.output[0]
    uses = scope.consumers(total)
    if len(uses) != 1 or scope.is_read_elsewhere(total, {uses[0].position}):
        return f"{total} is read by more than a division"
    after = uses[0].position
    node = scope.nodes[after]
    if node.op_type not in ("Div", "Mul") or (node.op_type == "Div" and uses[0].slot != 0):
        return f"what follows the sum is {node.op_type}, not a division of it"
    number = site.number(node.input[1 - uses[0].slot])
    if number is None or not math.isfinite(number) or number == 0:
        return "it is not divided by one constant"
    divisor = number if node.op_type == "Div" else 1.0 / number
    if abs(divisor) <= 1:
        return f"the divisor is {divisor:.4g}: dividing first would not help"
    edit = Edit(scope.path, remove={position, after})
    moved = NodeProto()
    moved.CopyFrom(reduce)
    moved.output[0] = node.output[0]
    if _count(site, reduce) == divisor and _mean_takes_axes_alike(site, reduce):
        moved.op_type = "ReduceMean"
        edit.insert.append((position, moved))
        return edit
    x = reduce.input[0]
    part = site.fresh(f"{x}_divided_{position}")
    by = constant(site.fresh(f"{part}_by"), 1.0 / divisor, site.elem_type(x))
    edit.constants.append(by)
    name = f"{reduce.name or total}/divide_first"
    moved.input[0] = part
    edit.insert += [(position, helper.make_node("Mul", [x, by.name], [part], name)), (position, moved)]
    return edit


def _count(site: Site, reduce: NodeProto) -> float | None:
    """How many values a ReduceSum adds up; None where a dimension is symbolic."""
    shape = site.types.of(site.scope, reduce.input[0]).shape
    if shape is None:
        return None
    axes = next((list(a.ints) for a in reduce.attribute if a.name == "axes"), None)
    if axes is None and len(reduce.input) > 1 and reduce.input[1]:
        array = site.array(reduce.input[1])
        axes = None if array is None else [int(axis) for axis in array.reshape(-1)]
        if axes is None:
            return None
    dims = shape if not axes else [shape[axis] for axis in axes]
    return float(math.prod(dims)) if all(isinstance(dim, int) for dim in dims) else None  # type: ignore[arg-type]


def _mean_takes_axes_alike(site: Site, reduce: NodeProto) -> bool:
    """ReduceSum takes its axes as an input from opset 13, ReduceMean from 18."""
    return len(reduce.input) < 2 or site.model.opset >= 18
