"""Which constants are masks: found by walking back from every softmax."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from precision_planner.model import GraphIndex, Scope
from precision_planner.model.flow import Flow
from precision_planner.operators import hands_mask_on, row_of, slots_of
from precision_planner.transforms.repairs.finite_mask import tests_masked_rows
from precision_planner.typing import Key


def mask_constants(index: GraphIndex) -> frozenset[Key]:
    """The values that are added to or selected into the logits of a softmax, constants among them.

    The sinks are Softmax, LogSoftmax, the masks of attention operators, and Exp(x - max) written out. A product or
    normalization ends the walk.

    Returns:
      Keys of every value on the way back from there; the caller asks only about constants.
    """
    logits = [(scope, name) for scope, _, node in index.nodes() for name in _logits(scope, node)]
    return _behind(Flow(index), logits)


def tested_masks(index: GraphIndex) -> frozenset[Key]:
    """Those of `mask_constants` where the graph asks behind the softmax whether a row is masked as a whole.

    Their infinities have to stay: a row of -30000 is no NaN.
    """
    flow = Flow(index)
    logits = [
        (scope, name)
        for scope, _, node in index.nodes()
        if node.output and any(_logits(scope, node)) and tests_masked_rows(flow, scope, node)
        for name in _logits(scope, node)
    ]
    return _behind(flow, logits)


def _behind(flow: Flow, logits: list[tuple[Scope, str]]) -> frozenset[Key]:
    return frozenset((at.scope.path, at.value) for at, _ in flow.trace(logits, hands_mask_on))


def _logits(scope: Scope, node: onnx.NodeProto) -> Iterator[str]:
    found = row_of(node)
    if not found.product:
        yield from (name for _, name in slots_of(node, found.scores))
    yield from (name for _, name in slots_of(node, found.masks))
    if node.op_type == "Exp":
        made_by = scope.producer_node(node.input[0])
        if made_by is not None and made_by.op_type == "Sub":
            yield made_by.input[0]
