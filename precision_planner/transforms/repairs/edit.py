"""Changes to one graph, planned against an index and applied together.

A repair never changes a graph: it returns an `Edit`. Edits that touch the same nodes are applied in turns, each turn
planned anew on what the one before it left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from precision_planner.model import (
    GraphIndex,
    Model,
    NodeId,
    Payload,
    Scope,
    TypeTable,
    WeightStoreBuilder,
    array_payload,
    set_payload,
)
from precision_planner.model.flow import Flow
from precision_planner.model.tensors import clear_values
from precision_planner.model.wire import STRIP_BYTES

if TYPE_CHECKING:
    from precision_planner.patterns import Match

__all__ = ["Edit", "Site", "apply_edit", "constant", "touched"]


@dataclass(frozen=True)
class Site:
    """Where a repair is asked for.

    Attributes:
      model: the FP32 model.
      index: of `model.proto`.
      types: as inferred.
      scope: the graph that holds the nodes or the tensor.
      nodes: the nodes of the action.
      value: the tensor, for repairs of a constant; "" otherwise.
      parameters: of the repair.
      match: the pattern, for repairs of one.
      amax: (scope path, value) -> the largest magnitude measured in FP32; empty where nothing was measured.
      memo: what repairs remember about the same model from one place to the next.
    """

    model: Model
    index: GraphIndex
    types: TypeTable
    scope: Scope
    nodes: tuple[NodeId, ...] = ()
    value: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    match: Match | None = None
    amax: Mapping[tuple[tuple[str, ...], str], float] = field(default_factory=dict)
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def flow(self) -> Flow:
        """The walks along the model's values, made once for all sites of a model."""
        found: Flow = self.memo.setdefault("flow", None) or Flow(self.index)
        self.memo["flow"] = found
        return found

    def place(self, node: NodeId) -> tuple[Scope, int] | None:
        """Scope and position of a node."""
        return self.index.find(node)

    def array(self, value: str, max_elements: int | None = None) -> np.ndarray[Any, Any] | None:
        """A constant's values; None for anything else."""
        return self.index.constant(self.scope, value, self.model, max_elements)

    def constant_of(self, scope: Scope, value: str) -> np.ndarray[Any, Any] | None:
        """The same, of a constant that another graph of the model may hold."""
        return self.index.constant(scope, value, self.model)

    def number(self, value: str) -> float | None:
        """The value of a constant of one element; None for anything else."""
        array = self.array(value, 1) if value else None
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def elem_type(self, value: str) -> int:
        """Element type of a value; FLOAT where inference gave none."""
        return self.types.of(self.scope, value).elem_type or TensorProto.FLOAT


@dataclass
class Edit:
    """What is to change in one graph.

    Attributes:
      path: of the graph's scope.
      remove: positions of nodes that go.
      insert: (position of the node before which it goes, node).
      rewire: (position, input slot) -> value.
      constants: new ones; initializers in a graph, Constant nodes in a function.
      replace: initializer or Constant output -> its new values, type and shape as they were.
      attributes: (position, attribute name) -> value.
      reads: positions that the repair's proof rests on.
      payloads: new constant -> its bytes, where they are too many to stand in `constants`.
      scaled: new value -> (old value, p): it holds 2^p times what the old one did.
      note: what was done, for the report.
    """

    path: tuple[str, ...]
    remove: set[int] = field(default_factory=set)
    insert: list[tuple[int, NodeProto]] = field(default_factory=list)
    rewire: dict[tuple[int, int], str] = field(default_factory=dict)
    constants: list[TensorProto] = field(default_factory=list)
    replace: dict[str, np.ndarray[Any, Any] | Payload] = field(default_factory=dict)
    attributes: dict[tuple[int, str], Any] = field(default_factory=dict)
    reads: set[int] = field(default_factory=set)
    payloads: dict[str, Payload] = field(default_factory=dict)
    scaled: dict[str, tuple[str, int]] = field(default_factory=dict)
    note: str = ""


def constant(name: str, value: Any, elem_type: int, dims: tuple[int, ...] = ()) -> TensorProto:
    """A small constant of a float type.

    Args:
      name: of the value.
      value: a number or array.
      elem_type: TensorProto.DataType.
      dims: its shape; () is a scalar.
    """
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    return numpy_helper.from_array(np.asarray(value, np.float64).astype(dtype).reshape(dims), name)


