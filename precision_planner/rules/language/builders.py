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


@builder(hidden=64, epsilon=1e-6, opset=17, exponent=2.0)
def rms_norm(hidden: int, epsilon: float, opset: int, exponent: float) -> onnx.ModelProto:
    """RMSNorm as T5 and Llama are exported: Pow, ReduceMean, Add, Sqrt, Div, Mul; `exponent` makes a look-alike."""
    node = helper.make_node
    nodes = [
        node("Pow", ["x", "exponent"], ["squares"], "pow"),
        node("ReduceMean", ["squares"], ["mean"], "mean", axes=[-1]),
        node("Add", ["mean", "epsilon"], ["shifted"], "add_epsilon"),
        node("Sqrt", ["shifted"], ["root"], "sqrt"),
        node("Div", ["x", "root"], ["normalized"], "div"),
        node("Mul", ["normalized", "scale"], ["y"], "mul"),
    ]
    scale = np.random.default_rng(4).uniform(0.5, 1.5, hidden).astype(np.float32)
    constants = {"exponent": exponent, "epsilon": epsilon, "scale": scale}
    return model(nodes, {"x": ["rows", hidden]}, {"y": ["rows", hidden]}, constants, opset)


@builder(channels=6, size=8, epsilon=1e-6, opset=17, axis=1)
def channels_first_norm(channels: int, size: int, epsilon: float, opset: int, axis: int) -> onnx.ModelProto:
    """LayerNorm over the channels of NCHW, as ConvNeXt writes it; `axis` 3 makes it an ordinary one."""
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["x"], ["mean"], "mean", axes=[axis]),
        node("Sub", ["x", "mean"], ["centered"], "sub"),
        node("Pow", ["centered", "two"], ["squares"], "pow"),
        node("ReduceMean", ["squares"], ["variance"], "variance", axes=[axis]),
        node("Add", ["variance", "epsilon"], ["shifted"], "add_epsilon"),
        node("Sqrt", ["shifted"], ["deviation"], "sqrt"),
        node("Div", ["centered", "deviation"], ["normalized"], "div"),
        node("Mul", ["scale", "normalized"], ["scaled"], "mul"),
        node("Add", ["scaled", "bias"], ["y"], "add"),
    ]
    shape = (channels, 1, 1) if axis == 1 else (size,)
    rng = np.random.default_rng(5)
    constants = {
        "two": 2.0,
        "epsilon": epsilon,
        "scale": rng.uniform(0.5, 1.5, shape).astype(np.float32),
        "bias": rng.uniform(-0.5, 0.5, shape).astype(np.float32),
    }
    dims: list[int | str] = [1, channels, size, size]
    return model(nodes, {"x": dims}, {"y": dims}, constants, opset)


@builder(channels=4, groups=2, size=4, epsilon=1e-5, opset=17, native=False)
def group_norm(channels: int, groups: int, size: int, epsilon: float, opset: int, native: bool) -> onnx.ModelProto:
    """GroupNorm: Reshape, the statistics (written out, or an InstanceNormalization), Reshape, affine."""
    node = helper.make_node
    per_group = channels // groups * size * size
    nodes = [node("Reshape", ["x", "grouped_shape"], ["grouped"], "group")]
    if native:
        nodes.append(
            node("InstanceNormalization", ["grouped", "ones", "zeros"], ["normalized"], "instance", epsilon=epsilon)
        )
    else:
        nodes += [
            node("ReduceMean", ["grouped"], ["mean"], "mean", axes=[-1]),
            node("Sub", ["grouped", "mean"], ["centered"], "sub"),
            node("Mul", ["centered", "centered"], ["squares"], "square"),
            node("ReduceMean", ["squares"], ["variance"], "variance", axes=[-1]),
            node("Add", ["variance", "epsilon"], ["shifted"], "add_epsilon"),
            node("Sqrt", ["shifted"], ["deviation"], "sqrt"),
            node("Div", ["centered", "deviation"], ["normalized"], "div"),
        ]
    nodes += [
        node("Reshape", ["normalized", "full_shape"], ["full"], "ungroup"),
        node("Mul", ["full", "scale"], ["scaled"], "mul"),
        node("Add", ["scaled", "bias"], ["y"], "add"),
    ]
    rng = np.random.default_rng(6)
    constants = {
        "grouped_shape": np.array([1, groups, per_group], np.int64),
        "full_shape": np.array([1, channels, size, size], np.int64),
        "scale": rng.uniform(0.5, 1.5, (channels, 1, 1)).astype(np.float32),
        "bias": rng.uniform(-0.5, 0.5, (channels, 1, 1)).astype(np.float32),
    }
    if native:
        constants |= {"ones": np.ones(groups, np.float32), "zeros": np.zeros(groups, np.float32)}
    else:
        constants |= {"epsilon": np.float32(epsilon)}
    dims: list[int | str] = [1, channels, size, size]
    return model(nodes, {"x": dims}, {"y": dims}, constants, opset)


