"""Every intermediate value of a model, block by block: each node runs once, and only a bounded part is held.

onnxruntime refuses intermediate values as inputs, so the graph is cut into a chain of models, each fed with what the
ones before it made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from precision_planner.model.edit import set_nodes
from precision_planner.model.inference import infer
from precision_planner.model.model import Model
from precision_planner.model.order import reads, sorted_copy
from precision_planner.model.shared import SharedSession, TensorPool
from precision_planner.model.types import from_type_proto
from precision_planner.operators import row_of

BLOCK_BYTES = 48 << 20
"""Bytes of fetched values that a block should hold."""

WEIGHT_BYTES = 512 << 20
"""Bytes of computed weights (rounded ones, say) past which a block's are made anew for every batch."""

FIRST_BLOCK = 16
"""Nodes in the first block, and at least in any other whose bytes allow it."""

_SIZES = 3
"""The input of Resize that says sizes, rather than scales."""

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
      weight_bytes: see `WEIGHT_BYTES`.
    """

    def __init__(
        self,
        model: Model,
        wanted: Collection[str],
        *,
        block_bytes: int = BLOCK_BYTES,
        weight_bytes: int = WEIGHT_BYTES,
    ) -> None:
        self._model = model.with_proto(sorted_copy(model.proto))
        graph = self._model.proto.graph
        self._nodes: list[NodeProto] = list(graph.node)
        self._reads = [reads(node) for node in self._nodes]
        self._wanted = frozenset(wanted)
        self._block_bytes = block_bytes
        self._blocks: list[Block] = []
        self._sessions: dict[int, SharedSession] = {}
        self._weight_bytes = weight_bytes
        self._pool = TensorPool(one_store=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._ahead: dict[str, Future[Any]] = {}
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._integers = {node.output[0]: node for node in self._nodes if _makes_integers(node)}
        constants = {tensor.name for tensor in graph.initializer}
        constants |= {sparse.values.name for sparse in graph.sparse_initializer}
        self._made = {value.name for value in graph.input} - constants
        self._last_read = {name: at for at, names in enumerate(self._reads) for name in names}
        self._uncut = containers(self._model.proto)
        self._guess = 0

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks found so far; all of them once a batch has run."""
        return self._blocks

    def run(self, feeds: Mapping[str, np.ndarray], *, last: bool = False) -> Iterator[tuple[str, Any]]:
        """Yield (value, array) for every wanted value, in topological order, as the blocks run.

        The first batch finds the blocks: as many nodes as should hold `block_bytes`, guessed from what they read, as
        shapes are known only once they are computed. How far a guess was off corrects the next.

        Args:
          feeds: the model's inputs.
          last: no batch comes after this one, so that a block's weights make room for the next one's.
        """
        alive: dict[str, Any] = dict(feeds)
        start, number, correction = 0, 0, 1.0
        while start < len(self._nodes):
            if number == len(self._blocks):
                self._blocks.append(
                    self._cut(start, {name: _nbytes(value) for name, value in alive.items()}, correction)
                )
            block = self._blocks[number]
            given = {name: alive[name] for name in block.inputs}
            made: dict[str, Any] = {}
            if block.fetched or block.carried:  # else nobody wants anything, and onnxruntime refuses an empty model
                made = self._session(number, block, given).run_arrays(given)
            if last or self._pool.held_bytes > self._weight_bytes:
                self._sessions.pop(number, None)
                self._pool.forget(self._model, self._initializers_of(block.start, block.stop))
            if self._guess:
                correction = min(4.0, max(0.25, sum(map(_nbytes, made.values())) / self._guess))
            alive.update((name, made[name]) for name in block.carried)
            for name in [name for name in alive if self._last_read.get(name, -1) < block.stop]:
                del alive[name]
            del given
            for name in block.fetched:
                yield name, made.pop(name)
            del made
            start, number = block.stop, number + 1

    def _cut(self, start: int, sizes: dict[str, int], correction: float) -> Block:
        """The block from `start` on that should hold `block_bytes`, and no 16-bit value or sequence crosses the end of.

        Args:
          start: the first node's position.
          sizes: bytes of the values that are there.
          correction: held over guessed bytes of the block before.
        """
        stop, crossing, held = start, set[str](), 0
        most = start + max(FIRST_BLOCK, 4 * (start - self._blocks[-1].start if self._blocks else 0))
        while stop < len(self._nodes) and ((held * correction < self._block_bytes and stop < most) or crossing):
            node = self._nodes[stop]
            guess = self._guess_bytes(node, sizes)
            sizes.update((name, guess) for name in node.output if name)
            held += guess * sum(name in self._wanted for name in node.output)
            crossing.update(name for name in node.output if name in self._uncut or name.endswith(_UNCUT))
            stop += 1
            crossing = {name for name in crossing if self._last_read.get(name, -1) >= stop}
        self._guess = held
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

    def _guess_bytes(self, node: NodeProto, sizes: Mapping[str, int]) -> int:
        """About the bytes of each result: what it reads, more where a constant makes the last axis longer."""
        if node.op_type == "Constant" or row_of(node).blind:
            return 0
        read = max((sizes.get(name, 0) for name in node.input), default=0)
        dims = next((list(self._initializers[name].dims) for name in node.input if name in self._initializers), [])
        if node.op_type == "Gather" and dims:
            return read // 8 * 4 * (prod(dims) // max(1, dims[0]))
        if node.op_type in ("MatMul", "Gemm") and len(dims) == 2 and min(dims):
            turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            before, after = (dims[1], dims[0]) if turned else (dims[0], dims[1])
            return read * max(before, after) // before
        return read

    def close(self) -> None:
        """Let go of sessions and weights."""
        self._thread.shutdown(cancel_futures=True)
        self._ahead.clear()
        self._sessions.clear()
        self._pool.close()

    def __enter__(self) -> BlockChain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _session(self, number: int, block: Block, given: Mapping[str, Any]) -> SharedSession:
        if number not in self._sessions:
            self._announce(block.start, block.stop)
            for tensor in self._initializers_of(block.start, block.stop):
                if tensor.name in self._ahead:
                    self._ahead.pop(tensor.name).result()
            self._sessions[number] = SharedSession(self._submodel(block, given), self._pool)
            # about as many nodes again: while this block runs, the weights of the next are made
            self._announce(block.stop, 2 * block.stop - block.start)
        return self._sessions[number]

    def _announce(self, start: int, stop: int) -> None:
        for tensor in self._initializers_of(start, stop):
            if tensor.name not in self._ahead and TensorPool.takes(tensor):
                self._ahead[tensor.name] = self._thread.submit(self._pool.of, self._model, tensor)

    def _initializers_of(self, start: int, stop: int) -> list[TensorProto]:
        names = dict.fromkeys(name for read in self._reads[start:stop] for name in read)
        return [self._initializers[name] for name in names if name in self._initializers]

    def _submodel(self, block: Block, given: Mapping[str, Any]) -> Model:
        whole = self._model.proto
        nodes = self._nodes[block.start : block.stop]
        read = set().union(*(reads(node) for node in nodes)) if nodes else set()
        proto = onnx.ModelProto(ir_version=whole.ir_version)
        proto.opset_import.extend(whole.opset_import)
        graph = proto.graph
        graph.name = f"block_{block.start}"
        graph.initializer.extend(tensor for name, tensor in self._initializers.items() if name in read)
        graph.sparse_initializer.extend(s for s in whole.graph.sparse_initializer if s.values.name in read)
        # an axis or a shape is copied rather than given: onnxruntime infers shapes from its value
        integers = [self._integers[name] for name in block.inputs if name in self._integers]
        set_nodes(graph, [*integers, *nodes])
        known = {value.name: value for value in whole.graph.input}
        for name in block.inputs:
            if name in self._integers:
                continue
            if name in known:
                graph.input.append(known[name])
            else:
                array = np.asarray(given[name])
                elem_type = int(helper.np_dtype_to_tensor_dtype(array.dtype))
                graph.input.append(part_input(name, elem_type, array.shape, nodes))
        for name in dict.fromkeys((*block.fetched, *block.carried)):
            graph.output.append(onnx.ValueInfoProto(name=name))
        return self._model.with_proto(proto)


