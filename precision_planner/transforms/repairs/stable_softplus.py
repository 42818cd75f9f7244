"""Write softplus so that nothing overflows: log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)).

exp(x) passes 65504 at 11.09, and log(inf) is inf where the result is x. The stable form never leaves (0, 1] before the
logarithm.

Cases: 1. Log(Add(Exp(x), 1)), operands in either order; 2. the Softplus node. Mish keeps its Tanh and Mul.
"""

from __future__ import annotations

from onnx import helper

from precision_planner.model.edit import Edit
from precision_planner.transforms.repairs.site import Site, constant

__all__ = ["plan"]


def plan(site: Site) -> Edit | str:
    """Plan the rewrite for the one Log or Softplus among (or behind) the site's nodes."""
    for node_id in site.nodes:
        place = site.place(node_id)
        if place is None:
            continue
        position = place[1]
        node = site.scope.nodes[position]
        if node.op_type == "Softplus":
            return _rewrite(site, node.input[0], position, {position})
        if node.op_type == "Exp":
            return _from_exp(site, position)
        if node.op_type == "Log":
            add = site.scope.producer(node.input[0])
            exp = None if add is None else _exp_of(site, add)
            if exp is not None:
                return _from_exp(site, exp)
    return "there is no softplus"


def _exp_of(site: Site, add: int) -> int | None:
    node = site.scope.nodes[add]
    if node.op_type != "Add":
        return None
    for value in node.input:
        at = site.scope.producer(value)
        if at is not None and site.scope.nodes[at].op_type == "Exp":
            return at
    return None


def _from_exp(site: Site, exp: int) -> Edit | str:
    """Exp -> Add 1 -> Log, each read by the next alone."""
    scope = site.scope
    value = scope.nodes[exp].output[0]
    uses = scope.consumers(value)
    if len(uses) != 1 or scope.is_read_elsewhere(value, {uses[0].position}):
        return f"{value} is read elsewhere too"
    add = uses[0].position
    node = scope.nodes[add]
    if node.op_type != "Add" or site.number(node.input[1 - uses[0].slot]) != 1.0:
        return "what follows the exponential is not + 1"
    uses = scope.consumers(node.output[0])
    if len(uses) != 1 or scope.is_read_elsewhere(node.output[0], {uses[0].position}):
        return f"{node.output[0]} is read elsewhere too"
    log = uses[0].position
    if scope.nodes[log].op_type != "Log":
        return f"what follows 1 + exp(x) is {scope.nodes[log].op_type}, not Log"
    x = scope.nodes[exp].input[0]
    if _is_never_positive(site, x):
        return "it is stable as it is: what is exponentiated is never positive"
    return _rewrite(site, x, log, {exp, add, log})


def _is_never_positive(site: Site, value: str) -> bool:
    """Whether a value is -|x|, as this repair writes it."""
    at = site.scope.producer(value)
    if at is None or site.scope.nodes[at].op_type != "Neg":
        return False
    inner = site.scope.producer(site.scope.nodes[at].input[0])
    return inner is not None and site.scope.nodes[inner].op_type == "Abs"


def _rewrite(site: Site, x: str, last: int, remove: set[int]) -> Edit:
    final = site.scope.nodes[last]
    name, base = final.name or final.output[0], final.output[0]
    one = constant(site.fresh(f"{base}_one"), 1.0, site.elem_type(x))
    parts = ("positive", "abs", "negative", "exp", "sum", "log")
    positive, size, negative, power, total, log = (site.fresh(f"{base}_{part}") for part in parts)
    steps = [
        ("Relu", [x], positive),
        ("Abs", [x], size),
        ("Neg", [size], negative),
        ("Exp", [negative], power),
        ("Add", [power, one.name], total),
        ("Log", [total], log),
        ("Add", [positive, log], base),
    ]
    edit = Edit(site.scope.path, remove=set(remove), constants=[one])
    edit.insert += [
        (last, helper.make_node(op, inputs, [output], name if output == base else f"{name}/{output}"))
        for op, inputs, output in steps
    ]
    return edit
