"""Give constants the rank of what they are combined with: [H] becomes [1, 1, H] beside a [B, S, H] value.

TensorRT's parser puts a Shuffle before an elementwise layer whose operands differ in rank. That Shuffle belongs to no
ONNX node, so a weakly typed constraint on the node does not reach it, and the constant may be rounded or overflow in
FP16 before the FP32 layer sees it. A constant that has the rank already needs none.

Exact by definition: ONNX broadcasts by prepending axes of size 1, which is all that is done here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnx import NodeProto, TensorProto, numpy_helper

from precision_planner.model import (
    GraphIndex,
    Model,
    NodeId,
    Scope,
    TypeTable,
    infer_types,
    marker_key,
    stored_tensor,
)
from precision_planner.model.edit import PassResult, set_nodes
from precision_planner.model.names import FreshNames
from precision_planner.operators import row_of

SINCE_OPSET = 7
"""From here on broadcasting is multidirectional; before, it went by attributes."""


@dataclass(frozen=True, slots=True)
class RankChange:
    """One operand that got its consumer's rank.

    Attributes:
      node: the consumer.
      slot: which of its inputs.
      constant: the constant's name before.
      before: its shape before.
      after: its shape now.
    """

    node: NodeId
    slot: int
    constant: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RankResult(PassResult):
    """The model and what was changed in it; the same model where nothing was."""

    changes: tuple[RankChange, ...] = ()


def give_consumers_rank(
    model: Model,
    nodes: Collection[NodeId] | None = None,
    *,
    index: GraphIndex | None = None,
    types: TypeTable | None = None,
) -> RankResult:
    """Prepend axes of size 1 to constants that are read by an elementwise node of higher rank.

    A constant that several nodes read keeps its shape for the others: the node reads a copy, which shares the stored
    weights. Constants that a caller can override, and nodes whose operands' ranks are unknown, are left alone.

    Args:
      model: any types.
      nodes: only these consumers; None takes all.
      index: of the model, if there is one already.
      types: of the model, likewise.
    """
    if model.opset < SINCE_OPSET:
        return RankResult(model)
    index = index or GraphIndex(model.proto)
    types = types or infer_types(model, index)
    changes = [
        change
        for scope, position, node in index.nodes()
        if scope.kind != "function" and (nodes is None or index.node_id(scope, position) in nodes)
        for change in _changes(index, types, model, scope, position, node)
    ]
    if not changes:
        return RankResult(model)
    return RankResult(_apply(model, index, changes), changes=tuple(changes))


def _changes(
    index: GraphIndex, types: TypeTable, model: Model, scope: Scope, position: int, node: NodeProto
) -> list[RankChange]:
    if not row_of(node).broadcasts:
        return []
    ranks = [types.of(scope, name).rank for name in node.input]
    known = [rank for rank in ranks if rank is not None]
    if len(known) != len(ranks):
        return []
    rank = max(known, default=0)
    found = []
    for slot, name in enumerate(node.input):
        before = _constant_shape(index, model, scope, name)
        if before is None or len(before) >= rank:
            continue
        after = (1,) * (rank - len(before)) + before
        found.append(RankChange(index.node_id(scope, position), slot, name, before, after))
    return found


def _constant_shape(index: GraphIndex, model: Model, scope: Scope, name: str) -> tuple[int, ...] | None:
    """The shape of a constant of the graph; None for anything else."""
    holder = index.resolve(scope, name)
    if holder is None:
        return None
    tensor = holder.initializers.get(name)
    if tensor is not None:
        overridable = holder.kind == "main" and holder.is_overridable(name)
        return None if overridable or tensor.data_type == TensorProto.STRING else tuple(tensor.dims)
    node = holder.producer_node(name)
    if node is None or node.op_type != "Constant":
        return None
    value = index.constant(scope, name, model)
    return None if value is None else tuple(value.shape)


def _apply(model: Model, index: GraphIndex, changes: list[RankChange]) -> Model:
    """The model with a reshaped copy of each constant where it is read; copies that nothing reads are dropped."""
    proto = model.edit()
    now = GraphIndex(proto)
    names = FreshNames.of(proto)
    copies: dict[tuple[tuple[str, ...], str, int], str] = {}
    replaced: dict[tuple[str, ...], set[str]] = {}
    for change in changes:
        found = now.find(change.node)
        assert found is not None, "the copy of a model has the nodes of the model"
        scope, position = found
        holder = now.resolve(scope, change.constant)
        assert holder is not None, "a constant is resolved before it is changed"
        key = (holder.path, change.constant, len(change.after))
        if key not in copies:
            original = index.by_path[holder.path]
            copies[key] = _add_copy(model, index, original, holder, change, names)
        scope.nodes[position].input[change.slot] = copies[key]
        replaced.setdefault(holder.path, set()).add(change.constant)
    _drop_unread(GraphIndex(proto), replaced)
    return model.with_proto(proto)


def _add_copy(
    model: Model, index: GraphIndex, original: Scope, holder: Scope, change: RankChange, names: FreshNames
) -> str:
    name = names.fresh(f"{change.constant}_rank{len(change.after)}")
    source = original.initializers.get(change.constant)
    key = None if source is None else marker_key(source)
    if source is not None and key is not None:
        copy = stored_tensor(name, change.after, source.data_type, key)
    else:
        value = index.constant(original, change.constant, model)
        assert value is not None, "the shape of a constant is known only where its value is"
        copy = numpy_helper.from_array(value.reshape(change.after), name)
    holder.container.initializer.append(copy)  # type: ignore[union-attr]
    return name


def _drop_unread(index: GraphIndex, replaced: Mapping[tuple[str, ...], set[str]]) -> None:
    """Take out the originals that nothing reads any more, initializers and Constant nodes alike."""
    for path, names in sorted(replaced.items(), key=lambda entry: -len(entry[0])):  # bodies first: nodes are copied
        scope = index.by_path[path]
        gone = {name for name in names if not scope.is_read_elsewhere(name, frozenset()) and not scope.is_input(name)}
        container = scope.container
        for tensors in (container.initializer, container.value_info):  # type: ignore[union-attr]
            for position in reversed([at for at, entry in enumerate(tensors) if entry.name in gone]):
                del tensors[position]
        kept = [node for node in container.node if node.op_type != "Constant" or node.output[0] not in gone]
        if len(kept) < len(container.node):
            set_nodes(container, kept)
