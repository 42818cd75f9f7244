"""Where a node stands in the graph: what it leads to and what it comes from.

Everything is found by walks over elementwise and shape ops only, so a position never reaches past a GEMM, a
convolution or a normalization; they go into bodies and functions and out of them, and visit a value once, so all of
them are linear in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import TypeAlias

from onnx import NodeProto, TensorProto

from precision_planner.model import FLOAT_TYPES, GraphIndex, Scope, TypeTable
from precision_planner.model.flow import Flow
from precision_planner.operators import (
    ALONE,
    PRODUCTS,
    Product,
    Slots,
    computes_with,
    hands_mask_on,
    is_arithmetic,
    is_conversion,
    is_product,
    moves_values,
    named,
    row_of,
    slots_of,
)
from precision_planner.operators.row import Operator

__all__ = ["SURROUNDINGS", "Place", "find_surroundings", "walk_up"]

Place: TypeAlias = tuple[Scope, int]
"""A node: its graph and its position in it."""

SURROUNDINGS = {
    "feeds_softmax": "its output reaches a Softmax through adds, scales, masks and shape ops alone",
    "index_arithmetic": "float arithmetic whose result is cast to an integer and used as an index, a shape or a bound",
    "shape_arithmetic": "float arithmetic on what Shape or Size gave",
    "coordinates": "arithmetic that makes sampling coordinates (GridSample, RoiAlign) or Resize's scales and regions",
    "angles": "arithmetic that makes the argument of a Sin or Cos, from positions or times",
    "trigonometry": "a Sin or Cos, or arithmetic that leads to one",
    "reads_denominator": "its output is a divisor, or the argument of Sqrt, Log, Reciprocal or a negative power",
}
"""Name -> meaning."""

_SHAPE_CONSTANT = 16
"""Elements that a constant of shape arithmetic has at most: no tensor has more axes than that."""
_DENOMINATOR_STEPS = 16
_MATRIX: frozenset[Product] = frozenset({"matmul", "einsum"})

_Key: TypeAlias = tuple[tuple[str, ...], int]


def walk_up(
    flow: Flow,
    starts: Iterable[tuple[Scope, str]],
    enter: Callable[[NodeProto], bool],
    *,
    until: Callable[[Scope, str], bool] | None = None,
    limit: int | None = None,
) -> list[Place]:
    """The nodes that values come from, as far as `enter` allows.

    Args:
      flow: of the model.
      starts: (graph, value).
      enter: whether a node belongs to the walk (and what it computes with is followed).
      until: (graph, value) behind which the walk does not go; the node that makes it does not belong to it.
      limit: how many values are looked at, at most; None for all.
    """

    def through(node: NodeProto, slot: int) -> bool:
        moves = row_of(node).moves
        return enter(node) and (not moves or row_of(node).pointwise or slot in moves)

    return [
        (at.scope, at.position)
        for at, _ in flow.trace(starts, through, until=until, limit=limit)
        if at.node is not None and enter(at.node) and not (until is not None and until(at.scope, at.value))
    ]


def find_surroundings(
    index: GraphIndex, flow: Flow, types: TypeTable, number: Callable[[Scope, str], float | None]
) -> Mapping[_Key, frozenset[str]]:
    """Every node's surroundings.

    Args:
      index: of the model.
      flow: of the model.
      types: the model's types; a node whose output type is unknown counts as float.
      number: the value of a constant of one element, None for everything else.

    Returns:
      (scope path, node position) -> names of `SURROUNDINGS`; nodes without any are left out.
    """
    floats = {
        (scope.path, position)
        for scope, position, node in index.nodes()
        if any(name and types.of(scope, name).elem_type in (0, *FLOAT_TYPES) for name in node.output[:1])
    }
    angles = _keys(walk_up(flow, _inputs_at(index, lambda row: row.angles), _is_angle_arithmetic)) & floats
    coordinates = walk_up(flow, _inputs_at(index, lambda row: row.coordinates), _is_any_arithmetic)
    sets = {
        "feeds_softmax": _feeding(flow, index),
        "index_arithmetic": _index_arithmetic(flow, index, types) & floats,
        "shape_arithmetic": _from_shapes(index, types) & floats,
        "coordinates": _keys(coordinates) & floats,
        "angles": angles,
        "trigonometry": angles | {(scope.path, at) for scope, at, node in index.nodes() if row_of(node).angles},
        "reads_denominator": _denominators(flow, index, number),
    }
    found: dict[_Key, set[str]] = {}
    for name, keys in sets.items():
        for key in keys:
            found.setdefault(key, set()).add(name)
    return {key: frozenset(names) for key, names in found.items()}


def _keys(places: Iterable[Place]) -> set[_Key]:
    return {(scope.path, position) for scope, position in places}


def _is_any_arithmetic(node: NodeProto) -> bool:
    return is_arithmetic(node, activations=True)


def _is_angle_arithmetic(node: NodeProto) -> bool:
    return _is_any_arithmetic(node) or is_product(node, _MATRIX)


def _inputs_at(index: GraphIndex, column: Callable[[Operator], Slots]) -> Iterator[tuple[Scope, str]]:
    for scope, _, node in index.nodes():
        for _, value in slots_of(node, column(row_of(node))):
            yield scope, value


def _feeding(flow: Flow, index: GraphIndex) -> set[_Key]:
    """Nodes that lead to a softmax's scores or mask; a walk ends at a product, which still belongs to it."""

    def sinks(row: Operator) -> Slots:
        return row.masks if row.product else row.scores

    return {
        (at.scope.path, at.position)
        for at, passes in flow.trace(_inputs_at(index, sinks), hands_mask_on)
        if at.node is not None and (passes or row_of(at.node).generates or is_product(at.node, PRODUCTS))
    }


