"""How a newer opset says what a node says: one function for each op and version that changed meaning or form.

Each adapter takes a node valid at the version before and returns nodes valid at the version it is listed under, with
the same outputs. The node itself is changed in place where one node suffices.
Source: the operator change log of ONNX (docs/Changelog.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from precision_planner.model import (
    GraphIndex,
    Model,
    TypeTable,
    ValueType,
    display_name,
    infer_types,
    numpy_dtype,
)
from precision_planner.model.names import FreshNames
from precision_planner.operators import Operator, operators


class Refused(Exception):
    """The node cannot be said at the newer version; the message says why."""


class Facts:
    """What is known of a model, worked out when an adapter first asks: most models need nothing of it."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @cached_property
    def index(self) -> GraphIndex:
        """Who makes and reads each value."""
        return GraphIndex(self.model.proto)

    @cached_property
    def types(self) -> TypeTable:
        """Types and shapes."""
        return infer_types(self.model, self.index)

    @cached_property
    def names(self) -> FreshNames:
        """Names that the model does not have yet."""
        return FreshNames.of(self.model.proto)


@dataclass(slots=True)
class Context:
    """What an adapter may ask about the model, and where it puts constants."""

    facts: Facts
    path: tuple[str, ...]
    container: GraphProto | FunctionProto
    upsampled: set[str] = field(default_factory=set)
    """Outputs of Upsample nodes, which became Resize nodes on the way: they never shrink."""
    _pending: list[NodeProto] = field(default_factory=list)

    def inside(self, step: str, body: GraphProto) -> Context:
        """The context of a body nested in this one."""
        return Context(self.facts, (*self.path, step), body, self.upsampled)

    def fresh(self, base: str) -> str:
        """A value name that the model does not have yet."""
        return self.facts.names.fresh(base)

    def constant(self, base: str, array: np.ndarray) -> str:
        """A new constant: an initializer, or a Constant node inside a function."""
        name = self.fresh(base)
        tensor = numpy_helper.from_array(array, name)
        if isinstance(self.container, GraphProto):
            self.container.initializer.append(tensor)
        else:
            self._pending.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
        return name

    def take_constants(self) -> list[NodeProto]:
        """The Constant nodes that have to stand before the adapted node."""
        pending, self._pending = self._pending, []
        return pending

    def type(self, value: str) -> ValueType:
        """Type and shape of a value of the model before."""
        scope = self.facts.index.by_path.get(self.path)
        return ValueType() if scope is None else self.facts.types.of(scope, value)


Adapter = Callable[[NodeProto, Context], list[NodeProto]]


def _attribute(node: NodeProto, name: str) -> AttributeProto | None:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    if found is not None and found.ref_attr_name:
        raise Refused(f"attribute {name} of {display_name(node)} is filled in by the function's call")
    return found


def _take(node: NodeProto, name: str) -> AttributeProto | None:
    """Remove an attribute and return it."""
    found = _attribute(node, name)
    if found is None:
        return None
    copy = AttributeProto()
    copy.CopyFrom(found)
    node.attribute.remove(found)
    return copy


def _set_input(node: NodeProto, slot: int, value: str) -> None:
    while len(node.input) <= slot:
        node.input.append("")
    node.input[slot] = value


def _base(node: NodeProto, what: str) -> str:
    return f"{next((name for name in node.output if name), node.op_type)}_{what}"


def _ints_to_input(attribute: str, slot: int) -> Adapter:
    """An INTS attribute became an int64 input."""

    def adapt(node: NodeProto, context: Context) -> list[NodeProto]:
        taken = _take(node, attribute)
        if taken is not None:
            values = np.array(taken.ints, np.int64)
            _set_input(node, slot, context.constant(_base(node, attribute), values))
        return [node]

    return adapt


def _slice(node: NodeProto, context: Context) -> list[NodeProto]:
    for slot, name in enumerate(("starts", "ends", "axes"), start=1):
        taken = _take(node, name)
        if taken is not None:
            _set_input(node, slot, context.constant(_base(node, name), np.array(taken.ints, np.int64)))
    return [node]


def _topk(node: NodeProto, context: Context) -> list[NodeProto]:
    taken = _take(node, "k")
    _set_input(node, 1, context.constant(_base(node, "k"), np.array([taken.i if taken else 0], np.int64)))
    return [node]


def _float_type(node: NodeProto, context: Context) -> np.dtype:
    elem = context.type(node.input[0]).elem_type or context.type(node.output[0]).elem_type
    if not elem:
        raise Refused(f"the type of {display_name(node)} is unknown")
    return numpy_dtype(elem)


