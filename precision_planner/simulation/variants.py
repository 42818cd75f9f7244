"""One model under many rounding plans: what is upstream of a change is not computed again.

The graph is cut into blocks of nodes. A block under a plan is a small session, made when it is first needed and kept;
all of them share one set of weights. The values that cross the ends of the blocks are remembered for one plan, the
base: another plan runs from the first block in which it differs on, and stops where its values are the base's again.
A block is rounded by the same writer as a whole simulation, so a run gives bit by bit what `open_simulation` gives with
as many threads: with another number of them onnxruntime adds up some products in another order.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from precision_planner.model import GraphIndex, Model
from precision_planner.model.inline import inline_functions
from precision_planner.model.order import sorted_copy
from precision_planner.model.shared import SharedSession, TensorPool, Value, as_value
from precision_planner.simulation.cutting import Cut, Signature
from precision_planner.simulation.draws import draw_feeds
from precision_planner.simulation.rounding import RoundingPlan

__all__ = ["BLOCK_NODES", "CACHE_BYTES", "BlockRunner", "Outputs", "RunnerStats"]

BLOCK_NODES = 24
"""Nodes that a block should have: about one sublayer of a transformer."""

CACHE_BYTES = 1 << 30
"""Bytes of remembered values past which only every second, fourth, ... end of a block is remembered."""

MOST_THREADS = 4
"""Threads inside an operator at most: every one of some hundred sessions has its own."""

SESSIONS_PER_BLOCK = 6
"""Sessions kept for each block on average: the base's, and those of the plans tried of late."""

Outputs: TypeAlias = "dict[str, np.ndarray[Any, Any]]"
Alive: TypeAlias = "dict[str, Value]"


@dataclass(slots=True)
class RunnerStats:
    """What runs have cost so far: sessions built, blocks run, and blocks that runs from the start would have taken."""

    sessions: int = 0
    blocks_run: int = 0
    blocks_whole: int = 0


