"""Clamp what goes into the cube of a tanh GELU: tanh is 1 long before the cube overflows.

0.5 x (1 + tanh(0.798 (x + 0.0447 x^3))): x^3 passes 65504 at 40.3. From |x| = 10 on the argument of tanh is past 43,
where tanh is 1 in float32 to the last bit; so the cube of x clamped to +-10 gives the same GELU, and never exceeds
1000.

Cases: 1. Pow(x, 3); 2. Mul(Mul(x, x), x), either order.
"""

from __future__ import annotations

from onnx import helper

from precision_planner.model.edit import Edit
from precision_planner.operators import carries
from precision_planner.transforms.repairs.site import Site, constant

__all__ = ["plan"]

_STEPS = 6


def plan(site: Site) -> Edit | str:
    """Plan the clamp for the cube among the site's nodes.

    Parameters: limit (default 10): where x is clamped.
    """
    limit = float(site.parameters.get("limit", 10.0))
    if site.model.opset < 11:
        return f"opset {site.model.opset} has no Clip with inputs"
    for node_id in site.nodes:
        place = site.place(node_id)
        cube = None if place is None else _cube(site, place[1])
        if cube is not None:
            refusal = _refusal(site, cube[2])
            return refusal or _clamp(site, cube[0], cube[1], limit)
    return "there is no cube"


def _cube(site: Site, position: int) -> tuple[str, list[tuple[int, int]], str] | None:
    """(x, the readings of x that make the cube, the cube); None if the node makes none."""
    node = site.scope.nodes[position]
    if node.op_type == "Pow" and site.number(node.input[1]) == 3.0:
        return node.input[0], [(position, 0)], node.output[0]
    if node.op_type != "Mul" or len(node.input) != 2:
        return None
    for slot in (0, 1):
        at = site.scope.producer(node.input[slot])
        x = node.input[1 - slot]
        square = None if at is None else site.scope.nodes[at]
        if at is not None and square is not None and square.op_type == "Mul" and list(square.input) == [x, x]:
            if site.scope.is_read_elsewhere(square.output[0], {position}):
                return None
            return x, [(at, 0), (at, 1), (position, 1 - slot)], node.output[0]
    return None


def _refusal(site: Site, cube: str) -> str:
    """Why a cube is not the one of a GELU: it must lead into one Tanh and nowhere else."""
    value = cube
    for _ in range(_STEPS):
        uses = site.scope.consumers(value)
        if len(uses) != 1 or site.scope.is_read_elsewhere(value, {uses[0].position}):
            return f"{value} is read by more than a tanh"
        node = site.scope.nodes[uses[0].position]
        if node.op_type == "Tanh":
            return ""
        if node.op_type not in ("Mul", "Add") and not carries(node, uses[0].slot):
            return f"the cube reaches {node.op_type}, not tanh"
        if node.op_type == "Mul" and not (site.number(node.input[1 - uses[0].slot]) or 0.0) > 0:
            return "the cube is multiplied by something other than a positive constant"
        value = node.output[0]
    return "the cube reaches no tanh"


def _clamp(site: Site, x: str, readings: list[tuple[int, int]], limit: float) -> Edit:
    first = min(position for position, _ in readings)
    clamped = site.fresh(f"{x}_clamped_{first}")
    elem_type = site.elem_type(x)
    low, high = site.fresh(f"{clamped}_min"), site.fresh(f"{clamped}_max")
    bounds = [constant(low, -limit, elem_type), constant(high, limit, elem_type)]
    edit = Edit(site.scope.path, constants=bounds)
    node = site.scope.nodes[first]
    clip = helper.make_node("Clip", [x, low, high], [clamped], f"{node.name or clamped}/clamp")
    edit.insert.append((first, clip))
    for reading in readings:
        edit.rewire[reading] = clamped
    return edit
