"""Decomposed attention as ONNX's Attention operator (opset 23).

    softmax(scale * Q K^T [+ mask]) V   ->   Attention(Q, K, V[, mask], scale)

TensorRT 11 and TensorRT-RTX make one kernel of the operator, also with Q, K and V in FP32 between Casts, where
written-out attention in FP32 loses its kernel: kept in FP32 it sums and takes the softmax in FP32 at the price of the
Casts (`--fuse attention --keep-fp32 Attention`). Cases:

1. the scale is a scalar constant: on Q, on the scores (Mul or Div), on both sides, or absent;
2. K is transposed by itself ([0, 1, 3, 2]) or together with its heads ([0, 2, 3, 1], which leaves [0, 2, 1, 3]);
3. a mask that is added stays the operator's float mask. One that selects (Where, a constant below -1e3) becomes a float
   mask of 0 and that constant, because the operator's boolean mask makes NaN of a row that attends to nothing, where
   the constant makes a mean; a constant selection in which every row attends to something becomes a boolean mask.

Refused, with the reason: ranks that are not 4 or not known, a softmax over another axis, values inside that anything
else reads, scales that are computed, soft capping, nodes between that are none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import GraphIndex, Model, Scope, TypeTable, infer_types
from precision_planner.model.edit import PassResult, set_nodes
from precision_planner.model.names import FreshNames
from precision_planner.transforms.naming import fused_name
from precision_planner.transforms.opset import raise_opset

__all__ = ["ATTENTION_OPSET", "AttentionFusion", "Refused", "fuse_attention"]

ATTENTION_OPSET = 23
MASKED = -1e3
Fresh = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Refused:
    """An attention that stays written out: the node that makes its output, and why."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class AttentionFusion(PassResult):
    """What became of the attentions of a model.

    Attributes:
      model: rewritten; the model itself where nothing was.
      fused: names of the Attention nodes.
      refused: what looks like one and stays.
      float_masks: those of `fused` whose mask is a float.
    """

    fused: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    float_masks: tuple[str, ...] = ()


@dataclass(slots=True)
class _Attention:
    """One attention taken apart."""

    q: str = ""
    k: str = ""
    v: str = ""
    turned: bool = False
    scale: float = 1.0
    mask: str = ""
    selects: tuple[str, float, bool] | None = None
    repeats_mask: bool = False
    drop: list[int] = field(default_factory=list)


class _No(Exception):
    """The reason why something is no attention that can be written."""


def fuse_attention(model: Model) -> AttentionFusion:
    """Write every attention that can be proven to be one."""
    index = GraphIndex(model.proto)
    types = infer_types(model, index)
    found: list[tuple[Scope, int, _Attention]] = []
    refused: list[Refused] = []
    for scope, position, node in index.nodes():
        softmax = _softmax_of(scope, node)
        if softmax is None or scope.kind == "function":
            continue
        try:
            found.append((scope, position, _take_apart(model, index, types, scope, position, softmax)))
        except _No as no:
            refused.append(Refused(node.name or node.output[0], str(no)))
    if not found:
        return AttentionFusion(model, refused=tuple(refused))
    raised = raise_opset(model, ATTENTION_OPSET)
    if raised.opset < ATTENTION_OPSET:
        names = [scope.nodes[position].name or scope.nodes[position].output[0] for scope, position, _ in found]
        return AttentionFusion(model, refused=(*refused, *(Refused(name, raised.reason) for name in names)))
    written, names = _write(raised.model, [(scope.nodes[at].output[0], scope.path, one) for scope, at, one in found])
    index = GraphIndex(written.proto)
    made = {
        output for scope in index.scopes for node in scope.nodes if node.op_type == "Where" for output in node.output
    }
    masked = [node for _, _, node in index.nodes() if node.name in names and len(node.input) > 3]
    types = infer_types(written, index)
    floats = [
        n.name for n in masked if n.input[3] in made or types.of(index.main, n.input[3]).elem_type != TensorProto.BOOL
    ]
    return AttentionFusion(written, fused=tuple(names), refused=tuple(refused), float_masks=tuple(floats))


def _softmax_of(scope: Scope, node: onnx.NodeProto) -> int | None:
    """The position of the Softmax whose result a MatMul multiplies from the left."""
    if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx"):
        return None
    position = scope.producer(node.input[0])
    return position if position is not None and scope.nodes[position].op_type == "Softmax" else None


