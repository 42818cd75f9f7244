"""Who makes a value and who reads it, in every graph of a model.

A model has several graphs: the main one, the bodies of If, Loop, Scan and the like, and the local functions. Each is
a `Scope`. A body sees the values of the scopes around it (a capture); a function sees only its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from precision_planner.model.model import Model
from precision_planner.model.tensors import marker_key


class NodeId(NamedTuple):
    """A node's identity: the path of its scope and its first non-empty output (``#position`` where it has none)."""

    scope: tuple[str, ...]
    output: str

    def __str__(self) -> str:
        return "/".join((*self.scope, self.output))


class Use(NamedTuple):
    """One reading of a value: the node's position in its scope and the index of its input."""

    position: int
    slot: int


@dataclass(slots=True)
class Scope:
    """One graph: the main graph, a body, or a local function."""

    path: tuple[str, ...]
    kind: str
    """'main', 'subgraph' or 'function'."""
    container: GraphProto | onnx.FunctionProto
    parent: Scope | None = None
    owner: NodeProto | None = None
    """The node whose attribute holds this body (None for the main graph and functions)."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    sparse_initializers: dict[str, onnx.SparseTensorProto] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    captures: dict[str, list[tuple[Scope, Use]]] = field(default_factory=dict)
    """Values of this scope that nested bodies read: value -> (the body, the use in it)."""
    body_outputs: dict[str, list[Scope]] = field(default_factory=dict)
    """Values of this scope that a nested body returns directly, without a node of its own."""
    _producers: dict[str, int] = field(default_factory=dict)
    _consumers: dict[str, list[Use]] = field(default_factory=dict)

    def producer(self, value: str) -> int | None:
        """The position of the node that makes `value`, None for inputs, initializers and captures."""
        return self._producers.get(value)

    def producer_node(self, value: str) -> NodeProto | None:
        """The node that makes `value` in this scope."""
        position = self._producers.get(value)
        return None if position is None else self.nodes[position]

    def consumers(self, value: str) -> list[Use]:
        """The readings of `value` by nodes of this very scope, in node order."""
        return self._consumers.get(value, [])

    def is_output(self, value: str) -> bool:
        """Whether the scope returns `value`."""
        return value in self._outputs

    def is_overridable(self, value: str) -> bool:
        """Whether `value` is an initializer that a caller may replace (it is an input too)."""
        return value in self.initializers and value in self._inputs

    def is_input(self, value: str) -> bool:
        """Whether `value` is an input of the scope."""
        return value in self._inputs

    def defines(self, value: str) -> bool:
        """Whether the scope itself holds `value` (so that it is no capture)."""
        return (
            value in self._producers
            or value in self._inputs
            or value in self.initializers
            or value in self.sparse_initializers
        )

    def is_read_elsewhere(self, value: str, inside: frozenset[int] | set[int]) -> bool:
        """Whether anything but the nodes at positions `inside` sees `value`: a node, a body, or the caller."""
        return (
            self.is_output(value)
            or value in self.captures
            or value in self.body_outputs
            or any(use.position not in inside for use in self.consumers(value))
        )

    _outputs: frozenset[str] = frozenset()
    _inputs: frozenset[str] = frozenset()


class GraphIndex:
    """Every scope of a model, indexed once, in time linear in the model.

    Attributes:
      main: the main graph's scope.
      scopes: all scopes, a parent before its bodies, functions last.
      by_path: scope path -> scope.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.scopes: list[Scope] = []
        self.main = self._graph(proto.graph, (), "main", None, None)
        for function in proto.functions:
            self._function(function)
        self.by_path: dict[tuple[str, ...], Scope] = {scope.path: scope for scope in self.scopes}

    def nodes(self) -> Iterator[tuple[Scope, int, NodeProto]]:
        """Every node of the model, with its scope and position."""
        for scope in self.scopes:
            for position, node in enumerate(scope.nodes):
                yield scope, position, node

    def node_id(self, scope: Scope, position: int) -> NodeId:
        """The identity of the node at `position`."""
        return NodeId(scope.path, first_output(scope.nodes[position]) or f"#{position}")

    def find(self, node_id: NodeId) -> tuple[Scope, int] | None:
        """The scope and position of a node, None if the model has no such node."""
        scope = self.by_path.get(node_id.scope)
        if scope is None:
            return None
        if node_id.output.startswith("#"):
            position: int | None = int(node_id.output[1:])
            return (scope, position) if position is not None and position < len(scope.nodes) else None
        position = scope.producer(node_id.output)
        return None if position is None else (scope, position)

    def display(self, node_id: NodeId) -> str:
        """What to call a node in messages: its name, or ``OpType(output)`` where it has none."""
        found = self.find(node_id)
        if found is None:
            return str(node_id)
        return display_name(found[0].nodes[found[1]])

    def resolve(self, scope: Scope, value: str) -> Scope | None:
        """The scope that holds `value` as seen from `scope`: itself or, for a capture, one around it."""
        at: Scope | None = scope
        while at is not None:
            if at.defines(value):
                return at
            at = at.parent if at.kind == "subgraph" else None
        return None

    def constant(self, scope: Scope, value: str, model: Model, max_elements: int | None = None) -> np.ndarray | None:
        """The value of a constant, None for anything that is not provably one.

        Initializers that no caller can override and Constant nodes of every attribute kind, seen through Identity
        and from the scopes around.

        Args:
          scope: where the value is read.
          value: its name.
          model: gives the weights.
          max_elements: None is returned for larger constants, which are then not read.
        """
        seen = 0
        while True:
            holder = self.resolve(scope, value)
            if holder is None:
                return None
            tensor = holder.initializers.get(value)
            if tensor is not None:
                if holder.is_overridable(value) and holder.kind == "main":
                    return None
                return _tensor_value(tensor, model, max_elements)
            node = holder.producer_node(value)
            if node is None:
                return None
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                return constant_value(node, model, max_elements)
            if node.op_type != "Identity" or node.domain not in ("", "ai.onnx") or seen > 64:
                return None
            scope, value, seen = holder, node.input[0], seen + 1

    def _graph(
        self,
        graph: GraphProto,
        path: tuple[str, ...],
        kind: str,
        parent: Scope | None,
        owner: NodeProto | None,
    ) -> Scope:
        scope = Scope(path, kind, graph, parent, owner)
        scope.inputs = tuple(value.name for value in graph.input)
        scope.outputs = tuple(value.name for value in graph.output)
        scope.initializers = {tensor.name: tensor for tensor in graph.initializer}
        scope.sparse_initializers = {sparse.values.name: sparse for sparse in graph.sparse_initializer}
        self._fill(scope, list(graph.node))
        return scope

    def _function(self, function: onnx.FunctionProto) -> None:
        path = (f"fn:{function.domain}:{function.name}:{getattr(function, 'overload', '')}",)
        scope = Scope(path, "function", function)
        scope.inputs, scope.outputs = tuple(function.input), tuple(function.output)
        self._fill(scope, list(function.node))

    def _fill(self, scope: Scope, nodes: list[NodeProto]) -> None:
        self.scopes.append(scope)
        scope.nodes = nodes
        scope._inputs, scope._outputs = frozenset(scope.inputs), frozenset(scope.outputs)
        producers, consumers = scope._producers, scope._consumers
        bodies: list[tuple[int, str, GraphProto]] = []
        for position, node in enumerate(nodes):
            for index, name in enumerate(node.input):
                if name:
                    consumers.setdefault(name, []).append(Use(position, index))
            for name in node.output:
                if name:
                    producers[name] = position
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
                    bodies.append((position, attribute.name, attribute.g))
                for number, graph in enumerate(attribute.graphs):
                    bodies.append((position, f"{attribute.name}[{number}]", graph))
        for position, name, graph in bodies:
            node = nodes[position]
            body = self._graph(
                graph,
                (*scope.path, f"{first_output(node) or f'#{position}'}.{name}"),
                "subgraph",
                scope,
                node,
            )
            self._record_captures(body)

    def _record_captures(self, body: Scope) -> None:
        """Tell the scopes around a body which of their values it (not its own nested bodies) reads."""
        for value, uses in body._consumers.items():
            if not body.defines(value):
                holder = self.resolve(body, value)
                if holder is not None:
                    holder.captures.setdefault(value, []).extend((body, use) for use in uses)
        for value in body.outputs:
            if value and not body.defines(value):
                holder = self.resolve(body, value)
                if holder is not None:
                    holder.body_outputs.setdefault(value, []).append(body)


