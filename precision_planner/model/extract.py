"""A small model cut out of a large one, with the inputs that it had there: a bug report that reproduces."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from precision_planner.errors import ModelError, SelectorError
from precision_planner.model.bodies import bodies_of
from precision_planner.model.edit import set_nodes
from precision_planner.model.index import GraphIndex, Scope, display_name
from precision_planner.model.inline import inline_functions
from precision_planner.model.inputs import Inputs
from precision_planner.model.model import Model
from precision_planner.model.order import reads, sorted_copy
from precision_planner.model.session import Session


@dataclass(frozen=True)
class Extract:
    """What was cut out.

    Attributes:
      model: the small model; its inputs and outputs are values of the large one, under their names.
      inputs: what its inputs held in the large model.
      nodes: the names of its nodes.
    """

    model: Model
    inputs: dict[str, np.ndarray]
    nodes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Extract of {len(self.nodes)} nodes, with {', '.join(self.inputs) or 'no inputs'}>"


def extract_around(model: Model, around: Collection[str], inputs: Inputs, *, radius: int = 2) -> Extract:
    """Cut out the nodes around some nodes of the main graph.

    Args:
      model: the large model.
      around: names of nodes, or of values they make.
      inputs: batches of the large model; the first is run to fill the small model's inputs.
      radius: how many nodes away, upstream and downstream. Constant nodes come with what reads them.

    Raises:
      SelectorError: a name is neither a node nor a value of the main graph.
      ModelError: onnxruntime cannot run the large model, or a value at the edge is no tensor.
    """
    calls = {display_name(node): list(node.output) for node in model.proto.graph.node}
    model = inline_functions(model)
    model = model.with_proto(sorted_copy(model.proto))
    scope = GraphIndex(model.proto).main
    chosen = {position for name in around for position in _find(scope, name, calls)}
    picked = _neighborhood(scope, chosen, radius)
    nodes = [scope.nodes[position] for position in sorted(picked)]
    made = {name for node in nodes for name in node.output if name}
    read: set[str] = set().union(*(reads(node) for node in nodes)) if nodes else set()
    inner = {name for node in nodes for name in _body_made(node)}
    free = sorted(
        name for name in read - made - inner if name not in scope.initializers and name not in scope.sparse_initializers
    )
    values = _values(model, scope, free, inputs)
    outputs = [name for name in made if _leaves(scope, name, picked)]
    proto = onnx.ModelProto(ir_version=model.proto.ir_version, producer_name="precision-planner extract")
    proto.opset_import.extend(model.proto.opset_import)
    graph = proto.graph
    graph.name = "extract"
    set_nodes(graph, nodes)
    graph.initializer.extend(tensor for name, tensor in scope.initializers.items() if name in read)
    graph.sparse_initializer.extend(s for name, s in scope.sparse_initializers.items() if name in read)
    for name in free:
        array = values[name]
        graph.input.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape))
        )
    order = [name for node in nodes for name in node.output if name in outputs]
    graph.output.extend(_typed_outputs(model, proto, order, values))
    return Extract(model.with_proto(proto), values, tuple(map(display_name, nodes)))


def _find(scope: Scope, name: str, calls: Mapping[str, Sequence[str]]) -> set[int]:
    """Positions of the nodes of a name: one, or where that called a function, those that make its results.

    Args:
      scope: the main graph, functions inlined.
      name: of a node, or of a value.
      calls: node of the graph as it was -> the values that it makes.
    """
    names = {display_name(node): position for position, node in enumerate(scope.nodes)}
    if name in names:
        return {names[name]}
    made = {at for value in (name, *calls.get(name, ())) if (at := scope.producer(value)) is not None}
    if not made:
        near = difflib.get_close_matches(name, list({**names, **calls}), 3, 0.5)
        hint = f"nearest: {', '.join(near)}" if near else "give a node's name or a value that it makes"
        raise SelectorError(f"--around {name!r} is no node of the main graph; {hint}")
    return made


def _neighborhood(scope: Scope, chosen: set[int], radius: int) -> set[int]:
    picked, edge = set(chosen), set(chosen)
    for _ in range(radius):
        near: set[int] = set()
        for position in edge:
            node = scope.nodes[position]
            near.update(at for name in reads(node) if (at := scope.producer(name)) is not None)
            near.update(use.position for name in node.output for use in scope.consumers(name))
        edge = near - picked
        picked |= edge
    constants: set[int] = set()
    for position in picked:
        for name in reads(scope.nodes[position]):
            at = scope.producer(name)
            if at is not None and scope.nodes[at].op_type == "Constant":
                constants.add(at)
    return picked | constants


def _leaves(scope: Scope, name: str, picked: set[int]) -> bool:
    """Whether a value is seen outside the cut, or read by nothing inside it."""
    node = scope.producer_node(name)
    if node is not None and node.op_type == "Constant":
        return False
    return scope.is_read_elsewhere(name, picked) or not scope.consumers(name)


def _body_made(node: NodeProto) -> set[str]:
    """Names made inside a node's bodies."""
    found: set[str] = set()
    for body in bodies_of(node):
        found.update(value.name for value in body.input)
        found.update(tensor.name for tensor in body.initializer)
        for inner in body.node:
            found.update(inner.output)
            found |= _body_made(inner)
    return found


def _values(model: Model, scope: Scope, names: list[str], inputs: Inputs) -> dict[str, np.ndarray]:
    batch = inputs.first()
    found: dict[str, Any] = {name: batch[name] for name in names if scope.is_input(name)}
    inside = [name for name in names if name not in found]
    if inside:
        with Session(model, inside) as session:
            found.update(session.run(batch))
    for name, value in found.items():
        if not isinstance(value, np.ndarray):
            raise ModelError(f"value '{name}' at the edge of the cut is no tensor; take another --radius")
    return found


def _typed_outputs(
    model: Model, proto: onnx.ModelProto, names: list[str], values: dict[str, np.ndarray]
) -> list[onnx.ValueInfoProto]:
    """The outputs with their element types, which a valid model must state; onnxruntime knows them all."""
    untyped = onnx.ModelProto()
    untyped.CopyFrom(proto)
    untyped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with Session(model.with_proto(untyped)) as session:
        made = session.run(values)
    found = []
    for name in names:
        if not isinstance(made[name], np.ndarray):
            raise ModelError(f"value '{name}' at the edge of the cut is no tensor; take another --radius")
        elem_type = helper.np_dtype_to_tensor_dtype(made[name].dtype)
        found.append(helper.make_tensor_value_info(name, elem_type, list(made[name].shape)))
    return found
