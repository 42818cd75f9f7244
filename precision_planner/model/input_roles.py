"""What an input means, read off the graph: the table an index points into, the mask, the image, the cache.

Names decide only where the graph does not say: what feeds the index of a Gather is an index, whatever its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from precision_planner.model.batches import InputSpec
from precision_planner.model.index import GraphIndex, Scope
from precision_planner.model.model import Model
from precision_planner.model.types import Dim, TypeTable
from precision_planner.operators import ANYHOW, carries, is_conversion, row_of

_LIMIT = 400
"""Nodes looked at from one input; what an input is shows near it."""


@dataclass(frozen=True, slots=True)
class Role:
    """What an input is.

    Attributes:
      kind: tokens, indices, types, positions, mask, additive_mask, image, cache, use_cache, length, size, shape,
        timestep, audio, positive, boolean, integer, float or string.
      table: rows of the smallest table that the values index; None where they index none.
      reason: what gave it away.
      pads: the graph compares the ids with a constant, so that 0 means padding.
      scale: the largest value of an image: 1, or 255 where the graph divides by it.
      extents: the values of a shape that an operator takes for its result, None for an axis that may have any size.
    """

    kind: str
    table: int | None = None
    reason: str = ""
    pads: bool = False
    scale: float = 1.0
    extents: tuple[int | None, ...] = ()
    choices: tuple[float, ...] = ()
    """The constants that the graph compares a scalar with: it takes one of them."""


def role_of(spec: InputSpec, model: Model, index: GraphIndex, types: TypeTable) -> Role:
    """What an input is, from what reads it and then from its name."""
    if spec.elem_type == TensorProto.STRING:
        return Role("string")
    seen = _Readers(model, index, types)
    seen.follow(index.main, spec.name)
    name = spec.name.lower()
    integer = spec.dtype.kind in "iu"
    if spec.elem_type == TensorProto.BOOL and "cache" in name:
        return Role("use_cache", reason="its name")
    if spec.elem_type == TensorProto.BOOL:
        return Role("mask" if "mask" in name else "boolean", reason="its name" if "mask" in name else "")
    if seen.choices and spec.shape in ((), (1,)):
        return Role("choice", reason="the graph compares it with constants", choices=tuple(seen.choices))
    if integer and seen.table is not None:
        return _index_role(name, seen)
    if integer and seen.extents and spec.shape in ((len(seen.extents),), (None,)):
        kind = "size" if seen.shaped == "Resize" else "shape"
        return Role(kind, reason=f"{seen.shaped} takes it as a shape", extents=seen.extents)
    if "mask" in name or (integer and seen.masks):
        if not integer and seen.added and not seen.inverted:
            return Role("additive_mask", reason="it is added to something as it is")
        return Role("mask", reason="its name" if "mask" in name else "the graph compares or inverts it")
    if integer:
        return _integer_role(name, spec)
    return _float_role(name, spec, seen)


def _index_role(name: str, seen: _Readers) -> Role:
    table = seen.table
    reason = f"it indexes a table of {table} rows ('{seen.table_name}')"
    if re.search(r"token_type|segment", name) or table == 2:
        return Role("types", table, reason)
    if "position" in name:
        return Role("positions", table, reason)
    kind = "tokens" if re.search(r"ids?$|tokens?|input", name) else "indices"
    return Role(kind, table, reason, pads=seen.compared)


def _integer_role(name: str, spec: InputSpec) -> Role:
    if "position" in name:
        return Role("positions", reason="its name")
    if re.search(r"token_type|segment", name):
        return Role("types", 2, "its name")
    if re.search(r"(^|_)(len|lens|length|lengths|seq_?len)", name):
        return Role("length", reason="its name")
    if re.search(r"size|shape", name):
        return Role("size", reason="its name")
    if "timestep" in name or name == "t":
        return Role("timestep", reason="its name")
    if "uint8" in str(spec.dtype) and spec.shape is not None and len(spec.shape) == 4:
        return Role("image", reason="bytes of rank 4", scale=255.0)
    return Role("integer")


def _float_role(name: str, spec: InputSpec, seen: _Readers) -> Role:
    shape = spec.shape or ()
    if re.search(r"past|cache|key_values|present|_state$|hidden_state", name):
        return Role("cache", reason="its name")
    if "timestep" in name or "sigma" in name:
        return Role("timestep", reason="its name")
    if re.search(r"(image|img|im|input)_?(shape|size)|orig_target_size", name):
        return Role("extent", reason="its name")
    if "scale_factor" in name:
        return Role("positive", reason="its name")
    channels = len(shape) >= 4 and (shape[1] in (1, 3, 4) or shape[-1] in (1, 3, 4))
    pictured = len(shape) >= 3 and not re.search(r"ids?$|mask|len|pos|grid|embed|hidden|feature", name)
    if channels or (pictured and re.search(r"pixel|image|img|frame", name)):
        why = "its name" if not channels else f"rank {len(shape)} with {3 if 3 in shape else 1} channels"
        return Role("image", reason=why, scale=seen.image_scale)
    if re.search(r"audio|wave|speech|input_values", name):
        return Role("audio", reason="its name")
    if seen.positive:
        return Role("positive", reason=f"{seen.positive} takes it")
    return Role("float")


class _Readers:
    """Follows a value through what carries it and collects what reads it."""

    def __init__(self, model: Model, index: GraphIndex, types: TypeTable) -> None:
        self._model, self._index, self._types = model, index, types
        self._done: set[tuple[tuple[str, ...], str]] = set()
        self.table: int | None = None
        self.table_name = ""
        self.compared = self.inverted = self.added = False
        self.positive = ""
        self.image_scale = 1.0
        self.shaped = ""
        self.extents: tuple[int | None, ...] = ()
        self.choices: list[float] = []

    @property
    def masks(self) -> bool:
        return self.compared or self.inverted

    def follow(self, scope: Scope, value: str) -> None:
        todo = [(scope, value)]
        while todo and len(self._done) < _LIMIT:
            scope, value = todo.pop()
            if (scope.path, value) in self._done:
                continue
            self._done.add((scope.path, value))
            uses = [(scope, use) for use in scope.consumers(value)] + list(scope.captures.get(value, []))
            for where, use in uses:
                node = where.nodes[use.position]
                self._read(where, node, use.slot)
                if carries(node, use.slot, ANYHOW):
                    todo.extend((where, output) for output in node.output if output)

    def _read(self, scope: Scope, node: NodeProto, slot: int) -> None:
        # an operator of another domain may have the name of one of ONNX's, and nothing else of it
        op, row = node.op_type if node.domain in ("", "ai.onnx", "com.microsoft") else "", row_of(node)
        if op in ("Gather", "GatherElements") and slot == 1:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            self._table(scope, node.input[0], axis)
        elif op == "GatherND" and slot == 1:
            self._table(scope, node.input[0], 0)
        elif op == "OneHot" and slot == 0:
            depth = self._index.constant(scope, node.input[1], self._model, 1)
            if depth is not None and depth.size == 1:
                self._rows(int(depth.reshape(-1)[0]), node.input[1])
        elif slot in row.shapes and (row.generates or (row.moves and op != "Tile")):
            self._shape(scope, node)
        elif "EmbedLayerNorm" in op and slot < 2:
            self._table(scope, node.input[2 if slot == 0 else 4], 0)
        elif row.compares or op == "Not":
            self.compared = True
            self._choice(scope, node, slot)
        elif op == "Sub" and slot == 1:
            self.inverted = True
        elif op == "Add":
            self.added = True
        elif op in ("Log", "Sqrt"):
            self.positive = op
        elif op in ("Div", "Mul"):
            self._scaling(scope, node, slot)

    def _choice(self, scope: Scope, node: NodeProto, slot: int) -> None:
        if node.op_type != "Equal" or len(node.input) != 2:
            return
        other = self._index.constant(scope, node.input[1 - slot], self._model, 1)
        if other is not None and other.size == 1 and other.dtype.kind in "iuf":
            self.choices.append(float(other.reshape(-1)[0]))

    def _scaling(self, scope: Scope, node: NodeProto, slot: int) -> None:
        other = self._index.constant(scope, node.input[1 - slot], self._model, 16)
        if other is None or not other.size:
            return
        factor = float(abs(other.reshape(-1)[0].astype("float64")))
        if node.op_type == "Div" and slot == 1:
            self.positive = "Div"
        elif (node.op_type == "Div" and factor > 20) or (node.op_type == "Mul" and 0 < factor < 0.05):
            self.image_scale = 255.0

    def _shape(self, scope: Scope, node: NodeProto) -> None:
        """What the result's shape is known to be; where it is not, a Resize leaves batch and channels as they are."""
        made = self._types.of(scope, node.output[0]).shape
        taken = self._types.of(scope, node.input[0]).shape if node.op_type == "Resize" else None
        if made is None:
            made = (*taken[:2], *[None] * (len(taken) - 2)) if taken else ()
        chosen = next((a.ints for a in node.attribute if a.name == "axes"), range(len(made)))
        self.shaped = node.op_type
        extents = [self._extent(made, taken, axis) for axis in chosen]
        if node.op_type == "Reshape" and extents.count(None) == 1:
            extents[extents.index(None)] = -1  # whatever is left
        self.extents = tuple(extents)

    @staticmethod
    def _extent(made: tuple[Dim, ...], taken: tuple[Dim, ...] | None, axis: int) -> int | None:
        known = made[axis] if -len(made) <= axis < len(made) else None
        if not isinstance(known, int) and taken and 0 <= axis < 2:
            known = taken[axis]
        return known if isinstance(known, int) else None

    def _table(self, scope: Scope, data: str, axis: int) -> None:
        holder = self._index.resolve(scope, data)
        if holder is None:
            return
        shape = self._types.of(holder, data).shape
        if shape is None or not shape or not -len(shape) <= axis < len(shape):
            return
        rows = shape[axis]
        node = holder.producer_node(data)
        made = node is not None and (node.op_type == "Constant" or is_conversion(node) or row_of(node).quantizes)
        is_weight = made or data in holder.initializers
        if isinstance(rows, int) and rows > 0 and is_weight:
            self._rows(rows, data)

    def _rows(self, rows: int, name: str) -> None:
        if self.table is None or rows < self.table:
            self.table, self.table_name = rows, name
