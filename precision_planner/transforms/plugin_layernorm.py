"""LayerNormalization as a TensorRT plugin: a custom node with the inputs and attributes that the named plugin expects.

The open-source plugins of NVIDIA's TensorRT repository, and what they take:

| name | version | inputs | attributes | |
|---|---|---|---|---|
| `LayerNorm` | 1 | X, gamma, beta, all of one type | `epsilon` (float), `axis` (int) | plugin/layerNormPlugin |
| `CustomSkipLayerNormPluginDynamic` | 1 | input, skip, both [S, B, E, 1, 1] | `type_id` (0: FP32, 1: FP16), `ld` (E), |
`beta`, `gamma` ([1, 1, E], float), `bias` (optional) | plugin/skipLayerNormPlugin; it has an epsilon of its own |

Any other name gets the form of `LayerNorm`, which is that of the ONNX operator. TensorRT finds a plugin by the node's
operator, `plugin_version` and `plugin_namespace`; the library must be loaded before the parser runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from precision_planner.errors import ConversionError
from precision_planner.model import GraphIndex, Model, NodeId, Scope, TypeTable, infer_types
from precision_planner.model.edit import Edit, PassResult, set_items, write_edits
from precision_planner.model.names import FreshNames
from precision_planner.patterns.match import Match

PLUGIN_DOMAIN = "trt.plugins"
SKIP_LAYERNORM = "CustomSkipLayerNormPluginDynamic"


@dataclass(frozen=True, slots=True)
class PluginResult(PassResult):
    """What was written as a plugin.

    Attributes:
      model: the new model.
      replaced: the LayerNormalization nodes, by their output; those of the plugin write the same values.
      kept: (node, why it stays the ONNX operator).
      notes: what differs from the operator.
    """

    replaced: tuple[NodeId, ...] = ()
    kept: tuple[tuple[NodeId, str], ...] = ()


def apply_plugin_layernorm(model: Model, matches: Iterable[Match] | None, name: str) -> PluginResult:
    """Write LayerNormalization nodes as the plugin `name`.

    Args:
      model: with LayerNormalization nodes (fuse decomposed ones first), FP32 or typed.
      matches: native layer normalizations, to take only these; None takes every LayerNormalization node.
      name: the plugin's name in TensorRT's registry.

    Raises:
      ConversionError: the name is no operator's name, or no node can be written so.
    """
    if not name.isidentifier():
        raise ConversionError(f"{name!r} is no plugin's name; write plugin:LayerNorm, or plugin:{SKIP_LAYERNORM}")
    wanted = None if matches is None else {match.anchor for match in matches if match.kind == "layer_normalization"}
    types = infer_types(model)
    proto = model.edit()
    index = GraphIndex(proto)
    replaced: list[NodeId] = []
    kept: list[tuple[NodeId, str]] = []
    names, made = FreshNames.of(proto), dict[tuple[tuple[str, ...], str], str]()
    edits: list[Edit] = []
    for scope in index.scopes:
        edits.append(Edit(scope.path))
        for position, node in enumerate(scope.nodes):
            identity = index.node_id(scope, position)
            if node.op_type != "LayerNormalization" or (wanted is not None and identity not in wanted):
                continue
            place = _Place(model, index, types, scope, position, name, names, made, edits[-1])
            reason = _write_skip(place) if name == SKIP_LAYERNORM else _write_plain(place)
            if reason:
                kept.append((identity, reason))
            else:
                replaced.append(identity)
    if not replaced:
        reasons = f": {kept[0][1]}" if kept else "; fuse the decomposed ones first (planner rewrite --fuse layernorm)"
        raise ConversionError(f"no LayerNormalization can be written as plugin {name}{reasons}")
    weights = model.weights.builder()
    write_edits(index, [edit for edit in edits if edit.touched], weights)
    if all(entry.domain != PLUGIN_DOMAIN for entry in proto.opset_import):
        proto.opset_import.add(domain=PLUGIN_DOMAIN, version=1)
    notes: tuple[str, ...] = ()
    if name == SKIP_LAYERNORM:
        notes = (
            "the plugin has an epsilon of its own (none before 2024), not the model's; it adds the skip in the type of "
            "its inputs",
        )
    return PluginResult(model.with_proto(proto, weights.build()), {}, notes, tuple(replaced), tuple(kept))


@dataclass(frozen=True, slots=True)
class _Place:
    """A LayerNormalization node, and what its writing goes by.

    Attributes:
      made: (path of a graph, what a new constant is) -> its name.
      edit: of the node's graph; takes what stands around the node.
    """

    model: Model
    index: GraphIndex
    types: TypeTable
    scope: Scope
    position: int
    name: str
    names: FreshNames
    made: dict[tuple[tuple[str, ...], str], str]
    edit: Edit

    def constant(self, holder: Scope, what: str, array: np.ndarray) -> str:
        """The name of an initializer of `holder`, made where it was not yet."""
        key = (holder.path, what)
        if key not in self.made:
            assert isinstance(holder.container, GraphProto)
            self.made[key] = self.names.fresh(what)
            holder.container.initializer.append(numpy_helper.from_array(array, self.made[key]))
        return self.made[key]


def _attribute(node: NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return attribute.f if name == "epsilon" else attribute.i
    return default


def _write_plain(place: _Place) -> str:
    """X, gamma, beta; `epsilon`, `axis`. Returns why not, '' when done."""
    node = place.scope.nodes[place.position]
    if any(node.output[1:]):
        return "its mean or standard deviation is read, which the plugin does not give"
    inputs = list(node.input)
    if len(inputs) < 3 or not inputs[2]:
        beta = _zeros_like(place, inputs[1])
        if beta is None:
            return f"it has no bias and the plugin takes one, but the size of {inputs[1]!r} is not known"
        inputs = [*inputs[:2], beta]
    epsilon = _attribute(node, "epsilon", 1e-5)
    axis = int(_attribute(node, "axis", -1))
    _become(node, place.name, inputs, {"epsilon": float(epsilon), "axis": axis})
    return ""


def _zeros_like(place: _Place, gamma: str) -> str | None:
    """A constant of zeros in the shape and type of a constant, next to it."""
    holder = place.index.resolve(place.scope, gamma)
    tensor = None if holder is None else holder.initializers.get(gamma)
    if holder is None or tensor is None or not isinstance(holder.container, GraphProto):
        return None
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return place.constant(holder, f"{gamma}_zeros", np.zeros(tuple(tensor.dims), dtype))


def _write_skip(place: _Place) -> str:
    """Add and LayerNormalization as one node between Unsqueeze and Squeeze. Returns why not, '' when done."""
    model, index, types, scope, position = place.model, place.index, place.types, place.scope, place.position
    node = scope.nodes[position]
    if not isinstance(scope.container, GraphProto):
        return "it stands in a local function"
    if any(node.output[1:]):
        return "its mean or standard deviation is read, which the plugin does not give"
    value = types.of(scope, node.input[0])
    if value.rank != 3 or int(_attribute(node, "axis", -1)) not in (-1, 2):
        return f"the plugin normalizes the last axis of a value of rank 3, this is axis {_attribute(node, 'axis', -1)}"
    gamma = index.constant(scope, node.input[1], model)
    beta = index.constant(scope, node.input[2], model) if len(node.input) > 2 and node.input[2] else None
    if gamma is None or gamma.ndim != 1:
        return "its scale is no constant vector, and the plugin takes it as an attribute"
    at = scope.producer(node.input[0])
    add = None if at is None else scope.nodes[at]
    operands = list(add.input) if add is not None and add.op_type == "Add" else []
    if at is None or not operands or any(types.of(scope, operand).rank != 3 for operand in operands):
        return "it does not follow the addition of two values of rank 3"
    low = value.elem_type == TensorProto.FLOAT16
    if value.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        return "the plugin takes FP32 and FP16 only"
    size = int(gamma.size)
    output, base, node_input = node.output[0], node.output[0], node.input[0]
    # as an input: LayerNormalization needs opset 17, these take their axes so from 13 on
    axes = place.constant(scope, "plugin_layernorm_axes", np.array([3, 4], np.int64))
    wide = [place.names.fresh(f"{base}_{word}_5d") for word in ("input", "skip", "plugin")]
    before = [_reshape("Unsqueeze", operand, target, axes) for operand, target in zip(operands, wide, strict=False)]
    after = _reshape("Squeeze", wide[2], output, axes)
    attributes: dict[str, int | TensorProto] = {"type_id": int(low), "ld": size}
    for key, array in (("gamma", gamma), ("beta", np.zeros(size) if beta is None else beta)):
        attributes[key] = numpy_helper.from_array(np.asarray(array, np.float32).reshape(1, 1, size), key)
    del node.output[:]
    node.output.append(wide[2])
    _become(node, place.name, wide[:2], attributes)
    place.edit.insert += [*((position, extra) for extra in before), (position + 1, after)]
    if not scope.is_read_elsewhere(node_input, {position}):
        place.edit.remove.add(at)
    return ""


def _reshape(op_type: str, source: str, target: str, axes: str) -> NodeProto:
    return helper.make_node(op_type, [source, axes], [target], name=f"{op_type}_{target}")


def _become(
    node: NodeProto, name: str, inputs: Sequence[str], attributes: dict[str, int | TensorProto] | dict[str, float]
) -> None:
    """Make the plugin's node of an operator's, in place: name, documentation and metadata stay."""
    node.op_type, node.domain = name, PLUGIN_DOMAIN
    del node.input[:]
    node.input.extend(inputs)
    given = {**attributes, "plugin_version": "1", "plugin_namespace": ""}
    set_items(node.attribute, [helper.make_attribute(key, value) for key, value in given.items()])