def _clip(node: NodeProto, context: Context) -> list[NodeProto]:
    for slot, name in enumerate(("min", "max"), start=1):
        taken = _take(node, name)
        if taken is not None:
            limit = np.array(taken.f, _float_type(node, context))
            _set_input(node, slot, context.constant(_base(node, name), limit))
    return [node]


def _pad(node: NodeProto, context: Context) -> list[NodeProto]:
    pads, value = _take(node, "pads"), _take(node, "value")
    _set_input(node, 1, context.constant(_base(node, "pads"), np.array(pads.ints if pads else [], np.int64)))
    if value is not None and value.f != 0:
        _set_input(node, 2, context.constant(_base(node, "value"), np.array(value.f, _float_type(node, context))))
    return [node]


def _renamed(op_type: str) -> Adapter:
    def adapt(node: NodeProto, context: Context) -> list[NodeProto]:
        node.op_type = op_type
        return [node]

    return adapt


def _upsample(node: NodeProto, context: Context) -> list[NodeProto]:
    """Upsample 9 is Resize 10."""
    if len(node.input) < 2:
        raise Refused(f"Upsample {display_name(node)} has no scales input")
    mode = _attribute(node, "mode")
    if mode is not None and mode.s not in (b"nearest", b"linear"):
        raise Refused(f"Upsample {display_name(node)} has mode {mode.s!r}")
    node.op_type = "Resize"
    context.upsampled.add(node.output[0])
    return [node]


def _resize_11(node: NodeProto, context: Context) -> list[NodeProto]:
    """Resize 10 maps x_out / scale (asymmetric); nearest rounds down where it enlarges, up where it shrinks."""
    mode = _attribute(node, "mode")
    nearest = mode is None or mode.s == b"nearest"
    rounding = "floor"
    if nearest and node.output[0] not in context.upsampled:
        facts = context.facts
        scope = facts.index.by_path.get(context.path)
        factors = None if scope is None else facts.index.constant(scope, node.input[1], facts.model, 16)
        if factors is None:
            raise Refused(f"the scales of Resize {display_name(node)} are no constant, and decide how it rounds")
        if (factors < 1).any():
            if (factors > 1).any():
                raise Refused(f"Resize {display_name(node)} shrinks one axis and enlarges another")
            rounding = "ceil"
    kind = _float_type(node, context) if context.type(node.input[0]).elem_type else np.dtype(np.float32)
    roi = context.constant(_base(node, "roi"), np.zeros(0, kind if kind.kind == "f" else np.float32))
    scales = node.input[1]
    del node.input[1:]
    node.input.extend([roi, scales])
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    if nearest:
        node.attribute.append(helper.make_attribute("nearest_mode", rounding))
    return [node]


def _resize_13(node: NodeProto, context: Context) -> list[NodeProto]:
    mode = _attribute(node, "coordinate_transformation_mode")
    if mode is not None and mode.s == b"tf_half_pixel_for_nn":
        raise Refused(f"Resize {display_name(node)} uses tf_half_pixel_for_nn, which opset 13 has not")
    return [node]


def _dropout(node: NodeProto, context: Context) -> list[NodeProto]:
    ratio = _take(node, "ratio")
    if ratio is not None:
        kind = context.type(node.input[0]).elem_type or TensorProto.FLOAT
        _set_input(node, 1, context.constant(_base(node, "ratio"), np.array(ratio.f, numpy_dtype(kind))))
    return [node]


def _dropout_10(node: NodeProto, context: Context) -> list[NodeProto]:
    if len(node.output) > 1 and node.output[1]:
        raise Refused(f"the mask of Dropout {display_name(node)} changes its type at 10")
    return [node]


def _softmax(node: NodeProto, context: Context) -> list[NodeProto]:
    """Before 13 the input is flattened to 2 axes at `axis` (default 1), and the op runs over the second."""
    attribute = _take(node, "axis")
    axis = attribute.i if attribute is not None else 1
    shape = context.type(node.input[0]).shape
    rank = None if shape is None else len(shape)
    if axis == -1 or (rank is not None and axis in (rank - 1, -1)):
        node.attribute.append(helper.make_attribute("axis", axis))
        return [node]
    if shape is not None and rank is not None:
        behind = shape[axis + 1 if axis >= 0 else rank + axis + 1 :]
        if behind and all(dim == 1 for dim in behind):
            node.attribute.append(helper.make_attribute("axis", axis))
            return [node]
    x, y = node.input[0], node.output[0]
    size, flat, done = (context.fresh(_base(node, what)) for what in ("shape", "flat", "normalized"))
    flatten = helper.make_node("Flatten", [x], [flat], name=_name(node, "Flatten"), axis=axis)
    shape_of = helper.make_node("Shape", [x], [size], name=_name(node, "Shape"))
    node.input[0], node.output[0] = flat, done
    node.attribute.append(helper.make_attribute("axis", -1))
    reshape = helper.make_node("Reshape", [done, size], [y], name=_name(node, "Reshape"))
    return [shape_of, flatten, node, reshape]


