"""Fold an inference BatchNormalization into one Mul and one Add, computed in float64.

y = s x + t with s = scale / sqrt(variance + epsilon) and t = bias - mean s. A variance over 65504 is infinite in FP16,
one under 2^-25 is zero, and both are gone once s and t are computed beforehand.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from precision_planner.model.edit import Edit
from precision_planner.transforms.repairs.site import Site

__all__ = ["plan"]


def plan(site: Site) -> Edit | str:
    """Plan the folding of the one BatchNormalization among the site's nodes."""
    for node_id in site.nodes:
        place = site.place(node_id)
        if place is not None and place[0] is site.scope and _is_batch_norm(place[0].nodes[place[1]]):
            return _fold(site, place[1])
    return "there is no BatchNormalization"


def _is_batch_norm(node: NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx") and len(node.input) >= 5


def _fold(site: Site, position: int) -> Edit | str:
    node = site.scope.nodes[position]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "training_mode" in attributes and attributes["training_mode"].i:
        return "it runs in training mode"
    if any(node.output[1:]):
        return "its running statistics are read"
    arrays = [site.array(name) for name in node.input[1:5]]
    if any(array is None or array.dtype not in (np.float32, np.float64) for array in arrays):
        return "its statistics are no float32 constants"
    rank = site.types.of(site.scope, node.input[0]).rank
    if rank is None or rank < 2:
        return "the rank of its input is unknown"
    scale, bias, mean, variance = (array.astype(np.float64) for array in arrays if array is not None)
    epsilon = attributes["epsilon"].f if "epsilon" in attributes else float(np.float32(1e-5))
    factor = scale / np.sqrt(variance + epsilon)
    offset = bias - mean * factor
    if not (np.isfinite(factor).all() and np.isfinite(offset).all()):
        return "the folded scale is not finite"
    shape = (-1,) + (1,) * (rank - 2)
    output, dtype = node.output[0], arrays[0].dtype if arrays[0] is not None else np.float32
    names = [site.fresh(f"{output}_folded_{part}") for part in ("scale", "bias")]
    edit = Edit(site.scope.path, remove={position})
    edit.constants += [
        numpy_helper.from_array(array.astype(dtype).reshape(shape), name)
        for array, name in zip((factor, offset), names, strict=True)
    ]
    scaled, base = site.fresh(f"{output}_folded"), node.name or output
    edit.insert += [
        (position, helper.make_node("Mul", [node.input[0], names[0]], [scaled], f"{base}/folded_scale")),
        (position, helper.make_node("Add", [scaled, names[1]], [output], base)),
    ]
    return edit
