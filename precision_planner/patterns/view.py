"""A scope seen by meaning: through Identity and Casts between floats, with constants as numbers.

Everything a recogniser asks about values goes through a `View`, so that what is the same is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from precision_planner.model import FLOAT_TYPES, GraphIndex, Model, NodeId, Scope, TypeTable, ValueType, numpy_dtype
from precision_planner.model.index import display_name

SMALL = 4096
"""Elements up to which a constant is read at all while matching."""

_STANDARD = ("", "ai.onnx")

_EVERYTHING = 10**9
"""An end of a Slice from which on it means the last element: tf2onnx's for none; others give 2^31 - 1 or 2^63 - 1."""


class View:
    """One scope of a model, with memory of what was asked before.

    Attributes:
      scope: the scope.
      opset: version of the default domain that holds in it.
    """

    def __init__(self, model: Model, index: GraphIndex, types: TypeTable, scope: Scope) -> None:
        self.model, self.index, self.types, self.scope = model, index, types, scope
        self._roots: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._constants: dict[str, np.ndarray | None] = {}
        self._dead: dict[int, bool] = {}
        self.opset = model.opset
        top = scope
        while top.parent is not None:
            top = top.parent
        if isinstance(top.container, onnx.FunctionProto):
            versions = {entry.domain: entry.version for entry in top.container.opset_import}
            self.opset = versions.get("", versions.get("ai.onnx", self.opset))

    def node(self, value: str) -> onnx.NodeProto | None:
        """The standard-domain node of this very scope that makes `value`."""
        node = self.scope.producer_node(value)
        return node if node is not None and node.domain in _STANDARD else None

    def position(self, value: str) -> int:
        """Position of the node that makes `value`; only for values that `node` found."""
        position = self.scope.producer(value)
        if position is None:
            raise KeyError(value)
        return position

    def op(self, value: str) -> str:
        """Op type of the standard node that makes `value`, '' where there is none."""
        node = self.node(value)
        return "" if node is None else node.op_type

    def standard(self, position: int) -> onnx.NodeProto | None:
        """The node at `position` if its domain is the standard one."""
        node = self.scope.nodes[position]
        return node if node.domain in _STANDARD else None

    def type(self, value: str) -> ValueType:
        """Type and shape of a value, as far as known."""
        return self.types.of(self.scope, value)

    def elem(self, value: str) -> int:
        """Element type, 0 if unknown."""
        return self.type(value).elem_type

    def shape(self, value: str) -> tuple[int | str | None, ...] | None:
        """Shape, None if the rank is unknown."""
        return self.type(value).shape

    def rank(self, value: str) -> int | None:
        """Rank of a value; casts and identities do not change it, so any of them may tell."""
        for name in (value, self.root(value)):
            rank = self.type(name).rank
            if rank is not None:
                return rank
        return None

    def root(self, value: str) -> str:
        """Where `value` comes from, seen through what changes nothing and through Casts from float to float.

        That is Identity, Dropout of inference, a zero added or subtracted, a Slice of everything, and an Unsqueeze of
        the axes that a Squeeze took away.
        """
        return self._walk(value)[0]

    def path(self, value: str) -> tuple[int, ...]:
        """The positions of the nodes that `root` saw through."""
        return self._walk(value)[1]

    def chain(self, value: str) -> Iterator[str]:
        """`value` and the values behind it, back to its root."""
        yield value
        for position in self.path(value):
            yield self.scope.nodes[position].input[0]

    def _walk(self, value: str) -> tuple[str, tuple[int, ...]]:
        known = self._roots.get(value)
        if known is not None:
            return known
        at, path = value, []
        while True:
            node = self.node(at)
            if node is None or not node.input:
                break
            if self._puts_back(node):
                path.append(self.position(at))
                at = node.input[0]
            elif not self._transparent(node, at):
                break
            path.append(self.position(at))
            at = self.scope.nodes[path[-1]].input[0]
            if len(path) > 64:  # a cycle, in a model that is none
                break
        self._roots[value] = (at, tuple(path))
        return at, tuple(path)

    def _transparent(self, node: onnx.NodeProto, value: str) -> bool:
        match node.op_type:
            case "Identity":
                return True
            case "Cast":
                to = attribute_int(node, "to", 0)
                return to in FLOAT_TYPES and self.elem(node.input[0]) in FLOAT_TYPES
            case "CastLike":
                return self.elem(node.input[0]) in FLOAT_TYPES and self.elem(value) in FLOAT_TYPES
            case "Dropout":
                if node.output[0] != value or any(node.output[1:]):
                    return False
                if self.opset < 7:
                    return attribute_int(node, "is_test", 0) == 1
                if len(node.input) < 3 or not node.input[2]:
                    return True
                training = self.constant(node.input[2])
                return training is not None and not bool(training.any())
            case "Add" | "Sub":
                return self._adds_nothing(node, value)
            case "Slice":
                return self._takes_everything(node)
            case _:
                return False

    def _adds_nothing(self, node: onnx.NodeProto, value: str) -> bool:
        """Whether the second operand is zero, and no larger than the first."""
        zero = self.constant(node.input[1])
        if zero is None or zero.dtype.kind not in "fV" or zero.astype(np.float64).any():
            return False
        shape, result = self.shape(node.input[0]), self.shape(value)
        one = zero.size == 1 and (zero.ndim == 0 or zero.ndim <= (self.type(node.input[0]).rank or 0))
        return one or (shape is not None and shape == result and all(isinstance(size, int) for size in shape))

    def _takes_everything(self, node: onnx.NodeProto) -> bool:
        """Whether a Slice leaves nothing out: from 0 to what no axis reaches, in steps of 1."""
        if len(node.input) < 3:
            return False
        starts, ends = (self.constant(name) for name in node.input[1:3])
        steps = self.constant(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1, np.int64)
        if starts is None or ends is None or steps is None:
            return False
        return not starts.any() and bool((ends >= _EVERYTHING).all()) and bool((steps == 1).all())

    def _puts_back(self, node: onnx.NodeProto) -> bool:
        """Whether an Unsqueeze puts back the very axes that the Squeeze before it took away."""
        if node.op_type != "Unsqueeze":
            return False
        squeeze = self.node(node.input[0])
        if squeeze is None or squeeze.op_type != "Squeeze":
            return False
        ranks = self.type(squeeze.input[0]).rank, self.type(node.output[0]).rank
        if None in ranks or ranks[0] != ranks[1]:
            return False
        taken, put = (self.axes(each, name) for each, name in ((squeeze, squeeze.input[0]), (node, node.output[0])))
        return isinstance(taken, tuple) and taken != () and taken == put

    def same(self, a: str, b: str) -> bool:
        """Whether two values are the same but for rounding in Casts."""
        return self.root(a) == self.root(b)

    def constant(self, value: str) -> np.ndarray | None:
        """The value of a small constant, Casts of it included; None for anything else."""
        if value not in self._constants:
            self._constants[value] = self._constant(value)
        return self._constants[value]

    def _constant(self, value: str) -> np.ndarray | None:
        found = self.index.constant(self.scope, value, self.model, SMALL)
        if found is not None:
            return found
        node = self.node(value)
        if node is None or not node.input:
            return None
        if node.op_type == "Identity":
            return self.constant(node.input[0])
        if node.op_type in ("Cast", "CastLike"):
            source = self.constant(node.input[0])
            to = attribute_int(node, "to", 0) if node.op_type == "Cast" else self.elem(value)
            if source is None or to in (0, TensorProto.STRING):
                return None
            with np.errstate(all="ignore"):
                return source.astype(numpy_dtype(to))
        if node.op_type == "Unsqueeze":
            source = self.constant(node.input[0])
            axes = self.axes(node, node.output[0])
            return np.expand_dims(source, axes) if source is not None and isinstance(axes, tuple) else None
        if node.op_type in ("Shape", "Size"):
            return self._size(node)
        if node.op_type in ("Neg", "Add", "Sub", "Range"):
            values = [self.constant(name) for name in node.input]
            return _folded(node.op_type, [array for array in values if array is not None], len(values))
        return None

    def _size(self, node: onnx.NodeProto) -> np.ndarray | None:
        """Shape of a value of known shape, or Size of such a Shape, which needs the rank alone."""
        if node.op_type == "Size":
            shape_of = self.node(node.input[0])
            rank = self.rank(shape_of.input[0]) if shape_of is not None and shape_of.op_type == "Shape" else None
            whole = shape_of is not None and not shape_of.attribute
            return None if rank is None or not whole else np.array(rank, np.int64)
        shape = self.shape(node.input[0])
        if shape is None or node.attribute or not all(isinstance(dim, int) for dim in shape):
            return None
        return np.array(shape, np.int64)

    def scalar(self, value: str, rank: int | None = None) -> float | None:
        """The value of a one-element numeric constant that does not add axes; None for anything else.

        Args:
          value: any value.
          rank: axes of what it is combined with; None if unknown, then a constant of one axis at most will do.
        """
        array = self.constant(value)
        if array is None or array.size != 1 or array.dtype == np.bool_:
            return None
        if array.ndim > (1 if rank is None else max(rank, 0)):
            return None
        if array.dtype == ml_dtypes.bfloat16:
            array = array.astype(np.float32)
        return float(array.reshape(())) if array.dtype.kind in "fiu" else None

    def is_parameter(self, value: str) -> bool:
        """Whether a value is a constant or an initializer (even an overridable one), seen through Casts."""
        for name in self.chain(value):
            holder = self.index.resolve(self.scope, name)
            if holder is not None:
                node = holder.producer_node(name)
                if name in holder.initializers or (node is not None and node.op_type == "Constant"):
                    return True
        return False

    def describe(self, value: str) -> str:
        """How to name the source of a value in a reason."""
        holder = self.index.resolve(self.scope, value)
        if holder is None:
            return f"'{value}'"
        node = holder.producer_node(value)
        if node is not None:
            return display_name(node)
        if value in holder.initializers:
            return f"the overridable initializer '{value}'" if holder.is_overridable(value) else f"'{value}'"
        return f"the run-time input '{value}'"

    def name(self, position: int) -> str:
        """How to name a node in a reason."""
        return display_name(self.scope.nodes[position])

    def ids(self, positions: frozenset[int] | set[int]) -> tuple[NodeId, ...]:
        """Identities of nodes, in graph order."""
        return tuple(self.index.node_id(self.scope, position) for position in sorted(positions))

    def sole_consumer(self, value: str) -> int | None:
        """The one node that reads `value`, if nothing else sees it."""
        uses = [use for use in self.scope.consumers(value)[:64] if not self.is_dead(use.position)]
        if (
            not uses
            or len(self.scope.consumers(value)) > 64
            or self.scope.is_output(value)
            or value in self.scope.captures
            or value in self.scope.body_outputs
        ):
            return None
        first = uses[0].position
        return first if all(use.position == first for use in uses) else None

    def outside_reader(self, value: str, inside: frozenset[int] | set[int]) -> str:
        """Who else sees `value`: a node's name, 'the graph output', 'a nested body'; '' for nobody."""
        if self.scope.is_output(value):
            return "the graph output"
        if value in self.scope.body_outputs:
            return "a nested body"
        if value in self.scope.captures:
            body, use = self.scope.captures[value][0]
            return f"{display_name(body.nodes[use.position])} in a nested body"
        for use in self.scope.consumers(value):
            if use.position not in inside and not self.is_dead(use.position):
                return self.name(use.position)
        return ""

    def is_dead(self, position: int, depth: int = 4) -> bool:
        """Whether nothing reads what a node makes, directly or further on."""
        known = self._dead.get(position)
        if known is None:
            known = depth > 0
            for value in self.scope.nodes[position].output if known else ():
                uses = self.scope.consumers(value)
                if not value:
                    continue
                if (
                    len(uses) > 4
                    or self.scope.is_output(value)
                    or value in self.scope.captures
                    or value in self.scope.body_outputs
                    or not all(self.is_dead(use.position, depth - 1) for use in uses)
                ):
                    known = False
                    break
            if depth == 4 or known:
                self._dead[position] = known
        return known

    def axes(self, node: onnx.NodeProto, source: str) -> tuple[int, ...] | str | None:
        """The axes a Reduce node runs over, negative and sorted where the rank is known.

        Returns:
          The axes; a reason where they are no constant; None where the node reduces nothing.
        """
        rank = self.type(source).rank
        rank = self.rank(source) if rank is None else rank
        raw: list[int] | None = None
        if len(node.input) > 1 and node.input[1]:
            array = self.constant(node.input[1])
            if array is None:
                return f"the axes of {display_name(node)} come from {self.describe(node.input[1])}"
            raw = [int(axis) for axis in array.reshape(-1)]
        else:
            for attribute in node.attribute:
                if attribute.name == "axes":
                    if attribute.ref_attr_name:
                        return f"the axes of {display_name(node)} are an attribute of the function"
                    raw = list(attribute.ints)
        if not raw:
            if attribute_int(node, "noop_with_empty_axes", 0):
                return None
            if rank is None:
                return f"{display_name(node)} runs over all axes of a value of unknown rank"
            return tuple(range(-rank, 0))
        if rank is not None:
            raw = [axis - rank if axis >= 0 else axis for axis in raw]
            if any(axis < -rank or axis >= 0 for axis in raw):
                return f"{display_name(node)} has an axis out of range"
        if len(set(raw)) != len(raw):
            return f"{display_name(node)} names an axis twice"
        return tuple(sorted(raw))


