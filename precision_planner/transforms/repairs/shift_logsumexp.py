"""Shift a log-sum-exp by its maximum: log(sum(exp(x))) = log(sum(exp(x - m))) + m with m = max(x).

ONNX's ReduceLogSumExp is defined by its result. TensorRT's parser makes exp, sum and logarithm of it as they stand, so
exp(x) overflows FP16 past 11.09 and FP32 past 88.7 (NVIDIA/TensorRT#4772); up to 10.16 it also loses `axes` that are an
input (opset 18), and sums over every axis. Shifted, no step leaves (0, n], and ReduceMax and ReduceSum keep their axes.

m is bounded by the largest finite value, so that a row of -inf gives -inf, not NaN, and one that holds inf gives inf.

Cases: 1. axes as an attribute (below opset 18); 2. as an input; 3. none: over all. keepdims as it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from precision_planner.model.edit import Edit
from precision_planner.numerics.formats import BF16, FP16
from precision_planner.transforms.repairs.site import Site, constant

__all__ = ["plan"]

_SUM_AXES_OPSET = 13
"""ReduceSum takes its axes as an input from here on; ReduceMax and ReduceLogSumExp from 18."""
_CLIP_OPSET = 11
"""Clip takes its bounds as inputs from here on."""


def plan(site: Site) -> Edit | str:
    """Plan the rewrite for the one ReduceLogSumExp among the site's nodes."""
    for node_id in site.nodes:
        place = site.place(node_id)
        node = None if place is None else site.scope.nodes[place[1]]
        if place is not None and node is not None and node.op_type == "ReduceLogSumExp":
            return _rewrite(site, node, place[1])
    return "there is no ReduceLogSumExp"


def _rewrite(site: Site, node: NodeProto, position: int) -> Edit | str:
    x, base = node.input[0], node.output[0]
    elem_type = site.elem_type(x)
    if elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        return "it is of doubles or integers"
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if not given.get("axes"):
        given.pop("axes", None)  # no axes are all of them
    axes_input = node.input[1] if len(node.input) > 1 else ""
    if given.get("noop_with_empty_axes") and not axes_input:
        return "it reduces nothing"
    keepdims = int(given.get("keepdims", 1))
    if not keepdims and not (axes_input or "axes" in given):
        return "it is a scalar over all axes, which has none to give back"
    edit = Edit(site.scope.path, remove={position})
    step = _Step(site, edit, position, node.name or base)
    limit = _limit(site, x)
    low, high = (
        constant(site.fresh(f"{base}_{side}"), sign * limit, elem_type) for side, sign in (("low", -1), ("high", 1))
    )
    kept = {"axes": given["axes"]} if "axes" in given else {}
    peak = step("ReduceMax", [x, *([axes_input] if axes_input else [])], f"{base}_max", keepdims=1, **kept)
    if site.model.opset >= _CLIP_OPSET:
        edit.constants += [low, high]
        peak = step("Clip", [peak, low.name, high.name], f"{base}_peak")
    else:
        peak = step("Clip", [peak], f"{base}_peak", min=-limit, max=limit)
    powers = step("Exp", [step("Sub", [x, peak], f"{base}_shifted")], f"{base}_exp")
    inputs = [powers, *([axes_input] if axes_input else [])]
    if "axes" in given and site.model.opset >= _SUM_AXES_OPSET:
        axes_input = site.fresh(f"{base}_axes")
        edit.constants.append(numpy_helper.from_array(np.array(given["axes"], np.int64), axes_input))
        inputs, kept = [powers, axes_input], {}
    total = step("ReduceSum", inputs, f"{base}_sum", keepdims=1, **kept)
    logarithm = step("Log", [total], f"{base}_log")
    if keepdims:
        step("Add", [logarithm, peak], base)
        return edit
    whole = step("Add", [logarithm, peak], f"{base}_whole")
    if site.model.opset >= _SUM_AXES_OPSET:
        step("Squeeze", [whole, axes_input], base)
    else:
        step("Squeeze", [whole], base, axes=given["axes"])
    return edit


def _limit(site: Site, x: str) -> float:
    """What bounds the maximum: what FP16 holds, or more where larger values were measured."""
    amax = site.amax.get((site.scope.path, x), 0.0)
    return FP16.max_finite if amax < FP16.max_finite / 2 else BF16.max_finite


class _Step:
    """Adds one node after the other to an edit."""

    def __init__(self, site: Site, edit: Edit, position: int, name: str) -> None:
        self._site, self._edit, self._position, self._name = site, edit, position, name
        self._last = site.scope.nodes[position].output[0]

    def __call__(self, op_type: str, inputs: list[str], wish: str, **attributes: Any) -> str:
        output = wish if wish == self._last else self._site.fresh(wish)
        made = helper.make_node(op_type, inputs, [output], name=f"{self._name}/{op_type}", **attributes)
        self._edit.insert.append((self._position, made))
        return output