@builder(length=4, width=64, scale=0.125, divide=False, scale_first=False, mask=0.0, opset=17)
def attention(
    length: int, width: int, scale: float, divide: bool, scale_first: bool, mask: float, opset: int
) -> onnx.ModelProto:
    """One head: Q K^T, the scale behind it (or on Q), the mask (1 - keep) * `mask` unless that is 0, softmax, P V."""
    node = helper.make_node
    scaling = "Div" if divide else "Mul"
    constants: dict[str, Any] = {"scale": 1.0 / scale if divide else scale}
    inputs: dict[str, list[int | str]] = {name: [length, width] for name in ("q", "k", "v")}
    nodes = [node("Transpose", ["k"], ["k_t"], "transpose", perm=[1, 0])]
    if scale_first:
        nodes += [
            node(scaling, ["q", "scale"], ["q_scaled"], "scale"),
            node("MatMul", ["q_scaled", "k_t"], ["scores"], "qk"),
        ]
        scores = "scores"
    else:
        nodes += [
            node("MatMul", ["q", "k_t"], ["product"], "qk"),
            node(scaling, ["product", "scale"], ["scores"], "scale"),
        ]
        scores = "scores"
    if mask:
        inputs["keep"] = [1, length]
        constants |= {"one": 1.0, "lowest": mask}
        nodes += [
            node("Sub", ["one", "keep"], ["dropped"], "invert"),
            node("Mul", ["dropped", "lowest"], ["mask"], "mask"),
            node("Add", ["scores", "mask"], ["masked"], "add_mask"),
        ]
        scores = "masked"
    nodes += [
        node("Softmax", [scores], ["weights"], "softmax", axis=-1),
        node("MatMul", ["weights", "v"], ["y"], "pv"),
    ]
    return model(nodes, inputs, {"y": [length, width]}, constants, opset)


@builder(width=8, native=True, opset=17, branch=0.5)
def residual_block(width: int, native: bool, opset: int, branch: float) -> onnx.ModelProto:
    """x + x W, W = `branch` times the identity, and a LayerNormalization of the sum."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "weight"], ["delta"], "ffn"),
        node("Add", ["x", "delta"], ["sum"], "residual"),
        node("LayerNormalization", ["sum", "scale"], ["y"], "norm", axis=-1),
    ]
    constants = {"weight": np.eye(width, dtype=np.float32) * np.float32(branch), "scale": np.ones(width, np.float32)}
    return model(nodes, {"x": ["rows", width]}, {"y": ["rows", width]}, constants, opset)


@builder(layers=4, width=16, growth=9000.0, pre_norm=True, opset=17)
def residual_stack(layers: int, width: int, growth: float, pre_norm: bool, opset: int) -> onnx.ModelProto:
    """Layers x + relu(norm(x) U) D, the norm before the branch or behind the sum; D adds up to `growth` a layer."""
    node = helper.make_node
    rng = np.random.default_rng(7)
    constants: dict[str, Any] = {"up": rng.normal(0.0, 0.25, (width, 2 * width)).astype(np.float32)}
    nodes, stream = [], "x"
    for at in range(layers):
        read = stream
        if pre_norm:
            read = f"normed_{at}"
            nodes.append(node("LayerNormalization", [stream, f"scale_{at}"], [read], f"norm_{at}", axis=-1))
        nodes += [
            node("MatMul", [read, "up"], [f"wide_{at}"], f"up_{at}"),
            node("Relu", [f"wide_{at}"], [f"active_{at}"], f"relu_{at}"),
            node("MatMul", [f"active_{at}", f"down_{at}"], [f"delta_{at}"], f"down_{at}"),
            node("Add", [stream, f"delta_{at}"], [f"sum_{at}"], f"residual_{at}"),
        ]
        stream = f"sum_{at}"
        if not pre_norm:
            stream = f"normed_{at}"
            nodes.append(node("LayerNormalization", [f"sum_{at}", f"scale_{at}"], [stream], f"norm_{at}", axis=-1))
        constants[f"scale_{at}"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        constants[f"down_{at}"] = rng.normal(0.0, growth, (2 * width, width)).astype(np.float32)
    nodes.append(node("LayerNormalization", [stream, "scale_0"], ["y"], "last", axis=-1))
    return model(nodes, {"x": ["rows", width]}, {"y": ["rows", width]}, constants, opset)


@builder(width=8, scale=400.0, opset=17)
def overflowing_ffn(width: int, scale: float, opset: int) -> onnx.ModelProto:
    """A layer whose output passes 65504 where its input does not: x W, scaled down again behind a bias."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "weight"], ["wide"], "up"),
        node("Add", ["wide", "bias"], ["biased"], "bias"),
        node("MatMul", ["biased", "back"], ["y"], "down"),
    ]
    constants = {
        "weight": np.eye(width, dtype=np.float32) * np.float32(scale),
        "bias": np.full(width, 100.0, np.float32),
        "back": np.eye(width, dtype=np.float32) / np.float32(scale),
    }
    return model(nodes, {"x": ["rows", width]}, {"y": ["rows", width]}, constants, opset)


@builder(positions=4096, width=8, opset=17, cast=True)
def rotary_table(positions: int, width: int, opset: int, cast: bool) -> onnx.ModelProto:
    """The angles of rotary embedding as Llama computes them: positions times inverse frequencies, Cos and Sin."""
    node = helper.make_node
    nodes = [
        node("Range", ["zero", "count", "step"], ["position"], "range"),
        node("Unsqueeze", ["position", "last"], ["column"], "column"),
        node("MatMul", ["column", "frequencies"], ["angles"], "angles"),
        node("Cos", ["angles"], ["cosine"], "cos"),
        node("Mul", ["x", "cosine"], ["y"], "rotate"),
    ]
    frequencies = (10000.0 ** (-np.arange(width, dtype=np.float64) / width)).astype(np.float32).reshape(1, width)
    constants = {
        "zero": np.float32(0.0), "count": np.float32(positions), "step": np.float32(1.0),
        "last": np.array([1], np.int64), "frequencies": frequencies,
    }  # fmt: skip
    constants = {name: np.asarray(value) for name, value in constants.items()}
    return model(nodes, {"x": [positions, width]}, {"y": [positions, width]}, constants, opset)
