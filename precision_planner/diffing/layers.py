"""Every intermediate value that reference and candidate share, compared block by block."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from precision_planner.diffing.passes import Gathered, Progress
from precision_planner.diffing.result import LayerDiff
from precision_planner.diffing.run import Runner
from precision_planner.errors import ModelError
from precision_planner.judging.quick import QuickMetrics, quick_metrics
from precision_planner.model import FLOAT_TYPES, GraphIndex, Model, display_name, infer_types
from precision_planner.model.blocks import BlockChain, fetchable
from precision_planner.model.inputs import Batch, Inputs
from precision_planner.model.order import sorted_copy
from precision_planner.numerics.formats import FORMATS
from precision_planner.operators import RESHAPES, is_conversion, moves_values
from precision_planner.simulation import inline_functions, is_typed_low

Metrics = dict[str, QuickMetrics]

MOST_PENDING = 8
"""Pairs of values that wait to be measured while the next blocks run."""

PENDING_BYTES = 192 << 20
"""Bytes of these pairs."""


BLOCK_BYTES = 96 << 20
"""Bytes of values that a block of either side should hold: sessions are worth their while, and memory is bounded."""


def is_mover(node: NodeProto, *, casts: bool = False) -> bool:
    """Whether a node's result holds what its input holds: looked at only where the first divergence is near."""
    return node.op_type == "Constant" or moves_values(node, RESHAPES, casts=casts)


