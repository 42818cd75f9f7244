"""Every intermediate value of a model, block by block: each node runs once, and only a bounded part is held.

onnxruntime refuses intermediate values as inputs, so the graph is cut into a chain of models, each fed with what the
ones before it made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from precision_planner.model.model import Model
from precision_planner.model.order import reads, sorted_copy
from precision_planner.model.session import Session
from precision_planner.model.types import from_type_proto

BLOCK_BYTES = 48 << 20
"""Bytes of fetched values that a block should hold."""

FIRST_BLOCK = 16
"""Nodes in the first block, of whose shapes nothing is known yet."""

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
        graph = self._model.proto.graph
        self._nodes: list[NodeProto] = list(graph.node)
        self._reads = [reads(node) for node in self._nodes]
        self._wanted = frozenset(wanted)
        self._block_bytes = block_bytes
        self._blocks: list[Block] = []
        self._sessions: dict[int, Session] = {}
        constants = {tensor.name for tensor in graph.initializer}
        constants |= {sparse.values.name for sparse in graph.sparse_initializer}
        self._made = {value.name for value in graph.input} - constants
        self._last_read = {name: at for at, names in enumerate(self._reads) for name in names}
        self._uncut = containers(self._model.proto)

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks found so far; all of them once a batch has run."""
        return self._blocks

    def run(self, feeds: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Any]]:
        """Yield (value, array) for every wanted value, in topological order, as the blocks run.

        The first batch finds the blocks: the shapes are known only once they are computed, so each block is made
        larger or smaller by what the one before it held.

        Args:
          feeds: the model's inputs.
        """
        alive: dict[str, Any] = dict(feeds)
        start, number, length = 0, 0, FIRST_BLOCK
        while start < len(self._nodes):
            if number == len(self._blocks):
                self._blocks.append(self._cut(start, length))
            block = self._blocks[number]
            given = {name: alive[name] for name in block.inputs}
            session = self._session(number, block, given)
            made = session.run(given) if session.output_names else {}
            held = sum(getattr(array, "nbytes", 0) for array in made.values())
            growth = min(4.0, max(0.25, self._block_bytes / max(held, 1)))
            length = max(1, int((block.stop - block.start) * growth))
            alive.update((name, made[name]) for name in block.carried)
            for name in [name for name in alive if self._last_read.get(name, -1) < block.stop]:
                del alive[name]
            del given
            for name in block.fetched:
                yield name, made.pop(name)
            del made
            start, number = block.stop, number + 1

    def _cut(self, start: int, length: int) -> Block:
        """The block of about `length` nodes from `start` on that no 16-bit value or sequence crosses the end of."""
        stop, crossing = start, set[str]()
        while stop < len(self._nodes) and (stop - start < length or crossing):
            crossing.update(name for name in self._nodes[stop].output if name in self._uncut or name.endswith(_UNCUT))
            stop += 1
            crossing = {name for name in crossing if self._last_read.get(name, -1) >= stop}
        made = [name for node in self._nodes[start:stop] for name in node.output if name]
        read: set[str] = set().union(*self._reads[start:stop])
        block = Block(
            start,
            stop,
            inputs=tuple(sorted(name for name in read if name in self._made)),
            fetched=tuple(name for name in made if name in self._wanted),
            carried=tuple(name for name in made if self._last_read.get(name, -1) >= stop),
        )
        self._made.update(made)
        return block

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
            self._sessions[number] = Session(self._submodel(block, given), lean=True)
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
    other = containers(proto)
    return [name for node in proto.graph.node for name in node.output if name and name not in other]


def containers(proto: onnx.ModelProto) -> set[str]:
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


__all__ = ["BLOCK_BYTES", "Block", "BlockChain", "containers", "fetchable"]
