"""Named builders: graphs that would be long as ONNX text, with the few numbers that a case is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["BUILDERS", "Builder"]


@dataclass(frozen=True)
class Builder:
    """A builder of graphs.

    Attributes:
      name: as cases write it.
      parameters: name -> default.
      doc: one sentence.
      build: parameters -> model.
    """

    name: str
    parameters: Mapping[str, Any]
    doc: str
    build: Callable[..., onnx.ModelProto]


BUILDERS: dict[str, Builder] = {}


def builder(**parameters: Any) -> Callable[[Callable[..., onnx.ModelProto]], Callable[..., onnx.ModelProto]]:
    """Register a builder under its function's name."""

    def register(function: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
        doc = (function.__doc__ or "").strip().split("\n")[0]
        BUILDERS[function.__name__] = Builder(function.__name__, parameters, doc, function)
        return function

    return register


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    constants: Mapping[str, Any],
    opset: int,
) -> onnx.ModelProto:
    """A float model of nodes, inputs, outputs and constants (float32 unless they are arrays of another type)."""
    tensors = []
    for name, value in constants.items():
        array = value if isinstance(value, np.ndarray) else np.asarray(value, np.float32)
        tensors.append(numpy_helper.from_array(array, name))
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@builder(hidden=8, epsilon=1e-5, opset=13, exponent=2.0, swapped=False)
def layer_norm(hidden: int, epsilon: float, opset: int, exponent: float, swapped: bool) -> onnx.ModelProto:
    """LayerNorm as the TorchScript exporter writes it up to opset 16; `exponent` and `swapped` make look-alikes."""
    node = helper.make_node
    sub = ["mean", "x"] if swapped else ["x", "mean"]
    nodes = [
        node("ReduceMean", ["x"], ["mean"], "mean", axes=[-1]),
        node("Sub", sub, ["centered"], "sub"),
        node("Pow", ["centered", "exponent"], ["squares"], "pow"),
        node("ReduceMean", ["squares"], ["variance"], "variance", axes=[-1]),
        node("Add", ["variance", "epsilon"], ["shifted"], "add_epsilon"),
        node("Sqrt", ["shifted"], ["deviation"], "sqrt"),
        node("Div", ["centered", "deviation"], ["normalized"], "div"),
        node("Mul", ["normalized", "scale"], ["scaled"], "mul"),
        node("Add", ["scaled", "bias"], ["y"], "add"),
    ]
    rng = np.random.default_rng(3)
    constants = {
        "exponent": exponent,
        "epsilon": epsilon,
        "scale": rng.uniform(0.5, 1.5, hidden).astype(np.float32),
        "bias": rng.uniform(-0.5, 0.5, hidden).astype(np.float32),
    }
    return model(nodes, {"x": ["rows", hidden]}, {"y": ["rows", hidden]}, constants, opset)


@builder(rows=64, columns=64, scale=0.03, tiny=0.0, tiny_share=0.0, huge=0.0, seed=0)
def linear(
    rows: int, columns: int, scale: float, tiny: float, tiny_share: float, huge: float, seed: int
) -> onnx.ModelProto:
    """y = x W with W from N(0, scale^2); a share of it is `tiny`, and its first element `huge` unless that is 0."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0.0, scale, (rows, columns))
    if tiny_share:
        weight[rng.random(weight.shape) < tiny_share] = tiny
    if huge:
        weight[0, 0] = huge
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"], "matmul")]
    return model(nodes, {"x": ["batch", rows]}, {"y": ["batch", columns]}, {"weight": weight.astype(np.float32)}, 13)
