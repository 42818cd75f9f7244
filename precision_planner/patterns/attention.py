"""Softmax with its mask, attention around it, and the scaling of the scores before or after their product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from precision_planner.patterns.match import Match
from precision_planner.patterns.view import View, attribute_int

_ATTENTION_OPS = {
    ("", "Attention"),
    ("com.microsoft", "Attention"),
    ("com.microsoft", "MultiHeadAttention"),
    ("com.microsoft", "GroupQueryAttention"),
    ("com.microsoft", "PackedAttention"),
    ("com.microsoft", "PackedMultiHeadAttention"),
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"),
    ("com.microsoft", "QOrderedAttention"),
}
_GLUE = ("Cast", "Identity", "Dropout", "Reshape", "Unsqueeze", "Squeeze", "Clip", "Transpose", "Expand")


@dataclass(frozen=True, slots=True)
class _Scores:
    """What the softmax is taken of, and what was added and multiplied on the way."""

    value: str
    nodes: frozenset[int]
    mask: str = ""
    mask_value: float | None = None
    scale: float | None = None
    scale_nodes: frozenset[int] = frozenset()


def find_attention(view: View) -> list[Match]:
    """Softmaxes, attentions and scalings of scores in one scope; structural, nothing is proven beyond the shape."""
    matches: list[Match] = []
    for position, node in enumerate(view.scope.nodes):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) in _ATTENTION_OPS and node.output and node.output[0]:
            inputs = {role: (node.input[at] if at < len(node.input) else "") for at, role in enumerate("qkv")}
            matches.append(_make(view, "attention", "native", {position}, inputs, node.output[0], {}))
            continue
        if domain:
            continue
        if node.op_type == "Softmax":
            matches += _around(
                view, {position}, node.input[0], node.output[0], attribute_int(node, "axis", -1), "native"
            )
        elif node.op_type == "Div":
            found = _written_out(view, position)
            if found is not None:
                nodes, x, axis = found
                matches += _around(view, nodes, x, node.output[0], axis, "decomposed")
    return matches


def _written_out(view: View, position: int) -> tuple[set[int], str, int] | None:
    """Exp(x - max) / ReduceSum(Exp): the nodes, x, the axis."""
    node = view.scope.nodes[position]
    top, bottom = view.node(view.root(node.input[0])), view.node(view.root(node.input[1]))
    if top is None or bottom is None or top.op_type != "Exp" or bottom.op_type != "ReduceSum":
        return None
    if view.root(bottom.input[0]) != view.root(top.output[0]):
        return None
    axes = view.axes(bottom, bottom.input[0])
    if not isinstance(axes, tuple) or len(axes) != 1:
        return None
    nodes = {position, view.position(top.output[0]), view.position(bottom.output[0])}
    x = top.input[0]
    shift = view.node(view.root(x))
    if shift is not None and shift.op_type == "Sub":
        peak = view.node(view.root(shift.input[1]))
        if peak is not None and peak.op_type == "ReduceMax" and view.same(peak.input[0], shift.input[0]):
            nodes |= {view.position(shift.output[0]), view.position(peak.output[0])}
            x = shift.input[0]
    return nodes, x, axes[0]


def _around(view: View, core: set[int], x: str, output: str, axis: int, form: str) -> list[Match]:
    """The softmax and, where a product of q and k feeds it and one with v follows, the attention."""
    scores = _scores(view, x)
    attributes: dict[str, Any] = {"axis": axis, "mask_value": scores.mask_value}
    softmax_nodes = core | (set(scores.nodes) - set(scores.scale_nodes) if scores.mask else set())
    inputs = {"x": x if not scores.mask else scores.value, "mask": scores.mask}
    matches = [_make(view, "softmax", form, softmax_nodes, inputs, output, attributes)]
    product = view.node(scores.value)
    if product is None or product.op_type not in ("MatMul", "Einsum", "Gemm") or len(product.input) < 2:
        return matches
    product_at = view.position(scores.value)
    before, before_nodes, before_scale = _scaled_inputs(view, product)
    where = "after" if scores.scale_nodes else ("before" if before_nodes else "none")
    if where != "none":
        scale = scores.scale if scores.scale_nodes else before_scale
        nodes = {product_at} | (set(scores.scale_nodes) if scores.scale_nodes else before_nodes)
        scale_output = scores.value
        if scores.scale_nodes:
            scale_output = view.scope.nodes[max(scores.scale_nodes)].output[0]
        scale_inputs = {"q": product.input[0], "k": product.input[1]}
        scale_attributes = {"position": where, "scale": scale, "scores": scores.value}
        matches.append(
            _make(view, "attention_scale", "decomposed", nodes, scale_inputs, scale_output, scale_attributes)
        )
    second = _value_product(view, output)
    if second is None:
        return matches
    last, path, v = second
    nodes = core | set(scores.nodes) | {product_at, last} | path | before_nodes
    attention_inputs = {"q": before[0], "k": before[1], "v": v, "mask": scores.mask}
    attention_attributes = {
        "scale_position": where,
        "scale": scores.scale if scores.scale_nodes else before_scale,
        "qk": view.index.node_id(view.scope, product_at),
        "pv": view.index.node_id(view.scope, last),
        "softmax": view.index.node_id(view.scope, max(core)),
        "mask_value": scores.mask_value,
    }
    done = view.scope.nodes[last].output[0]
    matches.append(_make(view, "attention", "decomposed", nodes, attention_inputs, done, attention_attributes))
    return matches


def _scores(view: View, x: str) -> _Scores:
    """Walk from the softmax's input back over mask, scale and reshapes to the product of q and k."""
    at, nodes, mask, mask_value = x, set(), "", None
    scale, scale_nodes = None, set()
    for _ in range(12):
        node = view.node(at)
        if node is None or not node.input:
            break
        position = view.position(at)
        if node.op_type in _GLUE or node.op_type == "Tanh":  # Tanh: soft capping, as Gemma 2 has it
            following = node.input[0]
        elif node.op_type in ("Mul", "Div") and (factor := _factor(view, node)) is not None:
            following, number = factor
            number = None if number is None else (1 / number if node.op_type == "Div" and number else number)
            scale = number if scale is None or number is None else scale * number
            scale_nodes.add(position)
        elif node.op_type in ("Add", "Sub") and (masked := _masked(view, node)) is not None:
            following, other = masked
            mask, mask_value = mask or other, _lowest(view, other)
        elif node.op_type == "Where":
            constants = [slot for slot in (1, 2) if _fill(view, node.input[slot]) is not None]
            if len(constants) != 1:
                break
            following = node.input[3 - constants[0]]
            mask, mask_value = mask or node.input[0], _fill(view, node.input[constants[0]])
        else:
            break
        nodes.add(position)
        at = following
    if view.op(at) not in ("MatMul", "Einsum", "Gemm"):
        return _masked_only(view, x)
    return _Scores(at, frozenset(nodes), mask, mask_value, scale, frozenset(scale_nodes))