def _take_apart(model: Model, index: GraphIndex, types: TypeTable, scope: Scope, last: int, softmax: int) -> _Attention:
    found = _Attention(v=scope.nodes[last].input[1], drop=[last])
    axis = next((a.i for a in scope.nodes[softmax].attribute if a.name == "axis"), -1 if model.opset >= 13 else 1)
    if axis not in (-1, 3):
        raise _No(f"its softmax is over axis {axis}, not the last")
    value = _inside(scope, softmax, found)
    for _ in range(4):
        position = scope.producer(value)
        node = None if position is None else scope.nodes[position]
        if position is None or node is None:
            raise _No("its scores are no product of this graph")
        if node.op_type == "MatMul":
            break
        factor = _scalar_factor(model, index, scope, node)
        if factor is not None:
            found.scale *= factor[1]
            value = _inside(scope, position, found, factor[0])
        elif node.op_type == "Add" and not found.mask and found.selects is None:
            slot = 0 if _leads_to_product(model, index, scope, node.input[0]) else 1
            found.mask = node.input[1 - slot]
            value = _inside(scope, position, found, slot)
        elif node.op_type == "Where" and not found.mask and found.selects is None:
            slot, low = _selected(model, index, scope, node)
            found.selects = (node.input[0], low, slot == 1)
            value = _inside(scope, position, found, slot)
        else:
            raise _No(f"{node.op_type} stands between its product and its softmax")
    else:
        raise _No("too much stands between its product and its softmax")
    position = scope.producer(value)
    assert position is not None
    found.drop.append(position)
    _check_read_once(scope, position)
    product = scope.nodes[position]
    found.q = _unscaled(model, index, scope, product.input[0], found)
    _transposed(model, index, scope, _unscaled(model, index, scope, product.input[1], found), found)
    for what, name in (("Q", found.q), ("V", found.v), ("the scores", product.output[0])):
        shape = types.of(scope, name).shape
        if shape is None or len(shape) != 4:
            raise _No(f"the rank of {what} is {'not known' if shape is None else len(shape)}, not 4")
    mask = found.mask or (found.selects[0] if found.selects else "")
    if mask:
        shape, queries = types.of(scope, mask).shape, types.of(scope, found.q).shape
        # onnxruntime takes a mask of one row for all queries only if it is written out
        found.repeats_mask = not (
            shape and queries and len(shape) > 1 and shape[-2] is not None and shape[-2] == queries[2]
        )
    return found


def _check_read_once(scope: Scope, position: int) -> None:
    value = scope.nodes[position].output[0]
    if scope.is_read_elsewhere(value, frozenset()) and len(scope.consumers(value)) != 1:
        raise _No(f"'{value}' inside it is read elsewhere")
    if scope.is_output(value) or value in scope.captures or value in scope.body_outputs:
        raise _No(f"'{value}' inside it is read elsewhere")


def _inside(scope: Scope, position: int, found: _Attention, slot: int = 0) -> str:
    """Go on to what a node of the attention reads; nothing else may read the node."""
    _check_read_once(scope, position)
    found.drop.append(position)
    return scope.nodes[position].input[slot]


def _number(model: Model, index: GraphIndex, scope: Scope, name: str) -> float | None:
    """The value of a constant of one element."""
    array = _constant(model, index, scope, name)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _constant(model: Model, index: GraphIndex, scope: Scope, name: str) -> np.ndarray | None:
    holder = index.resolve(scope, name)
    if holder is None:
        return None
    if name in holder.initializers:
        return None if holder.is_overridable(name) else model.array(holder.initializers[name])
    node = holder.producer_node(name)
    if node is None or node.op_type != "Constant":
        return None
    return next((model.array(a.t) for a in node.attribute if a.name == "value"), None)


def _scalar_factor(model: Model, index: GraphIndex, scope: Scope, node: onnx.NodeProto) -> tuple[int, float] | None:
    """(slot of the value, factor) of a multiplication or division by a scalar constant."""
    for slot in (0, 1) if node.op_type == "Mul" else (0,) if node.op_type == "Div" else ():
        number = _number(model, index, scope, node.input[1 - slot])
        if number is not None and np.isfinite(number) and number != 0:
            return slot, number if node.op_type == "Mul" else 1 / number
    return None


def _selected(model: Model, index: GraphIndex, scope: Scope, node: onnx.NodeProto) -> tuple[int, float]:
    """(slot of the scores, what stands for masked ones) of a Where."""
    for slot in (1, 2):
        low = _number(model, index, scope, node.input[3 - slot])
        if low is not None and low <= MASKED:
            return slot, max(low, float(np.finfo(np.float32).min))
    raise _No("its Where puts no large negative constant where it masks")


def _leads_to_product(model: Model, index: GraphIndex, scope: Scope, name: str) -> bool:
    node = scope.producer_node(name)
    if node is not None and (factor := _scalar_factor(model, index, scope, node)) is not None:
        node = scope.producer_node(node.input[factor[0]])
    return node is not None and node.op_type == "MatMul"


def _unscaled(model: Model, index: GraphIndex, scope: Scope, name: str, found: _Attention) -> str:
    """The operand of Q K^T before a scaling that nothing else reads."""
    position = scope.producer(name)
    if position is None or len(scope.consumers(name)) != 1 or scope.is_output(name):
        return name
    factor = _scalar_factor(model, index, scope, scope.nodes[position])
    if factor is None:
        return name
    found.scale *= factor[1]
    found.drop.append(position)
    return scope.nodes[position].input[factor[0]]


