"""The bodies of If, Loop and Scan, run as graphs of their own, so that the values inside them can be measured.

onnxruntime fetches nothing from inside a body. So the node that holds it is run a second time by hand: the branch that
an If takes, each iteration of a Loop or Scan, on what the graphs around it hold; bodies in bodies likewise. What the
graphs around compute comes from the node itself as onnxruntime runs it: only what is seen comes from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from precision_planner.model import GraphIndex, Model, Scope
from precision_planner.model.blocks import BlockChain, fetchable, part_input
from precision_planner.model.edit import set_nodes
from precision_planner.model.order import reads
from precision_planner.operators import domain_of

__all__ = ["MOST_ITERATIONS", "NOT_RUN", "Bodies", "Path", "holders"]

Path: TypeAlias = "tuple[str, ...]"
See: TypeAlias = Callable[[Scope, str, Any], None]
"""Called with a body, a value's name and the value."""

MOST_ITERATIONS = 10_000
"""Iterations of a Loop or Scan that are looked at, each time it runs."""

NOT_RUN = "not run on this data"


class Bodies:
    """Runs the bodies of a model; a context manager.

    Args:
      model: without local functions.
      index: of its proto.
      see: called with every value that a body is given or makes.
    """

    def __init__(self, model: Model, index: GraphIndex, see: See) -> None:
        self._model, self._index, self._see = model, index, see
        self._stack = ExitStack()
        self._chains: dict[Path, BlockChain] = {}
        self._entered: set[Path] = set()
        self._refused: dict[Path, str] = {}
        self._of = holders(index)

    @property
    def unseen(self) -> dict[Path, str]:
        """The bodies of which nothing was seen so far, and why."""
        paths = (scope.path for scope in self._index.scopes if scope.kind == "subgraph")
        return {path: self._refused.get(path, NOT_RUN) for path in paths if path not in self._entered}

    def needed(self, scope: Scope) -> frozenset[str]:
        """The values of a graph that the bodies of its nodes are run on."""
        return frozenset().union(*(reads(node) for node in scope.nodes if id(node) in self._of))

    def awaited(self, scope: Scope) -> dict[str, NodeProto]:
        """Result -> node, of the nodes of a graph that hold bodies: when one is there, so is all that the node read."""
        return {name: node for node in scope.nodes if id(node) in self._of for name in node.output if name}

    def enter(self, scope: Scope, node: NodeProto, known: Mapping[str, Any]) -> None:
        """Run a node's bodies.

        Args:
          scope: the node's graph.
          node: If, Loop or Scan; of others, and where a value is a sequence, nothing is seen.
          known: name -> array: the values around it, but for initializers.
        """
        bodies = {body.path[-1].rsplit(".", 1)[-1]: body for body in self._of[id(node)]}
        try:
            match (domain_of(node), node.op_type):
                case ("", "If"):
                    self._branch(scope, node, bodies, known)
                case ("", "Loop"):
                    self._loop(scope, node, bodies, known)
                case ("", "Scan"):
                    self._scan(scope, node, bodies, known)
                case _:
                    raise _Unseen(f"the bodies of {node.op_type} cannot be run by themselves")
        except _Unseen as reason:
            for body in bodies.values():
                self._refused.setdefault(body.path, str(reason))

    def _branch(self, scope: Scope, node: NodeProto, bodies: Mapping[str, Scope], known: Mapping[str, Any]) -> None:
        taken = bool(np.asarray(self._value(scope, node.input[0], known)).reshape(-1)[0])
        self._run(bodies["then_branch" if taken else "else_branch"], {}, known)

    def _loop(self, scope: Scope, node: NodeProto, bodies: Mapping[str, Scope], known: Mapping[str, Any]) -> None:
        body = bodies["body"]
        limit, condition = (self._optional(scope, node, slot, known) for slot in (0, 1))
        states = [self._value(scope, name, known) for name in node.input[2:]]
        count = MOST_ITERATIONS if limit is None else min(MOST_ITERATIONS, int(limit.reshape(-1)[0]))
        going = condition is None or bool(condition.reshape(-1)[0])
        assert isinstance(body.container, onnx.GraphProto)
        ranks = [len(value.type.tensor_type.shape.dim) for value in body.container.input[:2]]
        for number in range(count):
            if not going:
                break
            first = [np.array(number, np.int64), np.array(going)]
            fed = [array.reshape([1] * rank) for array, rank in zip(first, ranks, strict=True)]
            made = self._run(body, dict(zip(body.inputs, [*fed, *states], strict=True)), known)
            results = [self._value(body, name, made) for name in body.outputs[: 1 + len(states)]]
            going, states = bool(np.asarray(results[0]).reshape(-1)[0]), results[1:]

    def _scan(self, scope: Scope, node: NodeProto, bodies: Mapping[str, Scope], known: Mapping[str, Any]) -> None:
        body, given = (
            bodies["body"],
            {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "body"},
        )
        count = int(given["num_scan_inputs"])
        if self._model.opset < 9:
            raise _Unseen("a Scan of opset 8 has batches")
        values = [self._value(scope, name, known) for name in node.input]
        states, scanned = values[: len(values) - count], values[len(values) - count :]
        axes = given.get("scan_input_axes") or [0] * count
        backward = given.get("scan_input_directions") or [0] * count
        steps = [np.moveaxis(value, axis, 0) for value, axis in zip(scanned, axes, strict=True)]
        steps = [step[::-1] if back else step for step, back in zip(steps, backward, strict=True)]
        for number in range(min(MOST_ITERATIONS, min(map(len, steps), default=0))):
            sliced = [np.ascontiguousarray(step[number]) for step in steps]
            made = self._run(body, dict(zip(body.inputs, [*states, *sliced], strict=True)), known)
            states = [self._value(body, name, made) for name in body.outputs[: len(states)]]

    def _run(self, body: Scope, given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        """Every value that a body is given, makes, or may read: by name."""
        around = {name: known[name] for name in self._captured(body) if name in known}
        feeds = {**around, **given}
        if body.path not in self._chains:
            part = self._as_model(body, feeds, frozenset(given))
            self._chains[body.path] = self._stack.enter_context(BlockChain(part, fetchable(part)))
        self._entered.add(body.path)
        for name, value in given.items():
            self._see(body, name, value)
        made: dict[str, Any] = {**known, **given}
        made |= self.look(body, self._chains[body.path].run(feeds), made, frozenset(body.outputs))
        return made

    def look(
        self, scope: Scope, values: Iterable[tuple[str, Any]], known: Mapping[str, Any], kept: frozenset[str]
    ) -> dict[str, Any]:
        """See the values of a graph as they are made, and run the bodies of its nodes on them.

        Args:
          scope: the graph.
          values: (name, value) in topological order.
          known: the values around it, and those that it is given.
          kept: values to return, besides what bodies are run on.
        """
        made, awaited, kept = dict(known), self.awaited(scope), kept | self.needed(scope)
        entered: set[int] = set()
        for name, value in values:
            node = awaited.get(name)
            if node is not None and id(node) not in entered:
                entered.add(id(node))
                self.enter(scope, node, made)
            self._see(scope, name, value)
            if name in kept:
                made[name] = value
        return made

    def _captured(self, body: Scope) -> frozenset[str]:
        """What a body, and the bodies in it, read of the graphs around it."""
        read = set(body.outputs).union(*(reads(node) for node in body.nodes))
        around = {name for name in read if name and not body.defines(name)}
        return frozenset(name for name in around if self._index.resolve(body, name) is not None)

    def _as_model(self, body: Scope, feeds: Mapping[str, Any], given: frozenset[str]) -> Model:
        """A body as a model, which takes what the body is given and what it reads of the graphs around it."""
        whole = self._model.proto
        proto = onnx.ModelProto(ir_version=whole.ir_version)
        proto.opset_import.extend(whole.opset_import)
        proto.graph.name = "/".join(body.path)
        set_nodes(proto.graph, body.nodes)
        assert isinstance(body.container, onnx.GraphProto)
        proto.graph.initializer.extend(body.container.initializer)
        proto.graph.sparse_initializer.extend(body.container.sparse_initializer)
        for name in sorted(self._captured(body)):
            holder = self._index.resolve(body, name)
            assert holder is not None
            if name in holder.initializers:
                proto.graph.initializer.append(holder.initializers[name])
            elif name in holder.sparse_initializers:
                proto.graph.sparse_initializer.append(holder.sparse_initializers[name])
            elif _is_constant(holder, name) and isinstance(feeds.get(name), np.ndarray):
                # an axis or a shape is copied rather than given: onnxruntime infers shapes from its value
                proto.graph.initializer.append(numpy_helper.from_array(np.asarray(feeds[name]), name))
            elif name not in feeds:
                raise _Unseen(f"{name}, which it reads, is no tensor")
        held = {tensor.name for tensor in proto.graph.initializer}
        for name, value in feeds.items():
            if not isinstance(value, np.ndarray):
                raise _Unseen(f"{name}, which it {'is given' if name in given else 'reads'}, is no tensor")
            if name not in held:
                kind = int(helper.np_dtype_to_tensor_dtype(value.dtype))
                proto.graph.input.append(part_input(name, kind, value.shape, body.nodes))
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(body.outputs))
        return self._model.with_proto(proto)

    def _optional(self, scope: Scope, node: NodeProto, slot: int, known: Mapping[str, Any]) -> np.ndarray | None:
        name = node.input[slot] if slot < len(node.input) else ""
        return np.asarray(self._value(scope, name, known)) if name else None

    def _value(self, scope: Scope, name: str, known: Mapping[str, Any]) -> Any:
        if name in known:
            return known[name]
        holder = self._index.resolve(scope, name)
        if holder is None or name not in holder.initializers:
            raise _Unseen(f"{name}, which it is given, is no tensor")
        return self._model.array(holder.initializers[name])

    def close(self) -> None:
        """Let go of sessions and weights."""
        self._stack.close()
        self._chains.clear()

    def __enter__(self) -> Bodies:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Unseen(Exception):
    """Why a body cannot be run by itself."""


def holders(index: GraphIndex) -> dict[int, list[Scope]]:
    """id of a node -> its bodies, of the nodes that hold any."""
    found: dict[int, list[Scope]] = {}
    for scope in index.scopes:
        if scope.kind == "subgraph" and scope.owner is not None:
            found.setdefault(id(scope.owner), []).append(scope)
    return found


def _is_constant(scope: Scope, name: str) -> bool:
    node = scope.producer_node(name)
    return node is not None and node.op_type == "Constant"