def first_output(node: NodeProto) -> str:
    """The first output that has a name, '' where none has."""
    return next((name for name in node.output if name), "")


def display_name(node: NodeProto) -> str:
    """A node's name, or ``OpType(output)`` for one without."""
    return node.name or f"{node.op_type}({first_output(node)})"


def constant_value(node: NodeProto, model: Model, max_elements: int | None = None) -> np.ndarray | None:
    """What a Constant node holds (value, value_float(s), value_int(s)); None for strings, sparse and references."""
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            return None
        match attribute.name:
            case "value":
                return _tensor_value(attribute.t, model, max_elements)
            case "value_float":
                return np.array(attribute.f, np.float32)
            case "value_floats":
                return np.array(attribute.floats, np.float32)
            case "value_int":
                return np.array(attribute.i, np.int64)
            case "value_ints":
                return np.array(attribute.ints, np.int64)
            case _:
                return None
    return None


def _tensor_value(tensor: TensorProto, model: Model, max_elements: int | None) -> np.ndarray | None:
    if tensor.data_type == TensorProto.STRING:
        return None
    count = 1
    for dim in tensor.dims:
        count *= dim
    if max_elements is not None and count > max_elements:
        return None
    if tensor.data_location == TensorProto.EXTERNAL and marker_key(tensor) is None:
        return None
    return model.array(tensor)
