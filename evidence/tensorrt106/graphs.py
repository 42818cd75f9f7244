"""Short words for making ONNX models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

F, H, B = T.FLOAT, T.FLOAT16, T.BFLOAT16
node = helper.make_node


def cast(source: str, target: str, to: int) -> onnx.NodeProto:
    """A Cast, named after its output."""
    return node("Cast", [source], [target], to=to, name=f"cast_{target}")


def value(name: str, dtype: int, shape: Sequence[int]) -> onnx.ValueInfoProto:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, dtype, list(shape))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opset: int = 22,
    **initializers: Any,
) -> onnx.ModelProto:
    """A model; unnamed nodes are named after their output."""
    for one in nodes:
        one.name = one.name or f"{one.op_type}_{one.output[0]}"
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in initializers.items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def half(values: np.ndarray) -> np.ndarray:
    """Float32 values that FP16 holds exactly."""
    return values.astype(np.float16).astype(np.float32)