def _index_arithmetic(flow: Flow, index: GraphIndex, types: TypeTable) -> set[_Key]:
    """Elementwise float nodes between a cast to an integer that is used as an index and where they come from."""
    starts = [
        *_inputs_at(index, lambda row: row.indices),
        *_inputs_at(index, lambda row: row.shapes),
    ]  # fmt: skip
    casts = [
        (at.scope, at.node.input[0])
        for at, _ in flow.trace(starts, lambda node, slot: computes_with(node, slot) and not _casts_to_integer(node))
        if at.node is not None
        and _casts_to_integer(at.node)
        and types.of(at.scope, at.node.input[0]).elem_type in (0, *FLOAT_TYPES)
    ]
    return _keys(walk_up(flow, casts, _is_counting))


def _is_counting(node: NodeProto) -> bool:
    """Float index arithmetic: it ends at lookups, choices and activations, behind which are a network's predictions."""
    return is_arithmetic(node) and row_of(node).movement != "lookup" and node.op_type != "Where"


def _casts_to_integer(node: NodeProto) -> bool:
    to = named(node, "to") if is_conversion(node) else None
    return to is not None and to.i in (
        TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8,
        TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
    )  # fmt: skip


def _from_shapes(index: GraphIndex, types: TypeTable) -> set[_Key]:
    """Nodes all of whose inputs come from Shape, Size or small constants, the first or another from Shape or Size.

    A lookup in a table by a number that comes from a shape (position embeddings) is no arithmetic on shapes.
    """
    found: set[_Key] = set()
    for scope in index.scopes:
        derived: set[str] = set()
        constant = {name for name, tensor in scope.initializers.items() if prod(tensor.dims) <= _SHAPE_CONSTANT}
        for position, node in enumerate(scope.nodes):
            if row_of(node).blind and not row_of(node).generates:
                derived.update(node.output)
            elif node.op_type == "Constant":
                shape = types.of(scope, node.output[0]).shape or ()
                if prod(dim for dim in shape if isinstance(dim, int)) <= _SHAPE_CONSTANT:
                    constant.update(node.output)
            elif _is_any_arithmetic(node) and not _makes_tensors(node):
                inputs = [name for name in node.input if name]
                if row_of(node).movement == "lookup" and inputs[0] not in derived:
                    continue
                if any(name in derived for name in inputs) and all(n in derived or n in constant for n in inputs):
                    derived.update(node.output)
                    found.add((scope.path, position))
    return found


def _makes_tensors(node: NodeProto) -> bool:
    """Whether a shape makes a tensor of that shape here: no arithmetic on it any more."""
    row = row_of(node)
    return row.generates or row.movement == "repeat" or node.op_type == "Range"


def _denominators(flow: Flow, index: GraphIndex, number: Callable[[Scope, str], float | None]) -> set[_Key]:
    starts = list(_inputs_at(index, lambda row: row.denominators))
    starts += [
        (scope, node.input[0])
        for scope, _, node in index.nodes()
        if node.op_type == "Pow" and (number(scope, node.input[1]) or 0.0) < 0
    ]
    found: set[_Key] = set()
    for start in starts:
        found |= _keys(walk_up(flow, [start], _keeps_zero, limit=_DENOMINATOR_STEPS))
    return found


def _keeps_zero(node: NodeProto) -> bool:
    """Whether a zero stays one behind a node that moves it or takes its root; or the Add or Max that would mend it."""
    return moves_values(node, ALONE) or bool(row_of(node).lifts) or node.op_type == "Sqrt"