def touched(edit: Edit) -> set[tuple[tuple[str, ...], int]]:
    """Every node that an edit changes or rests on."""
    positions = edit.remove | edit.reads | {position for position, _ in edit.rewire}
    positions |= {position for position, _ in edit.attributes} | {position for position, _ in edit.insert}
    return {(edit.path, position) for position in positions}


def apply_edit(model: Model, index: GraphIndex, edits: list[Edit]) -> Model:
    """Apply edits that do not touch each other.

    Args:
      model: what they were planned on.
      index: of `model.proto`.
      edits: planned against `index`.

    Returns:
      A new model; nodes, names, metadata and order of everything else are as they were.
    """
    proto = model.edit()
    weights = model.weights.builder()
    scopes = {scope.path: scope for scope in GraphIndex(proto).scopes}
    by_path: dict[tuple[str, ...], list[Edit]] = {}
    for edit in edits:
        by_path.setdefault(edit.path, []).append(edit)
    # bodies before the graphs around them: writing a node list again would orphan references into it
    for path in sorted(by_path, key=len, reverse=True):
        _apply_to(scopes[path], by_path[path], weights)
    return model.with_proto(proto, weights.build())


def _apply_to(scope: Scope, edits: list[Edit], weights: WeightStoreBuilder) -> None:
    container = scope.container
    removed = set().union(*(edit.remove for edit in edits))
    inserted: dict[int, list[NodeProto]] = {}
    for edit in edits:
        for position, node in edit.insert:
            inserted.setdefault(position, []).append(node)
        for (position, slot), value in edit.rewire.items():
            scope.nodes[position].input[slot] = value
        for (position, name), value in edit.attributes.items():
            _set_attribute(scope.nodes[position], name, value)
        for name, array in edit.replace.items():
            _replace_constant(scope, name, array, weights)
    _name_apart(scope, removed, [node for nodes in inserted.values() for node in nodes])
    constants = [tensor for edit in edits for tensor in edit.constants]
    payloads = {name: payload for edit in edits for name, payload in edit.payloads.items()}
    for tensor in constants:
        if tensor.name in payloads:
            set_payload(tensor, weights.add(payloads[tensor.name]))
    nodes: list[NodeProto] = []
    if isinstance(container, onnx.GraphProto):
        container.initializer.extend(constants)
    else:
        nodes += [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in constants]
    for position, node in enumerate(scope.nodes):
        nodes.extend(inserted.get(position, ()))
        if position not in removed:
            nodes.append(node)
    nodes.extend(inserted.get(len(scope.nodes), ()))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del container.node[:]
    container.node.extend(copies)


def _name_apart(scope: Scope, removed: set[int], inserted: list[NodeProto]) -> None:
    """Give nodes names that no other node has: one place may be repaired twice, and runtimes refuse twins."""
    taken = {node.name for position, node in enumerate(scope.nodes) if position not in removed and node.name}
    for node in inserted:
        base, number = node.name, 1
        while node.name in taken:
            number += 1
            node.name = f"{base}_{number}"
        if node.name:
            taken.add(node.name)


def _set_attribute(node: NodeProto, name: str, value: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    kept = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in kept]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _replace_constant(
    scope: Scope, name: str, array: np.ndarray[Any, Any] | Payload, weights: WeightStoreBuilder
) -> None:
    """Give an initializer or Constant node new values; its shape, type, metadata and doc string stay."""
    if isinstance(array, np.generic):  # what numpy makes of an operation on a tensor without axes
        array = np.asarray(array)
    tensor = scope.initializers.get(name)
    if tensor is None:
        node = scope.producer_node(name)
        assert node is not None
        tensor = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if tensor is None:  # value_float or value_floats
            assert isinstance(array, np.ndarray)
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(array)))
            return
    if not isinstance(array, np.ndarray):
        set_payload(tensor, weights.add(array))
    elif array.nbytes >= STRIP_BYTES:
        set_payload(tensor, weights.add(array_payload(array)))
    else:
        clear_values(tensor)
        tensor.raw_data = numpy_helper.from_array(array).raw_data
