"""Where values become infinite or NaN that are finite in FP32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from precision_planner.model import FLOAT_TYPES, NodeId
from precision_planner.model.blocks import BlockChain, fetchable
from precision_planner.model.order import reads
from precision_planner.planning.search.evaluate import Candidate, Evaluator
from precision_planner.simulation.rounding import apply_rounding

__all__ = ["overflowing_nodes"]


def overflowing_nodes(
    evaluator: Evaluator, candidate: Candidate, batch: Mapping[str, np.ndarray]
) -> tuple[NodeId, ...]:
    """The nodes that make an infinity or NaN out of values that are as finite as in FP32, in graph order.

    A masked score of minus infinity is among them where the mask is finite in FP32: whether it matters, only the
    outputs tell.

    Args:
      evaluator: has the model.
      candidate: what is low and what not.
      batch: the inputs.
    """
    model, index = evaluator.runner.model, evaluator.runner.index
    main = index.main
    types = evaluator.types
    wanted = [name for name in fetchable(model) if types.of(main, name).elem_type in FLOAT_TYPES]
    rounded = apply_rounding(model, evaluator.rounding(candidate))
    lost: set[str] = set()
    found: list[NodeId] = []
    with BlockChain(model, wanted) as reference, BlockChain(rounded, wanted) as low:
        for (name, value), (other, simulated) in zip(reference.run(batch), low.run(batch), strict=True):
            assert name == other, "rounding changes neither names nor order"
            if not bool((np.isfinite(value) & ~np.isfinite(simulated)).any()):
                continue
            lost.add(name)
            position = main.producer(name)
            assert position is not None
            if lost.isdisjoint(reads(main.nodes[position])):
                found.append(index.node_id(main, position))
    return tuple(dict.fromkeys(found))