def _masked_only(view: View, x: str) -> _Scores:
    """The mask right before a softmax that is no attention (or whose scores come some other way)."""
    node = view.node(view.root(x))
    if node is None:
        return _Scores(x, frozenset())
    at = frozenset({view.position(view.root(x))})
    if node.op_type == "Add":
        masked = _masked(view, node)
        if masked is not None:
            lowest = _lowest(view, masked[1])
            if lowest is not None and lowest <= -1e3:
                return _Scores(masked[0], at, masked[1], lowest)
    if node.op_type == "Where":
        for slot in (1, 2):
            fill = _fill(view, node.input[slot])
            if fill is not None and fill <= -1e3:
                return _Scores(node.input[3 - slot], at, node.input[0], fill)
    return _Scores(x, frozenset())


def _factor(view: View, node: onnx.NodeProto) -> tuple[str, float | None] | None:
    """(the scores, the scalar) of a Mul or Div; the scalar None where it is computed at run time."""
    for slot in (1, 0) if node.op_type == "Mul" else (1,):
        other = node.input[slot]
        number = view.scalar(other, 8)
        if number is not None:
            return node.input[1 - slot], number
        shape = view.shape(other)
        if shape is not None and all(dim == 1 for dim in shape):
            return node.input[1 - slot], None
    return None


def _masked(view: View, node: onnx.NodeProto) -> tuple[str, str] | None:
    """(the scores, the mask) of an Add: the scores are what leads back to a product."""
    sides = [_leads_to_product(view, name) for name in node.input[:2]]
    if node.op_type == "Sub":
        return (node.input[0], node.input[1]) if sides[0] else None
    if sides[0] != sides[1]:
        return (node.input[0], node.input[1]) if sides[0] else (node.input[1], node.input[0])
    for slot in (0, 1):
        if view.is_parameter(node.input[slot]) or _lowest(view, node.input[slot]) is not None:
            return node.input[1 - slot], node.input[slot]
    return (node.input[0], node.input[1]) if sides[0] else None


