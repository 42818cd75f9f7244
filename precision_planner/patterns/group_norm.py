"""InstanceNormalization on a reshape: group normalization, or layer normalization said so.

Reshape(x to [N, G, ...]) -> InstanceNormalization(ones, zeros) -> Reshape back [-> Mul(gamma)] [-> Add(beta)].
Each of the G groups of every sample is normalized over all that the reshape put behind it. Where these are the whole
trailing axes of x it is a layer normalization; G = 1 of [N, C, H, W] is one over C, H and W.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from precision_planner.model import FLOAT_TYPES, type_name
from precision_planner.patterns.affine import fit
from precision_planner.patterns.match import Match, NormRewrite
from precision_planner.patterns.view import View, attribute_float, is_reference

Shape = tuple[int | str | None, ...]


def find_reshaped(view: View) -> tuple[list[Match], set[int]]:
    """Group and layer normalizations through InstanceNormalization, and the positions of those nodes."""
    matches, used = [], set()
    for position, node in enumerate(view.scope.nodes):
        if node.op_type == "InstanceNormalization" and node.domain in ("", "ai.onnx"):
            match = _match(view, position)
            if match is not None:
                matches.append(match)
                used.add(position)
    return matches, used


def _match(view: View, position: int) -> Match | None:
    node = view.scope.nodes[position]
    before = view.node(view.root(node.input[0]))
    if before is None or before.op_type != "Reshape":
        return None
    nodes = {position, view.position(before.output[0]), *view.path(node.input[0])}
    after = node.output[0]
    for _ in range(4):
        reader = view.sole_consumer(after)
        if reader is None:
            return None
        nodes.add(reader)
        after = view.scope.nodes[reader].output[0]
        if view.scope.nodes[reader].op_type == "Reshape":
            break
        if view.scope.nodes[reader].op_type not in ("Cast", "Identity"):
            return None
    x, groups = before.input[0], _length(view, node.input[1])
    xshape, yshape = view.shape(x), view.shape(before.output[0])
    axes = _trailing(xshape, yshape)
    plain = _is_all(view, node.input[1], 1) and _is_all(view, node.input[2], 0)
    kind = "layer_normalization" if axes else "group_normalization"
    inputs = {"x": x, "scale": "", "bias": ""}
    core = after
    affine: list[tuple[str, str, int, str]] = []
    for op, role in (("Mul", "scale"), ("Add", "bias")):
        reader = view.sole_consumer(after)
        following = None if reader is None else view.standard(reader)
        if reader is None or following is None or following.op_type != op or len(following.input) != 2:
            continue
        other = following.input[1] if following.input[0] == after else following.input[0]
        if not view.is_parameter(view.root(_unshaped(view, other))):
            break
        inputs[role] = other
        after = following.output[0]
        affine.append((role, other, reader, after))
    epsilon = attribute_float(node, "epsilon", 1e-5)
    reason, rewrite, output = "", None, after
    if not axes:
        nodes |= {reader for _, _, reader, _ in affine}
        reason = "GroupNormalization is kept as it is written"
    else:
        reason = _problem(view, node, before, core, plain, xshape)
        if not reason:
            rewrite, output, taken = _layer(view, x, core, axes, epsilon, affine)
            nodes |= taken
            reason = "" if rewrite else f"the sizes of the axes behind x of shape {xshape} are unknown"
    return Match(
        kind,
        "decomposed",
        view.scope.path,
        view.ids(nodes),
        inputs,
        output,
        attributes={"epsilon": epsilon, "groups": groups or 0, "axes": axes or (), "stash_type": TensorProto.FLOAT},
        fusable=rewrite is not None,
        reason=reason,
        rewrite=rewrite,
    )


def _problem(view: View, node: object, before: object, core: str, plain: bool, xshape: Shape | None) -> str:
    from onnx import NodeProto

    assert isinstance(node, NodeProto)
    assert isinstance(before, NodeProto)
    if is_reference(node, "epsilon"):
        return "eps is an attribute of the function"
    if not plain:
        return "InstanceNormalization has a scale or bias of its own"
    back = view.node(core)
    restored = back is not None and _is_shape_of(view, back.input[1], before.input[0])
    if not restored and (xshape is None or view.shape(core) != xshape):
        return f"the last Reshape gives {view.shape(core)}, x has {xshape}"
    elem = view.elem(before.input[0])
    if elem and (elem not in FLOAT_TYPES or elem == TensorProto.DOUBLE or view.elem(core) != elem):
        return f"x is {type_name(elem)} and the result {type_name(view.elem(core))}"
    reader = view.outside_reader(before.output[0], {view.position(node.output[0])})
    return f"'{before.output[0]}' is also read by {reader}" if reader else ""


def _is_shape_of(view: View, value: str, x: str) -> bool:
    """Whether a value is Shape(x)."""
    node = view.node(value)
    whole = node is not None and node.op_type == "Shape" and not node.attribute
    return node is not None and whole and view.same(node.input[0], x)


def _layer(
    view: View, x: str, core: str, axes: tuple[int, ...], epsilon: float, affine: list[tuple[str, str, int, str]]
) -> tuple[NormRewrite | None, str, set[int]]:
    """One LayerNormalization, with as much of the affine as it takes."""
    shape = view.shape(x) or ()
    dims = tuple(size if isinstance(size, int) else None for size in (shape[axis] for axis in axes))
    scale = bias = None
    output, taken = core, set()
    for role, value, reader, after in affine:
        found = fit(view, value, x, axes, role)
        if found.operand is None:
            break
        scale, bias = (found.operand, bias) if role == "scale" else (scale, found.operand)
        output = after
        taken.add(reader)
    if scale is None and any(size is None for size in dims):
        return None, core, set()
    rewrite = NormRewrite(
        "LayerNormalization", x, view.elem(x), axes, dims, scale, bias, float(np.float32(epsilon)), rank=len(shape)
    )
    return rewrite, output, taken


def _trailing(xshape: Shape | None, yshape: Shape | None) -> tuple[int, ...] | None:
    """The trailing axes of x that the reshape to y = [N, G, ...] puts behind the groups; None if it cuts an axis."""
    if xshape is None or yshape is None or len(yshape) < 3:
        return None
    for count in range(1, len(xshape)):
        tail, head = xshape[-count:], xshape[:-count]
        if _product(tail) is not None and _product(tail) == _product(yshape[2:]):
            return tuple(range(-count, 0))
        if _product(tail) is None and _product(head) is not None and _product(head) == _product(yshape[:2]):
            return tuple(range(-count, 0))
        symbols = [dim for dim in head if not isinstance(dim, int)]
        if len(symbols) == 1 and symbols[0] is not None and yshape[0] == symbols[0]:
            rest = _product(tuple(dim for dim in head if isinstance(dim, int)))
            if rest == yshape[1]:
                return tuple(range(-count, 0))
    return None


def _product(dims: Shape) -> int | None:
    out = 1
    for dim in dims:
        if not isinstance(dim, int):
            return None
        out *= dim
    return out


def _length(view: View, value: str) -> int | None:
    shape = view.shape(value)
    size = shape[0] if shape and len(shape) == 1 else None
    return size if isinstance(size, int) else None


def _is_all(view: View, value: str, number: float) -> bool:
    array = view.index.constant(view.scope, value, view.model)
    return array is not None and bool((array == number).all())


def _unshaped(view: View, value: str) -> str:
    """The value behind reshapes of a parameter."""
    for _ in range(8):
        node = view.node(value)
        if node is None or node.op_type not in ("Unsqueeze", "Reshape", "Squeeze", "Cast", "Identity", "Expand"):
            break
        value = node.input[0]
    return value
