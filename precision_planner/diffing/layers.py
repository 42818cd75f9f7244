"""Every intermediate value that reference and candidate share, compared block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from onnx import NodeProto, TensorProto

from precision_planner.diffing.result import LayerDiff
from precision_planner.diffing.run import Runner
from precision_planner.errors import ModelError
from precision_planner.model import GraphIndex, Model, display_name
from precision_planner.model.blocks import BlockChain, fetchable
from precision_planner.model.inputs import Inputs
from precision_planner.model.order import sorted_copy
from precision_planner.numerics.quick import QuickMetrics, quick_metrics
from precision_planner.simulation import inline_functions


def compare_layers(
    reference: Runner,
    candidate: Runner,
    inputs: Inputs | None,
    names: Mapping[str, str],
    step: Callable[[float], None],
) -> tuple[LayerDiff, ...]:
    """Compare what both models compute on the way, each node run once a batch and a bounded part held.

    Args:
      reference, candidate: open runners; () is returned where either is no model on a CPU.
      inputs: the batches.
      names: old node name -> new.
      step: progress.

    Returns:
      One entry a shared value, in the reference's topological order, the worst over the batches.
    """
    if reference.side.model is None or candidate.side.model is None or inputs is None:
        return ()
    ref_model = reference.simulation.model if reference.simulation else inline_functions(reference.side.model)
    cand_model = candidate.simulation.model if candidate.simulation else inline_functions(candidate.side.model)
    origin = inline_functions(candidate.side.model)
    pairs = match_values(inline_functions(reference.side.model), origin, names)
    fetch_ref, fetch_cand = set(fetchable(ref_model)), set(fetchable(cand_model))
    pairs = {a: b for a, b in pairs.items() if a in fetch_ref and b in fetch_cand}
    if not pairs:
        return ()
    worst: dict[str, QuickMetrics] = {}
    with BlockChain(ref_model, set(pairs)) as left, BlockChain(cand_model, set(pairs.values())) as right:
        for batch in inputs:
            try:
                for value, found in _batch(left, right, reference, candidate, batch, pairs):
                    before = worst.get(value)
                    worst[value] = found if before is None or _is_worse(found, before) else before
            except ModelError:
                if not inputs.synthesised or not worst:
                    raise
            step(1)
    rounded = {} if candidate.simulation is None else candidate.simulation.stored
    return _entries(inline_functions(reference.side.model), pairs, worst, rounded)


def match_values(reference: Model, candidate: Model, names: Mapping[str, str]) -> dict[str, str]:
    """Value of the reference's main graph -> the value of the candidate that holds the same.

    Values of the same name match; so do the results of nodes of the same name and operator, or of the names that a
    rewrite recorded.
    """
    ref_nodes = list(reference.proto.graph.node)
    cand_nodes = list(candidate.proto.graph.node)
    made = {name for node in cand_nodes for name in node.output if name}
    pairs = {name: name for node in ref_nodes for name in node.output if name in made}
    taken = set(pairs.values())
    by_name: dict[str, NodeProto] = {node.name: node for node in cand_nodes if node.name}
    for node in ref_nodes:
        partner = by_name.get(names.get(node.name, node.name)) if node.name else None
        if partner is None or (partner.op_type != node.op_type and node.name not in names):
            continue
        if node.name in names and partner.op_type != node.op_type:
            continue  # several nodes became one: only its result, which keeps its name, is the same value
        for ours, theirs in zip(node.output, partner.output, strict=False):
            if ours and theirs and ours not in pairs and theirs not in taken:
                pairs[ours] = theirs
                taken.add(theirs)
    return pairs


def _batch(
    left: BlockChain,
    right: BlockChain,
    reference: Runner,
    candidate: Runner,
    batch: Mapping[str, np.ndarray],
    pairs: Mapping[str, str],
) -> Iterator[tuple[str, QuickMetrics]]:
    """Advance both chains together, so that a value waits for its partner only briefly."""
    back = {theirs: ours for ours, theirs in pairs.items()}
    waiting_left: dict[str, np.ndarray] = {}
    waiting_right: dict[str, np.ndarray] = {}
    ours, theirs = left.run(reference.feeds(batch)), right.run(candidate.feeds(batch))
    done_left = done_right = 0
    more_left = more_right = True
    while more_left or more_right:
        if more_left and (done_left <= done_right or not more_right):
            item = next(ours, None)
            if item is None:
                more_left = False
                continue
            done_left += 1
            name = item[0]
            waiting_left[name] = item[1]
        else:
            item = next(theirs, None)
            if item is None:
                more_right = False
                continue
            done_right += 1
            name = back[item[0]]
            waiting_right[name] = item[1]
        if name in waiting_left and name in waiting_right:
            a, b = np.asarray(waiting_left.pop(name)), np.asarray(waiting_right.pop(name))
            if a.shape == b.shape and a.dtype.kind in "fiubV" and b.dtype.kind in "fiubV":
                yield name, quick_metrics(a, b)


def _entries(
    model: Model,
    pairs: Mapping[str, str],
    found: Mapping[str, QuickMetrics],
    rounded: Mapping[tuple[tuple[str, ...], str], int],
) -> tuple[LayerDiff, ...]:
    proto = sorted_copy(model.proto)
    index = GraphIndex(proto)
    error: dict[str, float] = {}
    layers: list[LayerDiff] = []
    kinds = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    for position, node in enumerate(index.main.nodes):
        reads = list(node.input) + [
            value for value, uses in index.main.captures.items() for body, _ in uses if body.owner is node
        ]
        inherited = max((error.get(name, 0.0) for name in reads), default=0.0)
        for name in node.output:
            metrics = found.get(name)
            if metrics is None:
                error[name] = inherited  # a value that only the reference has: its readers inherit what it inherits
                continue
            error[name] = math.inf if metrics.new_nonfinite or math.isnan(metrics.rel_l2) else metrics.rel_l2
            stored = kinds.get(rounded.get(((), pairs[name]), 0), "fp32")
            layers.append(
                LayerDiff(name, pairs[name], display_name(node), node.op_type, position, inherited, stored, metrics)
            )
    return tuple(layers)


def _is_worse(a: QuickMetrics, b: QuickMetrics) -> bool:
    if a.new_nonfinite != b.new_nonfinite:
        return a.new_nonfinite > b.new_nonfinite
    return math.isnan(a.rel_l2) or a.rel_l2 > b.rel_l2


