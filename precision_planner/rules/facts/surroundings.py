"""Where a node stands in the graph: what it leads to and what it comes from.

Everything is found by walks over elementwise and shape ops only, so a position never reaches past a GEMM, a
convolution or a normalization; each walk visits a node once, so all of them are linear in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

from onnx import NodeProto, TensorProto

from precision_planner.model import FLOAT_TYPES, Scope, TypeTable

__all__ = ["ELEMENTWISE", "SURROUNDINGS", "find_surroundings", "walk_up"]

ELEMENTWISE = frozenset(
    [
        "Abs",
        "Add",
        "Ceil",
        "Clip",
        "Concat",
        "Cos",
        "CumSum",
        "Div",
        "Equal",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "And",
        "Or",
        "Pad",
        "Pow",
        "Range",
        "Reciprocal",
        "Reshape",
        "Round",
        "ScatterND",
        "Sigmoid",
        "Sign",
        "Sin",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tanh",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
        "Cast",
        "CastLike",
        "ConstantOfShape",
        "EyeLike",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
    ]
)
"""Ops that a walk passes: arithmetic value by value, and moving values about."""

_MOVES = frozenset(
    [
        "Cast",
        "CastLike",
        "Concat",
        "Expand",
        "Flatten",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Where",
        "Max",
        "Min",
        "Clip",
        "Pad",
        "ScatterND",
        "Trilu",
        "Tile",
        "ConstantOfShape",
    ]
)
"""Ops that attention scores pass on their way to a softmax."""

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

_INDEX_INPUTS = {
    "Gather": (1,), "GatherElements": (1,), "GatherND": (1,), "ScatterElements": (1,), "ScatterND": (1,),
    "Scatter": (1,), "OneHot": (0, 1), "Slice": (1, 2, 3, 4), "Reshape": (1,), "Expand": (1,), "Tile": (1,),
    "Pad": (1,), "TopK": (1,), "Range": (0, 1, 2), "ConstantOfShape": (0,), "Squeeze": (1,), "Unsqueeze": (1,),
    "Split": (1,), "Resize": (3,), "CumSum": (1,), "Trilu": (1,), "Loop": (0,), "RoiAlign": (2,),
}  # fmt: skip
"""Op type -> the inputs that are indices, shapes or bounds."""
_COORDINATE_INPUTS = {"GridSample": (1,), "RoiAlign": (1,), "Resize": (1, 2), "Upsample": (1,), "MaxRoiPool": (1,)}
_SHAPE_CONSTANT = 16
"""Elements that a constant of shape arithmetic has at most: no tensor has more axes than that."""
_FLOAT_INTEGER_OPS = frozenset({"ArgMax", "ArgMin", "NonZero", "TopK", "NonMaxSuppression", "Shape", "Size"})


def walk_up(
    scope: Scope, starts: Iterable[str], enter: Callable[[NodeProto], bool], *, limit: int | None = None
) -> list[int]:
    """The nodes that values come from, as far as `enter` allows; ascending positions.

    Args:
      scope: the graph.
      starts: values.
      enter: whether a node belongs to the walk (and its inputs are followed).
      limit: how many nodes at most; None for all.
    """
    found: set[int] = set()
    waiting = list(starts)
    while waiting and (limit is None or len(found) < limit):
        position = scope.producer(waiting.pop())
        if position is None or position in found:
            continue
        node = scope.nodes[position]
        if enter(node):
            found.add(position)
            waiting.extend(name for name in node.input if name)
    return sorted(found)


def find_surroundings(
    scope: Scope, types: TypeTable, number: Callable[[str], float | None]
) -> dict[int, frozenset[str]]:
    """Every node's positions.

    Args:
      scope: the graph.
      types: the model's types; a node whose output type is unknown counts as float.
      number: the value of a constant of one element, None for everything else.

    Returns:
      Node position -> names of `SURROUNDINGS`; nodes without any are left out.
    """
    floats = {
        position
        for position, node in enumerate(scope.nodes)
        if any(name and types.of(scope, name).elem_type in (0, *FLOAT_TYPES) for name in node.output[:1])
    }
    sets = {
        "feeds_softmax": _feeding(scope, _softmax_inputs(scope), _MOVES | {"MatMul", "Gemm", "Einsum"}),
        "index_arithmetic": _index_arithmetic(scope, types) & floats,
        "shape_arithmetic": _from_shapes(scope, types) & floats,
        "coordinates": set(walk_up(scope, _inputs_at(scope, _COORDINATE_INPUTS), _is_arithmetic)) & floats,
        "angles": set(walk_up(scope, _angle_inputs(scope), _is_angle_arithmetic)) & floats,
        "reads_denominator": _denominators(scope, number),
    }
    sets["trigonometry"] = sets["angles"] | {
        position for position, node in enumerate(scope.nodes) if node.op_type in ("Sin", "Cos")
    }
    found: dict[int, set[str]] = {}
    for name, positions in sets.items():
        for position in positions:
            found.setdefault(position, set()).add(name)
    return {position: frozenset(names) for position, names in found.items()}


def _is_arithmetic(node: NodeProto) -> bool:
    return node.op_type in ELEMENTWISE and node.domain in ("", "ai.onnx")


def _is_angle_arithmetic(node: NodeProto) -> bool:
    return _is_arithmetic(node) or node.op_type in ("MatMul", "Einsum", "Gemm")


def _inputs_at(scope: Scope, slots: dict[str, tuple[int, ...]]) -> list[str]:
    return [
        node.input[slot]
        for node in scope.nodes
        for slot in slots.get(node.op_type, ())
        if slot < len(node.input) and node.input[slot]
    ]


def _softmax_inputs(scope: Scope) -> list[str]:
    return [node.input[0] for node in scope.nodes if node.op_type in ("Softmax", "LogSoftmax")]


def _angle_inputs(scope: Scope) -> list[str]:
    return [node.input[0] for node in scope.nodes if node.op_type in ("Sin", "Cos")]


def _feeding(scope: Scope, starts: list[str], through: frozenset[str]) -> set[int]:
    """Nodes of `through` that lead to the starts; a walk ends at a GEMM, which still belongs to it."""
    found: set[int] = set()
    waiting = list(starts)
    while waiting:
        position = scope.producer(waiting.pop())
        if position is None or position in found:
            continue
        node = scope.nodes[position]
        if node.op_type in through:
            found.add(position)
            if node.op_type in _MOVES:
                waiting.extend(name for name in node.input if name)
    return found


def _index_arithmetic(scope: Scope, types: TypeTable) -> set[int]:
    """Elementwise float nodes between a cast to an integer that is used as an index and where they come from."""
    integer_walk = walk_up(
        scope,
        _inputs_at(scope, _INDEX_INPUTS),
        lambda node: node.op_type not in _FLOAT_INTEGER_OPS and _is_arithmetic(node) and not _casts_float(node),
    )
    casts: list[str] = []
    reached = set(_inputs_at(scope, _INDEX_INPUTS))
    for position in integer_walk:
        reached.update(scope.nodes[position].input)
    for value in reached:
        node = scope.producer_node(value)
        if node is not None and node.op_type == "Cast" and _casts_to_integer(node):
            source = node.input[0]
            if types.of(scope, source).elem_type in (0, *FLOAT_TYPES):
                casts.append(source)
    return set(walk_up(scope, casts, lambda node: _is_arithmetic(node) and node.op_type not in _INDEX_READERS))


_INDEX_READERS = frozenset({"Gather", "Sigmoid", "Tanh", "Where"})
"""Where float index arithmetic ends: a network's own predictions lie behind these."""


