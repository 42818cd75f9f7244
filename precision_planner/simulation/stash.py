"""Normalizations whose `stash_type` is a 16-bit type: their statistics are rounded too."""

from __future__ import annotations

from typing import Any

from onnx import NodeProto, TensorProto, helper

from precision_planner.model import GraphIndex, Model
from precision_planner.model.edit import rewrite_nodes
from precision_planner.simulation.schemas import LOW_TYPES

_AXES_ARE_AN_INPUT = 18
"""Opset from which the reductions take their axes so."""
_END = 2**62


def expand_low_stash(model: Model) -> Model:
    """Write LayerNormalization with a 16-bit `stash_type` as the steps that ONNX defines, in that type.

    ONNX computes the mean, the variance and the normalized value ("stage one") in `stash_type`, so a 16-bit one
    overflows where a decomposed LayerNorm would. The steps are rounded like every other node of a typed graph.
    The usual stash_type 1 (FLOAT) leaves the node as it is: FP32 inside, rounded at its result.

    Args:
      model: typed, without local functions.
    """
    if not any(_stash(node) in LOW_TYPES for _, _, node in GraphIndex(model.proto).nodes()):
        return model
    proto = model.edit()
    rewrite_nodes(
        GraphIndex(proto),
        lambda _, __, node: _steps(node, _stash(node), model.opset) if _stash(node) in LOW_TYPES else [node],
    )
    return model.with_proto(proto)


def _stash(node: NodeProto) -> int:
    if node.op_type != "LayerNormalization" or node.domain not in ("", "ai.onnx"):
        return 0
    return next((a.i for a in node.attribute if a.name == "stash_type"), TensorProto.FLOAT)


def _steps(node: NodeProto, stash: int, opset: int) -> list[NodeProto]:
    """Stage one and two of the specification's function body.

    The axes are all trailing ones from `axis` on, which a reduction can only be told once the rank is known:
    Flatten to [rows, size] gives it an axis of its own, and Reshape undoes it.
    """
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    x, scale = node.input[0], node.input[1]
    bias = node.input[2] if len(node.input) > 2 else ""
    y = node.output[0]
    base = f"{y}__planner_stash"
    made: list[NodeProto] = []

    def step(op: str, inputs: list[str], suffix: str, **attributes: Any) -> str:
        name = f"{base}_{suffix}"
        made.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def whole(suffix: str, *values: int) -> str:
        tensor = helper.make_tensor(f"{base}_{suffix}", TensorProto.INT64, [len(values)], values)
        return step("Constant", [], f"{suffix}_value", value=tensor)

    def reduced(value: str, suffix: str) -> str:
        if opset < _AXES_ARE_AN_INPUT:
            return step("ReduceMean", [value], suffix, axes=[1], keepdims=1)
        return step("ReduceMean", [value, whole(f"{suffix}_axes", 1)], suffix, keepdims=1)

    kind = helper.make_tensor(f"{base}_eps", stash, (), [epsilon])
    eps = step("Constant", [], "eps_value", value=kind)
    shape = step("Shape", [x], "shape")
    wide = step("Cast", [x], "x", to=stash)
    flat = step("Flatten", [wide], "flat", axis=axis)
    mean = reduced(flat, "mean")
    centered = step("Sub", [flat, mean], "centered")
    square = step("Mul", [centered, centered], "square")
    variance = reduced(square, "variance")
    deviation = step("Sqrt", [step("Add", [variance, eps], "shifted")], "deviation")
    normalized = step("Div", [centered, deviation], "normalized")
    shaped = step("Reshape", [normalized, shape], "shaped")
    like = step("CastLike", [shaped, x], "typed")
    scaled = step("Mul", [like, scale], "scaled") if bias else ""
    made.append(
        helper.make_node("Add", [scaled, bias], [y], name=node.name)
        if bias
        else helper.make_node("Mul", [like, scale], [y], name=node.name)
    )
    statistics = {1: mean, 2: deviation}
    wanted = [(at, name) for at, name in enumerate(node.output) if at in statistics and name]
    if wanted:  # the leading axes as they are, 1 for each that is normalized
        axis_value = whole("axis", axis)
        lead = step("Slice", [shape, whole("first", 0), axis_value], "lead")
        rest = step("Slice", [shape, axis_value, whole("last", _END)], "rest")
        one = helper.make_tensor(f"{base}_one", TensorProto.INT64, [1], [1])
        ones = step("ConstantOfShape", [step("Shape", [rest], "rest_rank")], "ones", value=one)
        to = step("Concat", [lead, ones], "statistics_shape", axis=0)
        for at, name in wanted:
            value = mean if at == 1 else step("Reciprocal", [deviation], "inverse")
            made.append(helper.make_node("Reshape", [value, to], [name], name=name))
    return made
