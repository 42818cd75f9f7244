"""What a graph tells of its outputs: which hold boxes, and which are scores of classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto

from precision_planner.judging.detections import COLUMNS, Evidence
from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.model.order import reads, sorted_copy
from precision_planner.model.types import TypeTable
from precision_planner.operators import ANYHOW, moves_values, row_of
from precision_planner.operators.row import Movement

LOOKUP: frozenset[Movement] = frozenset({"lookup"})

NO_SCORES = frozenset({"Tanh", "Resize"})
"""Last operators of embeddings and images, beside normalizations and convolutions."""


@dataclass(frozen=True)
class Selection:
    """What a graph tells of its outputs.

    Attributes:
      evidence: which outputs hold boxes or classes.
      unordered: every value after a selection of boxes; empty where the graph selects none.
      before: the values that the selections read: boxes and scores in an order of their own.
    """

    evidence: Evidence = field(default_factory=Evidence)
    unordered: frozenset[str] = frozenset()
    before: tuple[str, ...] = ()


def find_evidence(model: Model) -> Selection:
    """Read the main graph of a model.

    Boxes are: rows of 4 to 7 numbers that come after a NonMaxSuppression; rows of four that are gathered by the indices
    of a TopK (whether they read as boxes, their values tell), or rows that such a four is concatenated into. What TopK
    itself returns never is, of whatever width: a classifier's best six.
    """
    graph = sorted_copy(model.proto)
    index = GraphIndex(graph)
    types = infer_types(model)
    after_nms: set[str] = set()
    own: set[str] = set()
    after_top: set[str] = set()
    indices: set[str] = set()
    picked: set[str] = set()
    fours: set[str] = set()
    before: list[str] = []
    for node in index.main.nodes:
        plain = not node.domain
        is_nms, is_top = plain and node.op_type == "NonMaxSuppression", plain and node.op_type == "TopK"
        read, made = set(reads(node)), [name for name in node.output if name]
        if is_nms or is_top:
            before += [name for name in node.input[: 2 if is_nms else 1] if name]
        if is_nms or read & after_nms:
            after_nms.update(made)
        if is_nms or (node.op_type in ("Identity", "Cast") and node.input[0] in own):
            own.update(made)
        if is_top or read & after_top:
            after_top.update(made)
        if is_top:
            indices.update(node.output[1:2])
        elif read & indices and not _looks_up(node):
            indices.update(made)  # shifted, reshaped, expanded: still what is gathered by
        gathers = _looks_up(node) and node.input[1] in indices
        if gathers or (read & picked and not is_top):
            picked.update(made)
        if _is_joined_four(node, types, fours):
            fours.update(made)
    outputs = [value.name for value in model.proto.graph.output]
    boxes = {name for name in outputs if name in after_nms - own and _width(types, name) in (None, 4, *COLUMNS)}
    four = {name for name in outputs if name in picked and (_width(types, name) == 4 or name in fours)} - boxes
    evidence = Evidence(
        boxes=frozenset(boxes),
        coordinates=frozenset(four),
        unordered=frozenset(name for name in outputs if name in after_nms | after_top),
        indices=frozenset(own.intersection(outputs)),
        classes=_classes(index, types, outputs),
    )
    if not evidence.is_detector:
        return Selection(Evidence(classes=evidence.classes))
    made_here = {name for node in index.main.nodes for name in node.output}
    return Selection(
        evidence, frozenset(after_nms | after_top), tuple(dict.fromkeys(name for name in before if name in made_here))
    )


def _is_joined_four(node: NodeProto, types: TypeTable, fours: set[str]) -> bool:
    """Whether a node's result has rows that a row of four numbers was concatenated into."""
    if node.op_type == "Concat":
        kind = types.get(((), node.output[0]))
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        rank = None if kind is None or kind.shape is None else len(kind.shape)
        last = axis == -1 or (rank is not None and axis == rank - 1)
        return last and any(_width(types, name) == 4 for name in node.input)
    return bool(node.input) and node.input[0] in fours and moves_values(node)


def _looks_up(node: NodeProto) -> bool:
    """Whether a node picks rows by its second input, as Gather does."""
    return moves_values(node, LOOKUP) and len(node.input) > 1


def _width(types: TypeTable, name: str) -> int | None:
    """The static last axis of a value of rank 2 or more; None where it is unknown, 0 where there is no such axis."""
    kind = types.get(((), name))
    if kind is None or kind.shape is None:
        return None
    if len(kind.shape) < 2:
        return 0
    last: Any = kind.shape[-1]
    return last if isinstance(last, int) else None


def _rank(types: TypeTable, name: str) -> int:
    kind = types.get(((), name))
    return 0 if kind is None or kind.shape is None else len(kind.shape)


def _classes(index: GraphIndex, types: TypeTable, outputs: list[str]) -> dict[str, bool]:
    """output -> whether its last operator that computes makes scores of classes; left out where that does not tell."""
    producers = {name: node for node in index.main.nodes for name in node.output if name}
    found = {}
    for output in outputs:
        node = producers.get(output)
        turned = False
        while node is not None and node.input and moves_values(node, ANYHOW - LOOKUP):
            turned |= node.op_type == "Transpose"
            node = producers.get(node.input[0])
        if node is None or node.domain:
            continue
        kept = row_of(node)
        if kept.scores and not kept.product:  # a softmax by itself, not one inside attention
            # rows are along the last axis; what has more axes is attention, or a map of classes
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            rank = _rank(types, node.output[0])
            found[output] = not turned and rank in (1, 2, 3) and axis in (-1, rank - 1)
        elif kept.product == "convolution" or kept.normalizes or node.op_type in NO_SCORES:
            found[output] = False
    return found
