"""The questions that are asked of a node's operator; `row_of` answers those that its columns say alone.

Attributes count: a Resize that interpolates moves nothing, and a ScatterND that adds is a sum.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, NodeProto

from precision_planner.operators.row import Movement, Product, Reduction, Slots
from precision_planner.operators.table import domain_of, row_of

RESHAPES: frozenset[Movement] = frozenset({"whole"})
"""Every element of one input once."""
ALONE: frozenset[Movement] = RESHAPES | {"part", "repeat"}
"""The values of one input and nothing beside them."""
ANYHOW: frozenset[Movement] = ALONE | {"fill", "merge", "lookup"}
"""Every way to move values: with fills, from several inputs, from rows of a table."""

GEMMS: frozenset[Product] = frozenset({"matmul", "convolution"})
"""Products of an activation and a weight, which TensorRT may compute in TF32 and which can take up a power of two."""
PRODUCTS: frozenset[Product] = GEMMS | {"einsum", "recurrent", "attention"}
"""Every operator that sums products of floats."""

TOTALS: frozenset[Reduction] = frozenset({"sum", "prod", "max", "min"})
"""Reductions that lengths and positions are made with."""
MOMENTS: frozenset[Reduction] = TOTALS | {"mean", "l1", "l2", "sum_square"}
"""With those that statistics are made with."""


def holds(node: NodeProto) -> bool:
    """Whether a node's attributes are those for which its row says that it moves, is exact and is linear."""
    for name, values in row_of(node).only_if.items():
        given = next((a for a in node.attribute if a.name == name), None)
        if given is not None and given.ref_attr_name:
            return False
        if _plain(given) not in values:
            return False
    return True


def _plain(given: AttributeProto | None) -> str | int | None:
    if given is None:
        return None
    return given.s.decode() if given.type == AttributeProto.STRING else given.i


def moves_values(node: NodeProto, how: frozenset[Movement] = ANYHOW, *, casts: bool = True) -> bool:
    """Whether a node hands values on without computing with them.

    Args:
      node: any node that calls no local function.
      how: the ways that count.
      casts: whether a Cast counts: it hands values on as far as its target holds them.
    """
    found = row_of(node)
    return found.movement in how and (casts or not found.converts) and holds(node)


def carries(node: NodeProto, slot: int, how: frozenset[Movement] = ALONE, *, casts: bool = True) -> bool:
    """Whether the values of an input are handed on by a node: those of `how` other inputs may stand beside them.

    Args:
      node: any node that calls no local function.
      slot: the index of the input.
      how: the ways that count; by default those that hand on the values of this input alone.
      casts: whether a Cast counts.
    """
    return slot in row_of(node).moves and moves_values(node, how, casts=casts)


def carries_to(node: NodeProto) -> Iterator[str]:
    """The outputs that hold what a node moves."""
    to = row_of(node).moves_to
    return (name for at, name in enumerate(node.output) if name and (at in to or -1 in to))


def is_exact(node: NodeProto) -> bool:
    """Whether a node's result needs no rounding where its inputs were rounded."""
    return row_of(node).exact and holds(node) and not _has_open_bound(node)


def _has_open_bound(node: NodeProto) -> bool:
    """Whether a Clip leaves out a bound, which is then the largest number of the type that it computes in."""
    if node.op_type != "Clip" or domain_of(node):
        return False
    inputs = [name for name in node.input[1:3] if name]
    return len(inputs) < 2 and not (named(node, "min") and named(node, "max"))


def is_pointwise(node: NodeProto) -> bool:
    """Whether a builder computes a node element by element, and so may chain it with others inside one kernel."""
    return row_of(node).pointwise


def is_product(node: NodeProto, kinds: frozenset[Product] = GEMMS) -> bool:
    """Whether a node is a product of the given kinds: by default MatMul, Gemm, convolutions and their fused forms."""
    return row_of(node).product in kinds


def is_norm(node: NodeProto) -> bool:
    """Whether a node is a native normalization."""
    return bool(row_of(node).normalizes)


