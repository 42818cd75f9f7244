"""Give a broadcast constant the rank of what it is combined with: [H] becomes [1, 1, H].

A constant of fewer axes reaches an elementwise layer through a Shuffle of its own, and TensorRT's weak typing then
converts it outside the layer's precision constraint. With the consumer's rank the Shuffle is gone. Broadcasting aligns
the last axes, so leading ones change nothing.
"""

from __future__ import annotations

from onnx import TensorProto

from precision_planner.model.edit import Edit
from precision_planner.operators import row_of
from precision_planner.transforms.repairs.site import Site

__all__ = ["plan"]


def plan(site: Site) -> Edit | str:
    """Plan new constants for the elementwise readers of `site.value` that have more axes."""
    scope, name = site.scope, site.value
    tensor = scope.initializers.get(name)
    if tensor is None:
        node = scope.producer_node(name)
        tensor = None if node is None else next((a.t for a in node.attribute if a.name == "value"), None)
    if tensor is None or scope.is_overridable(name):
        return f"{name} is no constant of its own"
    edit = Edit(scope.path)
    made: dict[int, str] = {}
    for use in scope.consumers(name):
        node = scope.nodes[use.position]
        if not row_of(node).broadcasts or len(node.input) != 2:
            continue
        rank = site.types.of(scope, node.input[1 - use.slot]).rank
        if rank is None or rank <= len(tensor.dims):
            continue
        if rank not in made:
            fresh = TensorProto()
            fresh.CopyFrom(tensor)
            fresh.name = site.fresh(f"{name}_rank{rank}")
            del fresh.dims[:]
            fresh.dims.extend([1] * (rank - len(tensor.dims)) + list(tensor.dims))
            edit.constants.append(fresh)
            made[rank] = fresh.name
        edit.rewire[use.position, use.slot] = made[rank]
    return edit if edit.rewire else f"nothing of more axes is combined with {name}"