def part_input(name: str, elem_type: int, shape: Sequence[int], nodes: Iterable[NodeProto]) -> onnx.ValueInfoProto:
    """The declaration of a value that a part of a model is given by the parts before it.

    Its rank is said only where it may be needed, and with it the length of a list of integers, by which a Reshape has
    its rank: onnxruntime runs no Scan whose body has results of unknown rank, and no Resize to sizes whose number it
    does not know, and finds those from the whole model. So the length of a list of which these sizes are made is said,
    too, whatever its type.

    Args:
      name: the value's.
      elem_type: TensorProto.DataType.
      shape: what it has when the part is first run.
      nodes: the part's.
    """
    dims: list[int | None] | None = None
    nodes = list(nodes)
    if len(shape) == 1 and name in _measures(nodes):
        dims = list(shape)
    elif _needs_ranks(nodes):
        dims = list(shape) if elem_type == TensorProto.INT64 and len(shape) == 1 else [None] * len(shape)
    return helper.make_tensor_value_info(name, elem_type, dims)


def _makes_integers(node: NodeProto) -> bool:
    return node.op_type == "Constant" and any(
        attribute.name in ("value_int", "value_ints") or attribute.t.data_type == TensorProto.INT64
        for attribute in node.attribute
    )


def _measures(nodes: Sequence[NodeProto]) -> set[str]:
    """What the sizes and scales by which images are sampled are made of, but for values whose shape is taken."""
    found: set[str] = set()
    for node in reversed(nodes):
        row = row_of(node)
        if row.coordinates:
            found.update(n for slot, n in enumerate(node.input) if slot in row.coordinates or slot in row.shapes)
        if not row.blind and not found.isdisjoint(node.output):
            found.update(node.input)
    return found


def _needs_ranks(nodes: Iterable[NodeProto]) -> bool:
    return any(
        node.op_type == "Scan"
        or (node.op_type == "Resize" and any(node.input[_SIZES:]))
        or any(_needs_ranks(attribute.g.node) for attribute in node.attribute)
        for node in nodes
    )


def fetchable(model: Model) -> list[str]:
    """The values that nodes of the main graph make, in topological order.

    Sequences and the like are left out, and sparse constants, which onnxruntime loses where they are fetched.
    """
    proto = sorted_copy(model.proto)
    other = containers(proto)
    nodes = [node for node in proto.graph.node if all(given.name != "sparse_value" for given in node.attribute)]
    return [name for node in nodes for name in node.output if name and name not in other]


def _nbytes(value: Any) -> int:
    return int(getattr(value, "nbytes", 0))


def containers(proto: onnx.ModelProto) -> set[str]:
    """Values known to be no tensors."""
    inferred = infer(proto)
    infos = [*inferred.graph.value_info, *inferred.graph.output]
    found = {info.name for info in infos if from_type_proto(info.type).container != "tensor"}
    for node in proto.graph.node:
        if row_of(node).gives_container:
            found.update(node.output)
    return found


__all__ = ["BLOCK_BYTES", "Block", "BlockChain", "containers", "fetchable"]