def is_comparison(node: NodeProto) -> bool:
    """Whether a node compares its operands, exactly in whatever type they have."""
    return row_of(node).compares


def is_conversion(node: NodeProto) -> bool:
    """Whether a node is a Cast or CastLike."""
    return row_of(node).converts


def is_generator(node: NodeProto) -> bool:
    """Whether a node makes floats from no float."""
    return row_of(node).generates


def is_arithmetic(node: NodeProto, *, activations: bool = False, reductions: frozenset[Reduction] = TOTALS) -> bool:
    """Whether a node is what exporters compute positions, shapes and angles with: a walk along them goes through it.

    Values moved in any way (interpolated too), element by element, made of integers, or summed over axes; no product,
    window, normalization, softmax, nor what picks by order (TopK, ArgMax): behind those lie a network's own values.

    Args:
      node: any node that calls no local function.
      activations: whether a network's nonlinearities count: they bound what it predicts, coordinates among it.
      reductions: those that count; a mean or a sum of squares is part of a normalization as a rule.
    """
    found = row_of(node)
    if found.name == "" or found.domain or found.container or found.random or found.quantizes:
        return False
    if found.activation:
        return activations
    return bool(
        found.moves or found.pointwise or (found.generates and not found.type_attribute) or found.name == "EyeLike"
        or found.name == "Range" or (found.reduces in reductions and not found.window)
    )  # fmt: skip


def computes_with(node: NodeProto, slot: int, *, activations: bool = False) -> bool:
    """Whether a node is arithmetic, and an input what it computes with: not what says where values go (an index).

    Args:
      node: any node that calls no local function.
      slot: the index of the input.
      activations: as of `is_arithmetic`.
    """
    found = row_of(node)
    return is_arithmetic(node, activations=activations) and (not found.moves or found.pointwise or slot in found.moves)


def combines(node: NodeProto) -> bool:
    """Whether a node adds, bounds or selects among its operands element by element, in the scale that they have."""
    found = row_of(node)
    return found.pointwise and bool(found.joint) and not found.compares


def is_control(node: NodeProto) -> bool:
    """Whether a node is If, Loop or Scan: values go into its bodies and out of them as they are.

    Not SequenceMap, which takes sequences apart, nor the generation loops of com.microsoft, which make up their own.
    """
    return row_of(node).bodies and not row_of(node).product and not domain_of(node) and node.op_type != "SequenceMap"


def is_sum(node: NodeProto) -> bool:
    """Whether a node adds its operands (or averages them), element by element."""
    return combines(node) and not row_of(node).exact


def hands_mask_on(node: NodeProto, slot: int) -> bool:
    """Whether a mask, or the constant that it is made of, is a mask still behind a node: moved, added, bounded, scaled.

    Args:
      node: any node that calls no local function.
      slot: the input that holds the mask.
    """
    if slot in row_of(node).moves:
        return moves_values(node)
    return combines(node) or (row_of(node).domain == "" and node.op_type in ("Mul", "Div", "Neg"))


def ignores_scale(node: NodeProto) -> bool:
    """Whether a node gives the same for an input multiplied by a power of two: shapes, orders, classes, signs."""
    found = row_of(node)
    return found.blind or found.picks_index or found.tests or (found.name == "Sign" and not found.domain)


def weight_role(node: NodeProto, slot: int) -> str:
    """What a constant is to the node that reads it: weight, bias, scale, table, ...; '' where the operator is silent.

    Args:
      node: the reader.
      slot: which of its inputs the constant is.
    """
    return row_of(node).weights.get(slot, "")


def slots_of(node: NodeProto, column: Slots) -> Iterator[tuple[int, str]]:
    """The inputs of a column that a node has: (index, value)."""
    return ((slot, node.input[slot]) for slot in column.of(len(node.input)) if node.input[slot])


def named(node: NodeProto, name: str) -> AttributeProto | None:
    """An attribute of a node, None where it has none of that name."""
    return next((given for given in node.attribute if given.name == name), None)


def dtype_attribute(node: NodeProto) -> str:
    """The attribute that names the element type of a node's first output, '' for none."""
    return row_of(node).type_attribute