def _folded(op_type: str, values: list[np.ndarray], count: int) -> np.ndarray | None:
    """The arithmetic of axes and small constants; None where an operand is no constant."""
    if len(values) != count:
        return None
    match op_type:
        case "Neg":
            return np.asarray(np.negative(values[0]))
        case "Range" if all(value.size == 1 and value.dtype.kind in "iu" for value in values):
            start, limit, delta = (int(value.reshape(())) for value in values)
            if delta == 0 or abs(limit - start) > SMALL:
                return None
            return np.arange(start, limit, delta, dtype=np.int64)
        case "Add" | "Sub" if all(value.dtype.kind in "iu" for value in values):
            return np.asarray(values[0] + values[1] if op_type == "Add" else values[0] - values[1])
        case _:
            return None


def attribute_int(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute; `default` where the node has none (or refers to its function's)."""
    for attribute in node.attribute:
        if attribute.name == name and not attribute.ref_attr_name:
            return int(attribute.i)
    return default


def attribute_float(node: onnx.NodeProto, name: str, default: float) -> float:
    """A float attribute, as stored (float32); `default` where the node has none."""
    for attribute in node.attribute:
        if attribute.name == name and not attribute.ref_attr_name:
            return float(attribute.f)
    return default


def is_reference(node: onnx.NodeProto, name: str) -> bool:
    """Whether an attribute is filled in by the call of the function that holds the node."""
    return any(attribute.name == name and attribute.ref_attr_name for attribute in node.attribute)


def axes_text(axes: tuple[int, ...]) -> str:
    """Axes in words: 'axis -1', 'axes -2, -1'."""
    return ("axis " if len(axes) == 1 else "axes ") + ", ".join(str(axis) for axis in axes)
