"""Every intermediate value of a model, block by block: each node runs once, and only a bounded part is held.

onnxruntime refuses intermediate values as inputs, so the graph is cut into a chain of models, each fed with what the
ones before it made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from precision_planner.model.model import Model
from precision_planner.model.order import reads, sorted_copy
from precision_planner.model.session import Session
from precision_planner.model.types import from_type_proto

BLOCK_BYTES = 96 << 20
"""Bytes of fetched values a block may hold, as estimated from the shapes of the first batch."""

_UNCUT = ("__planner_low", "__planner_cast")
"""Ends of the names of 16-bit values inside a pair of Casts: a bfloat16 cannot leave onnxruntime as an array."""


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes [start, stop) of the sorted main graph, and what crosses its ends."""

    start: int
    stop: int
    inputs: tuple[str, ...]
    fetched: tuple[str, ...]
    """Wanted values made here, in topological order."""
    carried: tuple[str, ...]
    """Values made here that later blocks read."""


class BlockChain:
    """Runs a model as a chain of blocks; a context manager.

    Args:
      model: any model that onnxruntime runs, without local functions.
      wanted: values of the main graph to fetch, each of which some node makes.
      block_bytes: see `BLOCK_BYTES`.
    """

    def __init__(self, model: Model, wanted: Collection[str], *, block_bytes: int = BLOCK_BYTES) -> None:
        self._model = model.with_proto(sorted_copy(model.proto))
        self._nodes: list[NodeProto] = list(self._model.proto.graph.node)
        self._wanted = frozenset(wanted)
        self._block_bytes = block_bytes
        self._blocks: list[Block] | None = None
        self._sessions: dict[int, Session] = {}
        self._constants = {tensor.name for tensor in self._model.proto.graph.initializer} | {
            sparse.values.name for sparse in self._model.proto.graph.sparse_initializer
        }

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks; known once a batch has run."""
        return self._blocks or ()

    def run(self, feeds: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Any]]:
        """Yield (value, array) for every wanted value, in topological order, as the blocks run.

        Args:
          feeds: the model's inputs.
        """
        if self._blocks is None:
            self._blocks = _cut(self._model, self._nodes, self._wanted, self._constants, feeds, self._block_bytes)
        alive: dict[str, Any] = dict(feeds)
        last_use = {name: number for number, block in enumerate(self._blocks) for name in block.inputs}
        for number, block in enumerate(self._blocks):
            given = {name: alive[name] for name in block.inputs}
            session = self._session(number, block, given)
            made = session.run(given) if session.output_names else {}
            alive.update((name, made[name]) for name in block.carried)
            for name in [name for name in alive if last_use.get(name, -1) <= number]:
                del alive[name]
            for name in block.fetched:
                yield name, made.pop(name)

    def close(self) -> None:
        """Close every session."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def __enter__(self) -> BlockChain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _session(self, number: int, block: Block, given: Mapping[str, Any]) -> Session:
        if number not in self._sessions:
            self._sessions[number] = Session(self._submodel(block, given))
        return self._sessions[number]

    def _submodel(self, block: Block, given: Mapping[str, Any]) -> Model:
        whole = self._model.proto
        nodes = self._nodes[block.start : block.stop]
        read = set().union(*(reads(node) for node in nodes)) if nodes else set()
        proto = onnx.ModelProto(ir_version=whole.ir_version)
        proto.opset_import.extend(whole.opset_import)
        graph = proto.graph
        graph.name = f"block_{block.start}"
        graph.node.extend(nodes)
        graph.initializer.extend(tensor for tensor in whole.graph.initializer if tensor.name in read)
        graph.sparse_initializer.extend(s for s in whole.graph.sparse_initializer if s.values.name in read)
        known = {value.name: value for value in whole.graph.input}
        for name in block.inputs:
            if name in known:
                graph.input.append(known[name])
            else:
                elem_type = helper.np_dtype_to_tensor_dtype(np.asarray(given[name]).dtype)
                graph.input.append(helper.make_tensor_value_info(name, elem_type, None))
        for name in dict.fromkeys((*block.fetched, *block.carried)):
            graph.output.append(onnx.ValueInfoProto(name=name))
        return self._model.with_proto(proto)


def fetchable(model: Model) -> list[str]:
    """The values that nodes of the main graph make, in topological order; sequences and the like left out."""
    proto = sorted_copy(model.proto)
    other = _containers(proto)
    return [name for node in proto.graph.node for name in node.output if name and name not in other]


def _containers(proto: onnx.ModelProto) -> set[str]:
    """Values known to be no tensors."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        inferred = proto
    infos = [*inferred.graph.value_info, *inferred.graph.output]
    found = {info.name for info in infos if from_type_proto(info.type).container != "tensor"}
    for node in proto.graph.node:
        if node.op_type.startswith(("Sequence", "SplitToSequence", "Optional")) and node.op_type not in (
            "SequenceAt",
            "SequenceLength",
            "OptionalHasElement",
        ):
            found.update(node.output)
    return found


def _cut(
    model: Model,
    nodes: Sequence[NodeProto],
    wanted: frozenset[str],
    constants: set[str],
    feeds: Mapping[str, np.ndarray],
    block_bytes: int,
) -> list[Block]:
    sizes = _sizes(model, feeds)
    others = _containers(model.proto)
    node_reads = [reads(node) for node in nodes]
    last_read: dict[str, int] = {}
    for position, names in enumerate(node_reads):
        for name in names:
            last_read[name] = position
    usual = sorted(sizes.values())[len(sizes) // 2] if sizes else 1 << 20
    ends: list[int] = []
    held = 0
    open_values: set[str] = set()  # values that may not cross an end, still to be read
    for position, node in enumerate(nodes):
        for name in node.output:
            if name in wanted:
                held += sizes.get(name, usual)
            if name and (name in others or name.endswith(_UNCUT)) and last_read.get(name, -1) > position:
                open_values.add(name)
        open_values = {name for name in open_values if last_read[name] > position}
        if held >= block_bytes and not open_values:
            ends.append(position + 1)
            held = 0
    if not ends or ends[-1] != len(nodes):
        ends.append(len(nodes))
    blocks = []
    start = 0
    made: set[str] = set(feeds)
    for stop in ends:
        here = {name for node in nodes[start:stop] for name in node.output if name}
        read = set().union(*node_reads[start:stop]) if stop > start else set()
        inputs = tuple(sorted(name for name in read if name in made and name not in here and name not in constants))
        carried = tuple(sorted(name for name in here if last_read.get(name, -1) >= stop))
        fetched = tuple(name for node in nodes[start:stop] for name in node.output if name in wanted)
        blocks.append(Block(start, stop, inputs, fetched, carried))
        made |= here
        start = stop
    return blocks


def _sizes(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Value -> bytes, for the shapes that this batch gives."""
    proto = model.edit()
    for value in proto.graph.input:
        if value.name in feeds:
            shape = value.type.tensor_type.shape
            shape.ClearField("dim")
            for size in np.shape(feeds[value.name]):
                shape.dim.add().dim_value = size
    for value in proto.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    sizes: dict[str, int] = {}
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        found = from_type_proto(info.type)
        if found.shape is not None and all(isinstance(dim, int) for dim in found.shape):
            width = 8 if found.elem_type in (TensorProto.INT64, TensorProto.DOUBLE) else 4
            sizes[info.name] = prod(int(dim) for dim in found.shape if isinstance(dim, int)) * width
    return sizes


__all__ = ["BLOCK_BYTES", "Block", "BlockChain", "fetchable"]