class LayerComparison:
    """Compares intermediate values; results add up over passes.

    Args:
      reference, candidate: open runners of models on a CPU.
      names: old node name -> new.
      unordered: values whose rows may stand in another order in the candidate; they are not compared.
    """

    def __init__(
        self,
        reference: Runner,
        candidate: Runner,
        names: Mapping[str, str],
        unordered: Collection[str] = (),
    ) -> None:
        assert reference.side.model is not None
        assert candidate.side.model is not None
        self._ref, self._cand = reference, candidate
        self._model = inline_functions(reference.side.model)
        self._ref_run, self._cand_run = inline_functions(reference.model), inline_functions(candidate.model)
        pairs = match_values(self._model, inline_functions(candidate.side.model), names)
        here, there = set(fetchable(self._ref_run)), set(fetchable(self._cand_run))
        self._pairs = {a: b for a, b in pairs.items() if a in here and b in there}
        self._outputs = [value.name for value in self._ref_run.proto.graph.output]
        graph = self._model.proto.graph
        movers = {name for node in graph.node if is_mover(node) for name in node.output}
        self._unordered = frozenset(unordered)
        movers |= self._unordered
        self._plain = {a: b for a, b in self._pairs.items() if a not in movers or a in self._outputs}
        self._found: Metrics = {}
        fmt = FORMATS.get(candidate.precision)
        self._limit = math.inf if fmt is None else fmt.max_finite

    @property
    def covers_outputs(self) -> bool:
        """Whether every output is among the values compared, so that no other pass is needed for them."""
        return all(self._plain.get(name) == name for name in self._outputs)

    def run(self, inputs: Inputs, step: Progress, gathered: Gathered | None = None) -> None:
        """Run both models block by block, each node once a batch.

        Args:
          inputs: the batches.
          step: progress.
          gathered: takes the outputs, where they are wanted.
        """
        self._pass(self._plain, inputs, step, gathered)

    def refine(self, value: str, inputs: Inputs, step: Progress) -> bool:
        """Look at the movers right before a value too; whether there are any."""
        graph = self._model.proto.graph
        producer = {name: node for node in graph.node for name in node.output if name}
        near: dict[str, str] = {}
        todo = list(producer[value].input) if value in producer else []
        while todo:
            name = todo.pop()
            node = producer.get(name)
            if node is not None and is_mover(node) and name in self._pairs and name not in near:
                near[name] = self._pairs[name]
                todo.extend(node.input)
        near = {name: other for name, other in near.items() if name not in self._found}
        if near:
            self._pass(near, inputs, step, None)
        return bool(near)

    def measure(self, values: Collection[str], inputs: Inputs, step: Progress) -> dict[str, QuickMetrics]:
        """The metrics of some values, compared now if they were not yet; values that one side lacks are left out."""
        missing = {name: self._pairs[name] for name in values if name in self._pairs and name not in self._found}
        self._pass(missing, inputs, step, None)
        return {name: self._found[name] for name in values if name in self._found}

    def entries(self) -> tuple[LayerDiff, ...]:
        """One entry a compared value, in the reference's topological order, the worst over the batches."""
        index = GraphIndex(sorted_copy(self._model.proto))
        stored = {} if self._cand.simulation is None else self._cand.simulation.stored
        captured: dict[int, list[str]] = {}
        for value, uses in index.main.captures.items():
            for body, _ in uses:
                captured.setdefault(id(body.owner), []).append(value)
        error: dict[str, float] = {}
        layers: list[LayerDiff] = []
        made_by = island_nodes(self._cand)
        planned = self._cand.side.entries
        for position, node in enumerate(index.main.nodes):
            read = (*node.input, *captured.get(id(node), ()))
            inherited = max((error.get(name, 0.0) for name in read), default=0.0)
            for name in node.output:
                metrics = self._found.get(name)
                if metrics is None:
                    error[name] = inherited  # only the reference has it: its readers inherit what it inherits
                    continue
                lost = metrics.new_nonfinite or math.isnan(metrics.rel_l2)
                error[name] = math.inf if lost else metrics.rel_l2
                maker, island = made_by.get(self._pairs[name], ("", False))
                entry = planned.get(maker) or planned.get(display_name(node)) or {}
                layers.append(
                    LayerDiff(
                        value=name,
                        candidate_value=self._pairs[name],
                        node=display_name(node),
                        op_type=node.op_type,
                        position=position,
                        inherited=inherited,
                        read_amax=max((self._amax(value) for value in read), default=0.0),
                        stored=_STORED.get(stored.get(((), self._pairs[name]), 0), "fp32"),
                        metrics=metrics,
                        candidate_node=maker,
                        island=island or entry.get("precision") == "fp32",
                        rule=entry.get("rule") or "",
                        reason=entry.get("reason") or "",
                    )
                )
        return tuple(layers)

    def _amax(self, value: str) -> float:
        found = self._found.get(value)
        return 0.0 if found is None else found.ref_amax

    def _pass(self, pairs: Mapping[str, str], inputs: Inputs, step: Progress, gathered: Gathered | None) -> None:
        if not pairs:
            return
        wanted = set(self._outputs) if gathered is not None else set()
        with (
            BlockChain(self._ref_run, set(pairs), block_bytes=BLOCK_BYTES) as left,
            BlockChain(self._cand_run, set(pairs.values()), block_bytes=BLOCK_BYTES) as right,
            ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as measuring,
        ):
            for number, batch, last in _with_last(inputs):
                found: Metrics = {}
                pending: deque[tuple[str, int, Future[QuickMetrics]]] = deque()
                waiting = 0
                outputs: dict[str, tuple[Any, Any]] = {}
                try:
                    for name, a, b in self._values(left, right, batch, pairs, last):
                        if name in wanted:
                            outputs[name] = (a, b)
                        if name in self._unordered:
                            continue
                        if a.dtype.kind in "fiubV" and b.dtype.kind in "fiubV":
                            size = a.nbytes + b.nbytes
                            pending.append((name, size, measuring.submit(quick_metrics, a, b, self._limit)))
                            waiting += size
                        while len(pending) > MOST_PENDING or (waiting > PENDING_BYTES and pending):
                            done, size, future = pending.popleft()
                            found[done] = future.result()
                            waiting -= size
                    found.update((name, future.result()) for name, _, future in pending)
                except _Refused as refused:
                    error = refused.error
                    if not inputs.synthesised:
                        raise error from None
                    if gathered is not None:
                        label = inputs.labels[number] if number < len(inputs.labels) else f"batch {number}"
                        gathered.skipped.append(f"{label}: {error}")
                    continue
                for name, metrics in found.items():
                    before = self._found.get(name)
                    self._found[name] = metrics if before is None or _is_worse(metrics, before) else before
                if gathered is not None:
                    ours = {name: outputs[name][0] for name in self._outputs}
                    theirs = {name: outputs[name][1] for name in self._outputs}
                    gathered.add(ours, theirs, self._ref.side.label, self._cand.side.label)
                step(1)

    def _values(
        self, left: BlockChain, right: BlockChain, batch: Batch, pairs: Mapping[str, str], last: bool
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Advance both chains together, so that a value waits for its partner only briefly."""
        back = {theirs: ours for ours, theirs in pairs.items()}
        waiting: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        chains = (left.run(self._ref.feeds(batch), last=last), right.run(self._cand.feeds(batch), last=last))
        done, open_sides = [0, 0], [True, True]
        while any(open_sides):
            side = 0 if open_sides[0] and (done[0] <= done[1] or not open_sides[1]) else 1
            try:
                item = next(chains[side], None)
            except ModelError as error:
                if side == 0:
                    raise _Refused(error) from error
                _exhaust(chains[0])
                raise
            if item is None:
                open_sides[side] = False
                continue
            done[side] += 1
            name = item[0] if side == 0 else back[item[0]]
            waiting[side][name] = item[1]
            del item
            if name in waiting[0] and name in waiting[1]:
                yield name, np.asarray(waiting[0].pop(name)), np.asarray(waiting[1].pop(name))


class _Refused(Exception):
    """The reference cannot take a batch, which says nothing about the candidate."""

    def __init__(self, error: ModelError) -> None:
        super().__init__(str(error))
        self.error = error


def _exhaust(chain: Iterator[Any]) -> None:
    """Run the reference to its end.

    Raises:
      _Refused: it cannot take the batch either.
    """
    try:
        deque(chain, maxlen=0)
    except ModelError as error:
        raise _Refused(error) from error


def _with_last(inputs: Inputs) -> Iterator[tuple[int, Batch, bool]]:
    """(number, batch, whether no other follows)."""
    batches = iter(inputs)
    batch, number = next(batches, None), 0
    while batch is not None:
        following = next(batches, None)
        yield number, batch, following is None
        batch, number = following, number + 1


def island_nodes(candidate: Runner) -> dict[str, tuple[str, bool]]:
    """Value of the candidate -> (the node that makes it, whether that computes in FP32 amid 16-bit arithmetic).

    A node of a typed graph is such an island if every float that it reads or makes is FP32, constants apart; a node of
    a simulated FP32 graph if it was told to stay.
    """
    assert candidate.side.model is not None
    model = inline_functions(candidate.side.model)
    index = GraphIndex(model.proto)
    constants = set(index.main.initializers)
    types = infer_types(model) if candidate.precision != "fp32" and is_typed_low(model) else None
    kept = frozenset() if candidate.simulation is None else candidate.simulation.kept
    found: dict[str, tuple[str, bool]] = {}
    for position, node in enumerate(index.main.nodes):
        island = index.node_id(index.main, position) in kept
        if types is not None and not is_conversion(node) and node.op_type != "Constant":
            values = [name for name in (*node.input, *node.output) if name and name not in constants]
            floats = {kind.elem_type for name in values if (kind := types.get(((), name))) is not None} & FLOAT_TYPES
            island = bool(floats) and floats <= {TensorProto.FLOAT, TensorProto.DOUBLE}
        found.update((name, (display_name(node), island)) for name in node.output if name)
    return found


_STORED: dict[int, str] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


def match_values(reference: Model, candidate: Model, names: Mapping[str, str]) -> dict[str, str]:
    """Value of the reference's main graph -> the value of the candidate that holds the same.

    Values of the same name match; so do the results of nodes of the same operator and name, or of the name that a
    rewrite recorded. Where several nodes became one, only its result, which keeps its name, is the same value.
    """
    ref_nodes = list(reference.proto.graph.node)
    cand_nodes = list(candidate.proto.graph.node)
    made = {name for node in cand_nodes for name in node.output if name}
    pairs = {name: name for node in ref_nodes for name in node.output if name in made}
    taken = set(pairs.values())
    by_name: dict[str, NodeProto] = {node.name: node for node in cand_nodes if node.name}
    for node in ref_nodes:
        partner = by_name.get(names.get(node.name, node.name)) if node.name else None
        if partner is None or partner.op_type != node.op_type:
            continue
        for ours, theirs in zip(node.output, partner.output, strict=False):
            if ours and theirs and ours not in pairs and theirs not in taken:
                pairs[ours] = theirs
                taken.add(theirs)
    return pairs


def _is_worse(a: QuickMetrics, b: QuickMetrics) -> bool:
    if a.new_nonfinite != b.new_nonfinite:
        return a.new_nonfinite > b.new_nonfinite
    return math.isnan(a.rel_l2) or a.rel_l2 > b.rel_l2