def _leads_to_product(view: View, value: str) -> bool:
    for _ in range(8):
        node = view.node(value)
        if node is None:
            return False
        if node.op_type in ("MatMul", "Einsum", "Gemm"):
            return True
        if node.op_type in _GLUE or node.op_type == "Tanh":
            value = node.input[0]
        elif node.op_type in ("Mul", "Div") and (factor := _factor(view, node)) is not None:
            value = factor[0]
        elif node.op_type in ("Add", "Where"):
            return any(_leads_to_product_once(view, name) for name in node.input)
        else:
            return False
    return False


def _leads_to_product_once(view: View, value: str) -> bool:
    for _ in range(4):
        node = view.node(value)
        if node is None:
            return False
        if node.op_type in ("MatMul", "Einsum"):
            return True
        if node.op_type not in (*_GLUE, "Mul", "Div"):
            return False
        value = node.input[0]
    return False


def _lowest(view: View, value: str, depth: int = 3) -> float | None:
    """The lowest number that goes into a mask, where a constant near it says so."""
    at = value
    for _ in range(8):
        array = view.constant(at)
        if array is not None and array.dtype.kind in "fiV" and array.size:
            return float(np.min(array.astype(np.float64)))
        node = view.node(at)
        if node is None:
            return None
        if node.op_type == "Mul":
            numbers = [number for name in node.input if (number := view.scalar(name, 8)) is not None]
            return min(numbers) if numbers else None
        if node.op_type == "Where":
            fills = [fill for name in node.input[1:] if (fill := _fill(view, name)) is not None]
            return min(fills) if fills else None
        if node.op_type == "Add" and depth:
            lows = [low for name in node.input if (low := _lowest(view, name, depth - 1)) is not None]
            return min(lows) if lows else None
        if node.op_type not in (*_GLUE, "Slice", "Gather", "Concat", "ScatterND", "Trilu"):
            return None
        at = node.input[0]
    return None


def _fill(view: View, value: str) -> float | None:
    """The value of a constant that holds one number only."""
    array = view.constant(value)
    if array is not None and array.size and array.dtype.kind in "fV":
        numbers = array.astype(np.float64).reshape(-1)
        return float(numbers[0]) if (numbers == numbers[0]).all() else None
    node = view.node(value)
    if node is not None and node.op_type in ("Expand", "Cast", "Identity", "Unsqueeze"):
        return _fill(view, node.input[0])
    if node is not None and node.op_type == "ConstantOfShape":
        for attribute in node.attribute:
            if attribute.name == "value":
                return float(onnx.numpy_helper.to_array(attribute.t).reshape(-1)[0])
    return None


def _scaled_inputs(view: View, product: onnx.NodeProto) -> tuple[list[str], set[int], float | None]:
    """q and k before their scaling, the scaling nodes, and the factor they amount to."""
    sources, nodes, scale = [], set(), None
    for name in product.input[:2]:
        at, path = name, set()
        source = name
        for _ in range(4):
            node = view.node(at)
            if node is None or not node.input:
                break
            position = view.position(at)
            if node.op_type in _GLUE:
                path.add(position)
                at = node.input[0]
                continue
            if node.op_type in ("Mul", "Div") and (factor := _factor(view, node)) is not None:
                source, number = factor
                if number is not None:
                    number = 1 / number if node.op_type == "Div" and number else number
                    scale = number if scale is None else scale * number
                nodes |= path | {position}
            break
        sources.append(source)
    return sources, nodes, scale


def _value_product(view: View, value: str) -> tuple[int, set[int], str] | None:
    """The product of the probabilities with v: its position, the nodes between, v."""
    path: set[int] = set()
    for _ in range(6):
        readers = dict.fromkeys(use.position for use in view.scope.consumers(value)[:8])
        following = ""
        for reader in readers:
            node = view.standard(reader)
            if node is None or not node.output:
                continue
            if node.op_type in ("MatMul", "Einsum") and len(node.input) == 2:
                other = node.input[1] if node.input[0] == value else node.input[0]
                return reader, path, other
            if node.op_type in (*_GLUE, "Where", "Mul") and not following:
                following = node.output[0]
                path.add(reader)
        if not following:
            return None
        value = following
    return None


def _make(
    view: View, kind: str, form: str, nodes: set[int], inputs: dict[str, str], output: str, attributes: dict[str, Any]
) -> Match:
    return Match(kind, form, view.scope.path, view.ids(nodes), inputs, output, attributes=attributes)