class BlockRunner:
    """Runs a model under rounding plans; a context manager.

    Attributes:
      model: what is run: sorted, without local functions.
      index: of its proto; positions in plans are this index's.
      stats: see `RunnerStats`.

    Args:
      model: in FP32.
      batches: inputs, each run under every plan.
      block_nodes: see `BLOCK_NODES`.
      cache_bytes: see `CACHE_BYTES`.
      threads: threads inside an operator; 0: as many as there are cores, up to `MOST_THREADS`.
    """

    def __init__(
        self,
        model: Model,
        batches: Sequence[Mapping[str, np.ndarray[Any, Any]]],
        *,
        block_nodes: int = BLOCK_NODES,
        cache_bytes: int = CACHE_BYTES,
        threads: int = 0,
    ) -> None:
        self.model = sorted_without_functions(model)
        self.index = GraphIndex(self.model.proto)
        self.stats = RunnerStats()
        self._cut = Cut(self.model, self.index, block_nodes)
        self._batches = [{name: as_value(np.asarray(array, order="C")) for name, array in b.items()} for b in batches]
        self._threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
        self._cache_bytes = cache_bytes
        self._pool = TensorPool()
        self._sessions: OrderedDict[tuple[int, Signature], SharedSession] = OrderedDict()
        self._bases: list[tuple[Signature, ...] | None] = [None for _ in self._batches]
        self._ends: list[dict[int, Alive]] = [{} for _ in self._batches]
        main = self.index.main
        self._stored = {
            name: np.asarray(self.model.array(main.initializers[name]))
            for name in main.outputs
            if name in main.initializers and not main.is_input(name)
        }
        self._outputs = tuple(value.name for value in self.model.proto.graph.output)

    @property
    def blocks(self) -> int:
        """How many blocks the model was cut into."""
        return len(self._cut.blocks)

    @property
    def pooled(self) -> TensorPool:
        """The weights that all sessions share."""
        return self._pool

    def run(self, plan: RoundingPlan, *, which: Sequence[int] | None = None, remember: bool = False) -> list[Outputs]:
        """The model's outputs under a plan; those that are no arrays, sequences and maps, are left out.

        Args:
          plan: where to round; an empty one gives the FP32 model's answers.
          which: numbers of the batches; None takes all.
          remember: make this plan the base from which others start on these batches.

        Raises:
          ModelError: onnxruntime cannot load or run a block.
        """
        numbers = range(len(self._batches)) if which is None else which
        signatures = self._cut.signatures(plan)
        results: list[Outputs] = []
        ends: list[dict[int, Alive]] = []
        for number in numbers:
            base = self._bases[number] or (None,) * len(signatures)
            changed = [at for at, (one, other) in enumerate(zip(signatures, base, strict=True)) if one != other]
            self.stats.blocks_whole += self.blocks
            passed = self._run_batch(number, plan, signatures, changed)
            last = passed[self.blocks]
            results.append(self._arrays(last))
            ends.append(passed)
        if remember:
            for number, kept in zip(numbers, self._thinned(ends), strict=True):
                self._bases[number], self._ends[number] = signatures, kept
        return results

    def close(self) -> None:
        """Let go of sessions, values and weights."""
        self._sessions.clear()
        self._bases, self._ends = [None for _ in self._batches], [{} for _ in self._batches]
        self._pool.close()

    def __enter__(self) -> BlockRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _arrays(self, alive: Alive) -> Outputs:
        """What the model returns, but for sequences and maps, which are no arrays."""
        names = [name for name in self._outputs if name not in alive or alive[name].is_tensor()]
        return {name: alive[name].numpy() if name in alive else self._stored[name] for name in names}

    def _run_batch(
        self, number: int, plan: RoundingPlan, signatures: Sequence[Signature], changed: Sequence[int]
    ) -> dict[int, Alive]:
        """Block number -> the values alive before it; one past the last block: what the model returns.

        Args:
          number: of the batch.
          plan: the plan.
          signatures: what it says about each block.
          changed: the blocks in which it differs from the base, in order.
        """
        feeds, known = self._batches[number], self._ends[number]
        if plan.draw:
            numbers = {name: as_value(value) for name, value in draw_feeds(plan.draw).items()}
            return self._run_blocks({**feeds, **numbers}, {}, plan, signatures, range(self.blocks))
        return self._run_blocks(feeds, known, plan, signatures, changed)

    def _run_blocks(
        self,
        feeds: Alive,
        known: Mapping[int, Alive],
        plan: RoundingPlan,
        signatures: Sequence[Signature],
        changed: Sequence[int],
    ) -> dict[int, Alive]:
        first = changed[0] if changed else self.blocks
        start = max((at for at in known if at <= first), default=0)
        passed = {at: values for at, values in known.items() if at <= start}
        alive = dict(known.get(start, feeds))
        for at in range(start, self.blocks):
            if at in known and at > changed[-1] and _same(alive, known[at]):
                return {**known, **passed}
            passed[at] = dict(alive)
            block = self._cut.blocks[at]
            if block.outputs:  # else it computes what nobody reads, constants perhaps
                alive.update(self._session(at, plan, signatures[at], alive).run(alive))
                self.stats.blocks_run += 1
            for name in block.dying:
                del alive[name]
        passed[self.blocks] = alive
        return passed

    def _session(self, at: int, plan: RoundingPlan, signature: Signature, alive: Alive) -> SharedSession:
        place = (at, signature)
        if place not in self._sessions:
            block = self._cut.blocks[at]
            given = {name: (alive[name].element_type(), alive[name].shape()) for name in block.inputs}
            part = self._cut.part(block, signature, plan.weights, given)
            self._sessions[place] = SharedSession(part, self._pool, threads=self._threads)
            self.stats.sessions += 1
            if len(self._sessions) > SESSIONS_PER_BLOCK * self.blocks:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(place)
        return self._sessions[place]

    def _thinned(self, ends: list[dict[int, Alive]]) -> list[dict[int, Alive]]:
        """As many ends of blocks as fit the cache, evenly; the last one always."""
        step = 1
        while step < self.blocks:
            kept = [{at: alive for at, alive in one.items() if at % step == 0 or at == self.blocks} for one in ends]
            held = {id(value): value for one in kept for alive in one.values() for value in alive.values()}
            if sum(value.tensor_size_in_bytes() for value in held.values() if value.is_tensor()) <= self._cache_bytes:
                return kept
            step *= 2
        return [{self.blocks: one[self.blocks]} for one in ends]


def sorted_without_functions(model: Model) -> Model:
    """The form of a model that a `BlockRunner` runs, and whose positions its plans use."""
    inlined = inline_functions(model)
    return inlined.with_proto(sorted_copy(inlined.proto))


def _same(values: Alive, others: Alive) -> bool:
    """Whether two sets of values are equal bit by bit; values that are no tensors never are."""
    if values.keys() != others.keys():
        return False
    for name, value in values.items():
        other = others[name]
        if value is other:
            continue
        if not (value.is_tensor() and other.is_tensor()):
            return False
        a, b = value.numpy(), other.numpy()
        if a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes():
            return False
    return True
