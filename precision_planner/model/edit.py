"""The one editor of graphs: node lists of main graphs, bodies and functions are written here and nowhere else.

protobuf hands out references into a list; writing the list again orphans them, and those into the bodies of its nodes
too. So nodes are copied before a list is written, and bodies are written before the graphs around them.

1. `set_nodes` and `set_items`: a list is written anew.
2. `rewrite_nodes`: every node of a model gives the nodes that stand in its place.
3. `Edit`, planned against an index, and `apply_edits`: nodes out, in and rewired, constants added and replaced.

New names are `precision_planner.model.names`'; a pass, which takes a `Model` and gives another, returns a `PassResult`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import NodeProto, TensorProto, helper, numpy_helper

from precision_planner.model.index import GraphIndex, Scope
from precision_planner.model.model import Model
from precision_planner.model.payloads import Payload, WeightStoreBuilder, array_payload
from precision_planner.model.tensors import clear_values, set_payload
from precision_planner.model.wire import STRIP_BYTES

__all__ = [
    "Container",
    "Edit",
    "PassResult",
    "apply_edits",
    "copied",
    "rewrite_nodes",
    "set_items",
    "set_nodes",
    "write_edits",
]

Container = onnx.GraphProto | onnx.FunctionProto
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass made; what a pass has to say beyond this is a field of a class of its own that is one of these.

    Attributes:
      model: the new model; the very model that was given where nothing was to be done.
      names: old node name -> new one, where nodes were replaced.
      notes: what a user should know, a sentence each.
    """

    model: Model
    names: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def copied(message: M) -> M:
    """A copy that no list holds."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def set_nodes(container: Container, nodes: Iterable[NodeProto]) -> None:
    """Give a graph or function these nodes, in this order; they may be nodes that it has.

    References to its nodes, and into their bodies, are orphaned.
    """
    given = list(nodes)
    if container.node:
        given = [copied(node) for node in given]
        del container.node[:]
    container.node.extend(given)


def set_items(items: Any, kept: Iterable[M]) -> None:
    """Give another repeated field of a graph (initializer, value_info, ...) these messages; they may be its own."""
    given = [copied(item) for item in kept]
    del items[:]
    items.extend(given)


def rewrite_nodes(index: GraphIndex, write: Callable[[Scope, int, NodeProto], Sequence[NodeProto]]) -> bool:
    """Write every node as the nodes that stand in its place; bodies come before the graphs that hold them.

    Args:
      index: of the proto to be changed. It is of no further use where anything was changed.
      write: (scope, position, node) -> nodes; the node itself, alone, stays as it is (with what was changed in it).

    Returns:
      Whether a list was written.
    """
    changed = False
    for scope in reversed(index.scopes):
        nodes: list[NodeProto] = []
        is_new = False
        for position, node in enumerate(scope.nodes):
            given = write(scope, position, node)
            is_new |= len(given) != 1 or given[0] is not node
            nodes += given
        if is_new:
            set_nodes(scope.container, nodes)
        changed |= is_new
    return changed


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
      reads: positions that the proof of the change rests on.
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

    @property
    def touched(self) -> set[tuple[tuple[str, ...], int]]:
        """Every node that it changes or rests on: (path, position)."""
        positions = self.remove | self.reads | {position for position, _ in self.rewire}
        positions |= {position for position, _ in self.attributes} | {position for position, _ in self.insert}
        return {(self.path, position) for position in positions}


def apply_edits(model: Model, edits: Iterable[Edit]) -> Model:
    """Apply edits that do not touch each other.

    Args:
      model: what they were planned on.
      edits: planned against an index of `model.proto`.

    Returns:
      A new model; nodes, names, metadata and order of everything else are as they were.
    """
    proto = model.edit()
    weights = model.weights.builder()
    write_edits(GraphIndex(proto), edits, weights)
    return model.with_proto(proto, weights.build())


def write_edits(index: GraphIndex, edits: Iterable[Edit], weights: WeightStoreBuilder) -> None:
    """Apply edits to the proto that `index` is of, whose use ends here; large constants go to `weights`."""
    by_path: dict[tuple[str, ...], list[Edit]] = {}
    for edit in edits:
        by_path.setdefault(edit.path, []).append(edit)
    for path in sorted(by_path, key=len, reverse=True):  # bodies before the graphs around them
        _write(index.by_path[path], by_path[path], weights)


def _write(scope: Scope, edits: list[Edit], weights: WeightStoreBuilder) -> None:
    removed = set[int]().union(*(edit.remove for edit in edits))
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
    if isinstance(scope.container, onnx.GraphProto):
        scope.container.initializer.extend(constants)
    else:
        nodes += [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in constants]
    for position, node in enumerate(scope.nodes):
        nodes += inserted.get(position, ())
        if position not in removed:
            nodes.append(node)
    set_nodes(scope.container, [*nodes, *inserted.get(len(scope.nodes), ())])


def _name_apart(scope: Scope, removed: set[int], inserted: list[NodeProto]) -> None:
    """Give nodes names that no other node has: one place may be changed twice, and runtimes refuse twins."""
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
    set_items(node.attribute, [*kept, helper.make_attribute(name, value)])


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
            set_items(node.attribute, [helper.make_attribute("value", numpy_helper.from_array(array))])
            return
    if not isinstance(array, np.ndarray):
        set_payload(tensor, weights.add(array))
    elif array.nbytes >= STRIP_BYTES:
        set_payload(tensor, weights.add(array_payload(array)))
    else:
        clear_values(tensor)
        tensor.raw_data = numpy_helper.from_array(array).raw_data