def _name(node: NodeProto, what: str) -> str:
    return f"{node.name}/{what}" if node.name else ""


def _batch_norm(node: NodeProto, context: Context) -> list[NodeProto]:
    if sum(bool(name) for name in node.output) > 1:
        raise Refused(f"BatchNormalization {display_name(node)} runs in training mode")
    del node.output[1:]
    spatial = _take(node, "spatial")
    if spatial is not None and spatial.i == 0:
        raise Refused(f"BatchNormalization {display_name(node)} has spatial=0")
    return [node]


def _roi_align(node: NodeProto, context: Context) -> list[NodeProto]:
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "output_half_pixel"))
    return [node]


def _split_18(node: NodeProto, context: Context) -> list[NodeProto]:
    if len(node.input) < 2 or not node.input[1]:
        node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
        shape = context.type(node.input[0]).shape
        axis = _attribute(node, "axis")
        size = None if shape is None else shape[axis.i if axis is not None else 0]
        if isinstance(size, int) and size % len(node.output):
            raise Refused(f"Split {display_name(node)} does not divide {size} evenly")
    return [node]


def _grid_sample(node: NodeProto, context: Context) -> list[NodeProto]:
    taken = _take(node, "mode")
    mode = {b"bilinear": "linear", b"bicubic": "cubic"}.get(taken.s, taken.s.decode()) if taken else "linear"
    node.attribute.append(helper.make_attribute("mode", mode))
    return [node]


def _dft(node: NodeProto, context: Context) -> list[NodeProto]:
    taken = _take(node, "axis")
    axis = taken.i if taken is not None else 1
    _set_input(node, 2, context.constant(_base(node, "axis"), np.array(axis, np.int64)))
    return [node]


def _group_norm(node: NodeProto, context: Context) -> list[NodeProto]:
    raise Refused(f"GroupNormalization {display_name(node)} takes its scale per channel from 21 on")


def _mean_variance(node: NodeProto, context: Context) -> list[NodeProto]:
    """Say the default axes: the checker expands the function of version 13 without its attributes' defaults."""
    if all(attribute.name != "axes" for attribute in node.attribute):
        node.attribute.append(helper.make_attribute("axes", [0, 2, 3]))
    return [node]


def _has_axes_input_since_18(row: Operator) -> bool:
    """Whether it is a Reduce operator but ReduceSum, which has its axes as an input since 13."""
    return row.name.startswith("Reduce") and not row.domain and row.name != "ReduceSum"


ADAPTERS: dict[tuple[str, int], Adapter] = {
    ("Upsample", 10): _upsample,
    ("Slice", 10): _slice,
    ("TopK", 10): _topk,
    ("Dropout", 10): _dropout_10,
    ("Clip", 11): _clip,
    ("Pad", 11): _pad,
    ("Scatter", 11): _renamed("ScatterElements"),
    ("Resize", 11): _resize_11,
    ("Dropout", 12): _dropout,
    ("Softmax", 13): _softmax,
    ("LogSoftmax", 13): _softmax,
    ("Hardmax", 13): _softmax,
    ("Squeeze", 13): _ints_to_input("axes", 1),
    ("Unsqueeze", 13): _ints_to_input("axes", 1),
    ("ReduceSum", 13): _ints_to_input("axes", 1),
    ("Split", 13): _ints_to_input("split", 1),
    ("Resize", 13): _resize_13,
    ("MeanVarianceNormalization", 13): _mean_variance,
    ("BatchNormalization", 14): _batch_norm,
    ("RoiAlign", 16): _roi_align,
    ("Split", 18): _split_18,
    ("GridSample", 20): _grid_sample,
    ("DFT", 20): _dft,
    ("GroupNormalization", 21): _group_norm,
    **{(row.name, 18): _ints_to_input("axes", 1) for row in operators() if _has_axes_input_since_18(row)},
}
"""(op type, version) -> how a node valid before that version is said from it on."""

__all__ = ["ADAPTERS", "Adapter", "Context", "Facts", "Refused"]
