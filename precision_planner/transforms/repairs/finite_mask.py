"""Replace a mask constant that FP16 cannot hold by a finite one with headroom.

A mask of -3.4e38 (or -1e9, -65504, -inf) is added to attention scores so that their softmax weight is zero. FP16 makes
-inf of it: (1 - mask) * -inf is NaN where the mask is 1, and a row that is masked as a whole is NaN. -30000 does the
same work: float32's exp is zero from -104 on, two such masks added (padding and causal) still fit FP16 with 5,504 to
spare for the score, and no product with 0 is NaN.

Proof: every reading of the constant leads, through ops that hand it on, scale it by constants or mask it, into a
softmax; nothing else reads it, but an Equal that asks where the mask itself is masked. Infinities stay where the graph
asks for NaN behind the softmax. The softmax is then the same in FP32 for every row that has one unmasked element, as
long as the scores are apart by less than 29,000 (rows without any are garbage before and after, but finite).

Cases: 1. a scalar or tensor initializer or Constant node; 2. a ConstantOfShape's value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto

from precision_planner.model import Scope
from precision_planner.model.edit import Edit
from precision_planner.model.flow import Flow, Read
from precision_planner.operators import ANYHOW, carries, hands_mask_on, is_pointwise, row_of
from precision_planner.transforms.repairs.site import Site

__all__ = ["DEFAULT_MASK", "is_logit", "mask_refusal", "plan", "tests_masked_rows"]

DEFAULT_MASK = -30000.0
_LIMIT = 400

Array = np.ndarray[Any, np.dtype[Any]]


def plan(site: Site) -> Edit | str:
    """Plan the replacement of `site.value`, or of the constants that the site's nodes read or hold.

    Parameters: value (default -30000): what becomes of every element below it.
    """
    value = float(site.parameters.get("value", DEFAULT_MASK))
    edit = Edit(site.scope.path)
    names = [site.value] if site.value else _constants(site)
    for name in names:
        array = site.array(name)
        if array is None or array.dtype not in (np.float32, np.float64) or not (array < value).any():
            continue
        holder = site.index.resolve(site.scope, name)
        if holder is None or holder.path != site.scope.path:
            return f"{name} lies in another graph"
        refusal = mask_refusal(site.flow, site.scope, name, site.constant_of, infinite=bool(np.isinf(array).any()))
        if refusal:
            return refusal
        edit.replace[name] = np.asarray(np.maximum(array, np.asarray(value, array.dtype)))
    for node_id in site.nodes:
        place = site.place(node_id)
        if place is not None and place[0].nodes[place[1]].op_type == "ConstantOfShape":
            refusal = _constant_of_shape(site, place[1], value, edit)
            if refusal:
                return refusal
    return edit if edit.replace or edit.attributes else "no constant is below the mask"


def _constants(site: Site) -> list[str]:
    names: dict[str, None] = {}
    for node_id in site.nodes:
        place = site.place(node_id)
        if place is not None:
            names.update(dict.fromkeys(name for name in place[0].nodes[place[1]].input if name))
    return list(names)


def _constant_of_shape(site: Site, position: int, value: float, edit: Edit) -> str:
    from onnx import numpy_helper

    node = site.scope.nodes[position]
    for attribute in node.attribute:
        if attribute.name != "value":
            continue
        array = numpy_helper.to_array(attribute.t)
        if array.dtype in (np.float32, np.float64) and (array < value).any():
            refusal = mask_refusal(
                site.flow, site.scope, node.output[0], site.constant_of, infinite=bool(np.isinf(array).any())
            )
            if refusal:
                return refusal
            fresh = numpy_helper.from_array(np.asarray(np.maximum(array, np.asarray(value, array.dtype))))
            edit.attributes[position, "value"] = fresh
    return ""


def mask_refusal(
    flow: Flow, scope: Scope, value: str, array_of: Callable[[Scope, str], Array | None], *, infinite: bool = False
) -> str:
    """Why a constant is no attention mask: which reading does not lead into a softmax; "" if all do.

    Args:
      flow: of the model.
      scope: the graph that holds it.
      value: its name.
      array_of: (graph, value) -> the constant there, None for anything else.
      infinite: whether it holds infinities: a row that is masked as a whole is NaN then, which the graph may test.
    """
    reads, is_returned = flow.readers(scope, value, hands_mask_on, limit=_LIMIT)
    if is_returned:
        return f"{value} reaches a graph output"
    if len(reads) >= _LIMIT:
        return f"{value} is read in too many places"
    reached = False
    for read in reads:
        row = row_of(read.node)
        if is_logit(read.node, read.slot):
            reached = True
            if infinite and tests_masked_rows(flow, read.scope, read.node):
                return f"whether rows are masked as a whole is tested behind {read.node.op_type}"
        elif row.compares or row.tests:
            # a test of the mask against itself sees the new value on both sides
            if not _compares_with_itself(flow, read, value, array_of):
                return f"{read.value} is tested by {read.node.op_type}"
        elif not row.blind:
            return f"{read.value} reaches {read.node.op_type}, not only a softmax"
    return "" if reached else f"{value} reaches no softmax" if reads else f"nothing reads {value}"


def is_logit(node: NodeProto, slot: int) -> bool:
    """Whether a node makes a softmax of an input, or adds it to what it makes one of."""
    row = row_of(node)
    return slot in row.masks or (slot in row.scores and not row.product)


def tests_masked_rows(flow: Flow, scope: Scope, softmax: NodeProto) -> bool:
    """Whether the graph asks for NaN behind a softmax, as torch exports it from 2.9 on: a row without any is zero."""
    reads = flow.readers(scope, softmax.output[0], lambda node, _: is_pointwise(node) and not row_of(node).tests)[0]
    return any(row_of(read.node).tests for read in reads)


def _compares_with_itself(flow: Flow, read: Read, value: str, array_of: Callable[[Scope, str], Array | None]) -> bool:
    """Whether an Equal asks where a mask is masked: both sides are selected from this constant and ordinary numbers."""
    if read.node.op_type != "Equal":
        return False
    for name in read.node.input:
        for origin in flow.origins(read.scope, name, lambda node, slot: carries(node, slot, ANYHOW, casts=False)):
            if origin.value == value:
                continue
            other = array_of(origin.scope, origin.value)
            if other is None or (np.abs(other) > -DEFAULT_MASK / 2).any():
                return False
    return True
