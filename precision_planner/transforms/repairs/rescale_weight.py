"""Scale a tiny weight up by a power of two and its product down: x (2^k W) 2^-k = x W, bit by bit in FP32.

A weight whose values lie under 2^-14 loses bits in FP16, under 2^-25 all of them. Its largest magnitude is brought to
between 2^-6 and 2^-5: all but the smallest are normal there, and a product of thousands is far from 65504. The product
is scaled back by one Mul, which a builder fuses into the GEMM. A bias inside the GEMM is scaled with it.

Cases: 1. MatMul, weight on either side; 2. Gemm; 3. Conv and ConvTranspose. The weight is read by such nodes alone, as
it is or behind what only moves it (Reshape, Split, a Cast between wide floats).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from precision_planner.model import LazyPayload
from precision_planner.model.edit import Edit
from precision_planner.numerics.formats import FP16
from precision_planner.operators import carries, is_conversion, named, weight_role
from precision_planner.transforms.repairs.homogeneity import is_gemm
from precision_planner.transforms.repairs.site import Site, constant

__all__ = ["plan", "power_for"]

_WIDE = (TensorProto.FLOAT, TensorProto.DOUBLE)
_BLOCK = 1 << 20
_TARGET_EXPONENT = -6


def power_for(amax: float) -> int:
    """The k for which 2^k amax lies in [2^-6, 2^-5)."""
    return _TARGET_EXPONENT - (math.frexp(amax)[1] - 1)


def plan(site: Site) -> Edit | str:
    """Plan the rescaling of `site.value`."""
    scope, name = site.scope, site.value
    tensor = scope.initializers.get(name)
    if tensor is None or scope.is_overridable(name):
        return f"{name} is no initializer of its own"
    if tensor.data_type not in _WIDE:
        return f"{name} is neither float32 nor float64"
    uses, is_returned = site.flow.readers(scope, name, _keeps_power)
    if not uses or is_returned or any(use.scope.path != scope.path for use in uses):
        return f"{name} is read by a nested body, or returned, or read by nothing"
    weight = site.model.array(tensor)
    amax = float(np.abs(weight).max(initial=0.0))
    if not math.isfinite(amax) or not amax:
        return f"{name} has no finite value above zero"
    power = power_for(amax)
    if power <= 0:
        return f"{name} reaches {amax:.4g}: scaling up would not help"
    if power > 120:
        return f"{name} reaches only {amax:.4g}"
    edit = Edit(scope.path)
    for use in {use.position: use for use in uses}.values():
        if not is_gemm(use.node) or weight_role(use.node, use.slot) != "weight":
            return f"{use.node.op_type} reads {name} too"
        if sum(other.position == use.position for other in uses) > 1:
            return f"{use.node.op_type} reads {name} twice"
        refusal = _rescale_reader(site, use.position, use.node, power, edit)
        if refusal:
            return refusal
    edit.replace[name] = LazyPayload(weight.nbytes, lambda: _scaled(weight, power))
    return edit


def _keeps_power(node: NodeProto, slot: int) -> bool:
    """Whether a node hands on 2^k w where it is given it: what moves it, and a Cast between wide floats."""
    if not carries(node, slot):
        return False
    to = named(node, "to")
    return not is_conversion(node) or (to is not None and to.i in _WIDE)


def _rescale_reader(site: Site, position: int, node: NodeProto, power: int, edit: Edit) -> str:
    if len(node.input) > 2 and node.input[2]:
        bias = site.array(node.input[2])
        if bias is None or bias.dtype != np.float32:
            return f"the bias {node.input[2]} is no float32 constant"
        scaled = np.ldexp(bias, power)
        if float(np.abs(scaled).max(initial=0.0)) > FP16.max_finite:
            return f"the bias {node.input[2]} would leave FP16"
        label = site.fresh(f"{node.input[2]}_scaled_{position}")
        fresh = numpy_helper.from_array(scaled.astype(np.float32), label)
        edit.constants.append(fresh)
        edit.rewire[position, 2] = fresh.name
    output = node.output[0]
    product = site.fresh(f"{output}_scaled_{position}")
    back = constant(site.fresh(f"{product}_back"), math.ldexp(1.0, -power), site.elem_type(output))
    edit.constants.append(back)
    moved = NodeProto()
    moved.CopyFrom(node)
    moved.output[0] = product
    if (position, 2) in edit.rewire:
        moved.input[2] = edit.rewire.pop((position, 2))
    edit.remove.add(position)
    edit.insert += [
        (position, moved),
        (position, helper.make_node("Mul", [product, back.name], [output], f"{node.name or output}/scale_back")),
    ]
    return ""


def _scaled(weight: np.ndarray[Any, Any], power: int) -> Iterator[np.ndarray[Any, Any]]:
    flat = weight.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        yield np.ldexp(flat[start : start + _BLOCK], power)
