"""Compute in FP32 what a model computes of constants alone: products, sums and normalizations of weights.

A product of two weights (the projected relative positions of DeBERTa) is rounded twice where it is typed before it is
folded, and onnxruntime 1.32 folds some such FP16 forms wrongly or not at all. Computed here, it is a weight like any
other. What only moves or scales constants is left to the builder, and so is what makes large tensors of small ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, numpy_helper

from precision_planner.errors import MissingExtraError, ModelError
from precision_planner.model import GraphIndex, Model, Scope, array_payload, set_payload
from precision_planner.model.edit import PassResult, set_items, set_nodes
from precision_planner.model.order import reads, topological_order
from precision_planner.model.session import Session
from precision_planner.model.wire import STRIP_BYTES
from precision_planner.operators import PRODUCTS, domain_of, is_product, row_of

__all__ = ["Folded", "fold_constants"]

MOST_BYTES = 64 << 20
"""Bytes of one result that is still folded."""


@dataclass(frozen=True, slots=True)
class Folded(PassResult):
    """The model, and what was computed in it.

    Attributes:
      model: the model itself where nothing was.
      values: the values that are initializers now.
    """

    values: tuple[str, ...] = ()


def fold_constants(model: Model) -> Folded:
    """Compute the constant products, sums and normalizations of the main graph; nothing else is changed.

    Args:
      model: any model. Where onnxruntime is missing or cannot run the constant part, the model is returned as it is.
    """
    main = GraphIndex(model.proto).main
    computed = _computed(main)
    targets = _targets(main, computed)
    if not targets:
        return Folded(model)
    positions = sorted(_behind(main, targets))
    try:
        values = _run(model, main, positions, targets)
    except (ModelError, MissingExtraError):
        return Folded(model)
    values = {name: value for name, value in values.items() if value.nbytes <= MOST_BYTES}
    if not values:
        return Folded(model)
    note = f"computed from constants in FP32: {', '.join(values)}"
    return Folded(_replaced(model, values), notes=(note,), values=tuple(values))


def _computed(main: Scope) -> dict[str, bool]:
    """Values computed from constants alone -> whether a product, sum or normalization is among what computes them."""
    constants = {name for name in main.initializers if not main.is_overridable(name)}
    found: dict[str, bool] = {}
    for position in topological_order(main.nodes) or range(len(main.nodes)):
        node = main.nodes[position]
        row = row_of(node)
        if node.op_type == "Constant" and not domain_of(node):
            constants.update(node.output)
            continue
        names = [name for name in node.input if name]
        if not names or row.name == "" or domain_of(node) or row.bodies or row.random or row.quantizes or row.container:
            continue
        if all(name in constants or name in found for name in names):
            sums = is_product(node, PRODUCTS) or bool(row.reduces or row.normalizes or row.scores)
            for name in filter(None, node.output):
                found[name] = sums or any(found.get(given, False) for given in names)
    return found


def _targets(main: Scope, computed: Mapping[str, bool]) -> list[str]:
    """What the rest of the graph reads of them."""
    inside = set(computed)
    found: list[str] = []
    for name, sums in computed.items():
        if not sums or main.is_output(name) or name in main.body_outputs:
            continue
        makers = [main.nodes[use.position] for use in main.consumers(name)]
        if name in main.captures or any(not inside.issuperset(filter(None, node.output)) for node in makers):
            found.append(name)
    return found


def _behind(main: Scope, targets: list[str]) -> set[int]:
    positions: set[int] = set()
    waiting = list(targets)
    while waiting:
        position = main.producer(waiting.pop())
        if position is None or position in positions:
            continue
        positions.add(position)
        waiting.extend(main.nodes[position].input)
    return positions


def _run(model: Model, main: Scope, positions: list[int], targets: list[str]) -> dict[str, np.ndarray]:
    part = model.edit()
    graph = part.graph
    nodes = [main.nodes[position] for position in positions]
    read = {name for node in nodes for name in node.input}
    set_nodes(graph, nodes)
    set_items(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
    for field in (graph.input, graph.output, graph.sparse_initializer, graph.value_info, part.functions):
        del field[:]
    for name in targets:
        graph.output.add(name=name)
    with Session(model.with_proto(part)) as session:
        return {name: np.asarray(value) for name, value in session.run({}).items()}


def _replaced(model: Model, values: Mapping[str, np.ndarray]) -> Model:
    """The model with initializers in place of what computed them; constants that nothing reads any more go too."""
    proto = model.edit()
    store = model.weights.builder()
    graph = proto.graph
    nodes = [node for node in graph.node if not any(name in values for name in node.output)]
    before = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    wanted = {value.name for value in graph.output}
    alive: list[NodeProto] = []
    for node in reversed([nodes[at] for at in topological_order(nodes) or range(len(nodes))]):
        # what nothing read before is none of our business
        if any(name in wanted or name not in before for name in node.output if name) or not any(node.output):
            alive.append(node)
            wanted |= reads(node)
    lives = {id(node) for node in alive}
    stale = [t.name for t in graph.initializer if t.name in before and t.name not in wanted]
    inputs = {value.name for value in graph.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in inputs or tensor.name not in stale]
    set_nodes(graph, [node for node in nodes if id(node) in lives])
    set_items(graph.initializer, kept)
    for name, value in values.items():
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        if value.nbytes >= STRIP_BYTES:
            set_payload(tensor, store.add(array_payload(np.ascontiguousarray(value))))
        graph.initializer.append(tensor)
    return model.with_proto(proto, store.build())
