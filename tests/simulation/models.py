"""Small models for the simulation's tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, FLOAT16, BFLOAT16, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT64


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Any]],
    outputs: dict[str, tuple[int, Any]],
    constants: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A checked model; inputs and outputs are name -> (element type, shape)."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    found = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))
    onnx.checker.check_model(found, full_check=True)
    return found


def chain(elem_type: int, *scales: float) -> onnx.ModelProto:
    """x * scale * scale * ..., typed."""
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    names = ["x", *(f"t{i}" for i in range(len(scales) - 1)), "y"]
    nodes = [helper.make_node("Mul", [names[i], f"k{i}"], [names[i + 1]], name=f"mul{i}") for i in range(len(scales))]
    constants = {f"k{i}": np.asarray(scale, dtype) for i, scale in enumerate(scales)}
    return model(nodes, {"x": (elem_type, ["n"])}, {"y": (elem_type, ["n"])}, constants)


def scan_behind(count: int) -> onnx.ModelProto:
    """`count` nodes, then a running sum by a Scan whose body names no shapes: onnxruntime infers them from outside."""
    elements = {name: helper.make_tensor_type_proto(FLOAT, None) for name in ("s", "v", "t", "u")}
    body = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["v", "first"], ["w"]),
            helper.make_node("Squeeze", ["w", "first"], ["r"]),
            helper.make_node("Add", ["s", "r"], ["t"]),
            helper.make_node("Identity", ["t"], ["u"]),
        ],
        "body",
        [helper.make_value_info(name, elements[name]) for name in ("s", "v")],
        [helper.make_value_info(name, elements[name]) for name in ("t", "u")],
    )
    names = ["x", *(f"n{at}" for at in range(count))]
    nodes = [helper.make_node("Neg", [names[at]], [names[at + 1]]) for at in range(count)]
    shape = [
        helper.make_node("Constant", [], ["first"], value_ints=[0]),
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Concat", ["sizes", "one"], ["target"], axis=0),
        helper.make_node("Identity", ["target"], ["wanted"]),
    ]
    nodes += [
        helper.make_node("Reshape", [names[-1], "wanted"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["start"], keepdims=0),
        helper.make_node("Scan", ["start", "rows"], ["last", "sums"], body=body, num_scan_inputs=1),
        helper.make_node("Squeeze", ["sums", "end"], ["y"]),
    ]
    constants = {"axis": np.array([0]), "end": np.array([-1]), "one": np.array([1])}
    return model([*shape, *nodes], {"x": (FLOAT, [3, 2])}, {"y": (FLOAT, [3, 2])}, constants)
