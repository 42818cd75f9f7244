"""Scale a factor of a matrix product before the product instead of the product: (A B) c = (A c) B.

Attention scores are d times larger than needed before the 1/sqrt(d), and pass 65504 in FP16 where the scaled ones would
not. Scaling Q first is exact for a power of two (head sizes 16, 64, 256) and one rounding otherwise.

Cases: 1. Mul(MatMul(A, B), c) and Mul(c, MatMul(A, B)); 2. Div(MatMul(A, B), c).
"""

from __future__ import annotations

import math

from onnx import NodeProto, helper

from precision_planner.model.edit import Edit
from precision_planner.transforms.repairs.site import Site, constant

__all__ = ["plan"]


def plan(site: Site) -> Edit | str:
    """Plan the move for the one Mul or Div among the site's nodes that scales a MatMul."""
    for node_id in site.nodes:
        place = site.place(node_id)
        if place is not None and place[0].nodes[place[1]].op_type in ("Mul", "Div"):
            return _move(site, place[1])
    return "there is no Mul or Div"


def _move(site: Site, position: int) -> Edit | str:
    scope = site.scope
    node = scope.nodes[position]
    pairs = [(node.input[0], node.input[1])]
    if node.op_type == "Mul":
        pairs.append((node.input[1], node.input[0]))
    for product, factor in pairs:
        number = site.number(factor)
        at = scope.producer(product)
        if number is None or at is None or scope.nodes[at].op_type != "MatMul":
            continue
        if not math.isfinite(number) or number == 0:
            return f"the scale is {number}"
        if scope.is_read_elsewhere(product, {position}):
            return f"{product} is read elsewhere too"
        matmul = scope.nodes[at]
        left = matmul.input[0]
        scaled = site.fresh(f"{left}_scaled_{at}")
        elem_type = site.elem_type(left)
        edit = Edit(scope.path, remove={at, position})
        by = 1.0 / number if node.op_type == "Div" else number
        scale = constant(site.fresh(f"{scaled}_by"), by, elem_type)
        edit.constants.append(scale)
        mul = helper.make_node("Mul", [left, scale.name], [scaled], f"{matmul.name or product}/scale_first")
        moved = NodeProto()
        moved.CopyFrom(matmul)
        moved.input[0] = scaled
        moved.output[0] = node.output[0]
        edit.insert += [(at, mul), (at, moved)]
        return edit
    return "it does not scale a MatMul by one constant"
