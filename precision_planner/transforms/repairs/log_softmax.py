"""Write Log(Softmax(x)) as LogSoftmax(x).

A probability under 2^-25 is zero in FP16 and its logarithm -inf; LogSoftmax never forms the probability.
The softmax stays where something else reads it.
"""

from __future__ import annotations

from onnx import NodeProto

from precision_planner.model.edit import Edit
from precision_planner.transforms.repairs.site import Site

__all__ = ["plan"]


def plan(site: Site) -> Edit | str:
    """Plan the rewrite for the one Log among the site's nodes."""
    scope = site.scope
    for node_id in site.nodes:
        place = site.place(node_id)
        node = None if place is None else scope.nodes[place[1]]
        if place is None or node is None or node.op_type != "Log":
            continue
        at = scope.producer(node.input[0])
        if at is None or scope.nodes[at].op_type != "Softmax":
            return "the logarithm is not of a softmax"
        softmax = scope.nodes[at]
        fused = NodeProto()
        fused.CopyFrom(softmax)
        fused.op_type = "LogSoftmax"
        fused.name = node.name
        fused.output[0] = node.output[0]
        edit = Edit(scope.path, remove={place[1]}, insert=[(place[1], fused)], reads={at})
        if not scope.is_read_elsewhere(softmax.output[0], {place[1]}):
            edit.remove.add(at)
        return edit
    return "there is no logarithm"