def _casts_to_integer(node: NodeProto) -> bool:
    to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)
    return to in (
        TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8,
        TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
    )  # fmt: skip


def _casts_float(node: NodeProto) -> bool:
    return node.op_type == "Cast" and _casts_to_integer(node)


def _from_shapes(scope: Scope, types: TypeTable) -> set[int]:
    """Nodes all of whose inputs come from Shape, Size or small constants, the first or another from Shape or Size.

    A lookup in a table by a number that comes from a shape (position embeddings) is no arithmetic on shapes.
    """
    derived: set[str] = set()
    constant = {name for name, tensor in scope.initializers.items() if prod(tensor.dims) <= _SHAPE_CONSTANT}
    found: set[int] = set()
    for position, node in enumerate(scope.nodes):
        if node.op_type in ("Shape", "Size"):
            derived.update(node.output)
        elif node.op_type == "Constant":
            shape = types.of(scope, node.output[0]).shape or ()
            if prod(dim for dim in shape if isinstance(dim, int)) <= _SHAPE_CONSTANT:
                constant.update(node.output)
        elif _is_arithmetic(node) and node.op_type not in ("ConstantOfShape", "Range", "Expand", "EyeLike"):
            inputs = [name for name in node.input if name]
            if node.op_type == "Gather" and inputs[0] not in derived:
                continue
            if any(name in derived for name in inputs) and all(name in derived or name in constant for name in inputs):
                derived.update(node.output)
                found.add(position)
    return found


def _denominators(scope: Scope, number: Callable[[str], float | None]) -> set[int]:
    found: set[int] = set()
    for node in scope.nodes:
        value = ""
        if node.op_type == "Div" and len(node.input) > 1:
            value = node.input[1]
        elif node.op_type in ("Sqrt", "Log", "Reciprocal") or (
            node.op_type == "Pow" and (number(node.input[1]) or 0.0) < 0
        ):
            value = node.input[0]
        for position in walk_up(scope, [value] if value else [], _keeps_zero, limit=16):
            found.add(position)
    return found


def _keeps_zero(node: NodeProto) -> bool:
    """Ops behind which a zero stays one (and the Add or Max that would mend it)."""
    return node.op_type in (
        "Identity",
        "Cast",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "Sqrt",
        "Add",
        "Max",
        "Clip",
    )