def _transposed(model: Model, index: GraphIndex, scope: Scope, name: str, found: _Attention) -> None:
    """K of its transposed form."""
    node = scope.producer_node(name)
    perm = [] if node is None else next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
    if node is None or node.op_type != "Transpose" or perm not in ([0, 1, 3, 2], [0, 2, 3, 1]):
        raise _No("its K is not transposed by a Transpose of the last axes")
    found.turned = perm == [0, 2, 3, 1]
    made = scope.producer(name)
    if made is not None:
        found.drop.append(made)
    found.k = node.input[0]
    position = scope.producer(node.input[0])
    if not found.turned and position is not None and len(scope.consumers(node.input[0])) == 1:
        found.k = _unscaled(model, index, scope, node.input[0], found)


def _write(model: Model, found: Sequence[tuple[str, tuple[str, ...], _Attention]]) -> tuple[Model, list[str]]:
    proto = model.edit()
    index = GraphIndex(proto)
    made = FreshNames.of(proto)
    names: list[str] = []
    for scope in reversed(index.scopes):
        own = {output: one for output, path, one in found if path == scope.path}
        if not own:
            continue
        nodes: list[onnx.NodeProto] = []
        for node in scope.nodes:
            one = own.get(node.output[0]) if node.output else None
            if one is None:
                nodes.append(node)
                continue
            name = fused_name([node.name], "Attention", node.output[0], made)
            names.append(name)
            nodes += _attention_nodes(model, index, scope, one, node.output[0], name, made.fresh, proto.graph)
        set_nodes(scope.container, _live(scope, nodes, own))
    return model.with_proto(proto), names


def _attention_nodes(
    model: Model,
    index: GraphIndex,
    scope: Scope,
    one: _Attention,
    output: str,
    name: str,
    fresh: Fresh,
    graph: onnx.GraphProto,
) -> list[onnx.NodeProto]:
    nodes: list[onnx.NodeProto] = []
    k, mask = one.k, one.mask
    if one.turned:
        k = fresh(f"{one.k}_heads_first")
        nodes.append(helper.make_node("Transpose", [one.k], [k], fresh(f"{name}_k"), perm=[0, 2, 1, 3]))
    if one.selects is not None:
        condition, low, attends = one.selects
        chosen = _constant(model, index, scope, condition)
        if chosen is not None and (chosen if attends else ~chosen).any(-1).all():
            mask = fresh(f"{condition}_attends")
            graph.initializer.append(numpy_helper.from_array(np.array(chosen if attends else ~chosen), mask))
        else:
            mask, zero, floor = (fresh(f"{name}_{part}") for part in ("mask", "zero", "low"))
            for value, number in ((zero, 0.0), (floor, low)):
                graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), value))
            sides = [zero, floor] if attends else [floor, zero]
            nodes.append(helper.make_node("Where", [condition, *sides], [mask], fresh(f"{name}_where")))
    if mask and one.repeats_mask:
        mask = _repeated(mask, one.q, name, nodes, fresh, graph)
    inputs = [one.q, k, one.v, *([mask] if mask else [])]
    nodes.append(helper.make_node("Attention", inputs, [output], name, scale=float(np.float32(one.scale))))
    return nodes


def _repeated(mask: str, q: str, name: str, nodes: list[onnx.NodeProto], fresh: Fresh, graph: onnx.GraphProto) -> str:
    """The mask with a row for each query: expanded to [1, 1, queries, 1]."""
    ones, one, queries, shape, result = (
        fresh(f"{name}_{part}") for part in ("ones", "one", "queries", "shape", "rows")
    )
    graph.initializer.append(numpy_helper.from_array(np.array([1, 1], np.int64), ones))
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), one))
    nodes.append(helper.make_node("Shape", [q], [queries], fresh(f"{name}_Shape"), start=2, end=3))
    nodes.append(helper.make_node("Concat", [ones, queries, one], [shape], fresh(f"{name}_Concat"), axis=0))
    nodes.append(helper.make_node("Expand", [mask, shape], [result], fresh(f"{name}_Expand")))
    return result


def _live(scope: Scope, nodes: list[onnx.NodeProto], own: dict[str, _Attention]) -> list[onnx.NodeProto]:
    """Without the nodes of the attentions that nothing reads any more."""
    gone = {scope.nodes[at].output[0] for one in own.values() for at in one.drop} - set(own)
    while True:
        read = {name for node in nodes for name in node.input} | set(scope.outputs) | set(scope.captures)
        dead = [n for n in nodes if n.output and n.output[0] in gone and n.output[0] not in read]
        if not dead:
            return nodes
        ids = {id(node) for node in dead}
        nodes = [node for node in nodes if id(node) not in ids]
