"""Small models with float tensors in every place that ONNX has for them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name: str, shape: list[int | str], elem_type: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, shape)


def constant(output: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [output], name=f"Constant({output})", value=tensor(array))


def tensor(array: np.ndarray, name: str = "") -> TensorProto:
    array = np.asarray(array)
    if array.dtype == np.dtype(ml_dtypes.bfloat16):
        raw = array.view(np.uint16).tobytes()
        return TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=array.shape, raw_data=raw)
    return numpy_helper.from_array(array, name)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    weights = [tensor(array, name) for name, array in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions or [])


def everywhere(rng: np.random.Generator) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model with a float tensor in every place, and what the census has to find: name -> values."""

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.01).astype(np.float32)

    found = {
        "w": weights(64, 64),
        "double": weights(8, 8).astype(np.float64) * 1e-6,
        "half": weights(40, 40).astype(np.float16),
        "brain": weights(8, 64).astype(ml_dtypes.bfloat16),
        "big_constant": weights(32, 64),
        "value_float": np.float32(1e-12),
        "value_floats": np.array([1, 2, 3e-6], np.float32),
        "in_then": weights(64),
        "then_constant": weights(300),
        "else_constant": np.array(7e4, np.float32),
        "in_function": weights(64) * np.float32(1e-5),
        "sparse": np.array([1e-7, 2.0, 3e5], np.float32),
        "sparse_constant": np.array([1e-3, -4e-9], np.float32),
        "filled": np.array([-3.4e38], np.float32),
    }
    indices = numpy_helper.from_array(np.array([0, 5, 9], np.int64), "sparse_indices")
    sparse = helper.make_sparse_tensor(tensor(found["sparse"], "sparse"), indices, [64])
    few = helper.make_sparse_tensor(
        tensor(found["sparse_constant"], "v"), numpy_helper.from_array(np.array([1, 2], np.int64), "i"), [64]
    )
    then = helper.make_graph(
        [
            constant("then_constant", found["then_constant"]),
            helper.make_node("Mul", ["x", "in_then"], ["scaled"]),
            helper.make_node("Identity", ["scaled"], ["then_out"]),
        ],
        "then",
        [],
        [value("then_out", ["N", 64])],
        [tensor(found["in_then"], "in_then")],
    )
    otherwise = helper.make_graph(
        [
            constant("else_constant", found["else_constant"]),
            helper.make_node("Add", ["x", "else_constant"], ["else_out"]),
        ],
        "else",
        [],
        [value("else_out", ["N", 64])],
    )
    function = helper.make_function(
        "local",
        "Scale",
        ["a", "by"],
        ["b"],
        [
            constant("in_function", found["in_function"]),
            helper.make_node("Mul", ["a", "in_function"], ["c"]),
            helper.make_node("MatMul", ["c", "by"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        constant("big_constant", found["big_constant"]),
        helper.make_node("Constant", [], ["value_float"], value_float=1e-12),
        helper.make_node("Constant", [], ["value_floats"], value_floats=found["value_floats"].tolist()),
        helper.make_node("Constant", [], ["sparse_constant"], sparse_value=few),
        helper.make_node("ConstantOfShape", ["shape"], ["filled"], value=tensor(found["filled"])),
        helper.make_node("If", ["cond"], ["chosen"], then_branch=then, else_branch=otherwise),
        helper.make_node("Scale", ["chosen", "w"], ["projected"], domain="local"),
        helper.make_node("Add", ["projected", "sparse"], ["sum"]),
        helper.make_node("Add", ["sum", "sparse_constant"], ["y"]),
    ]
    proto = model(
        nodes,
        [value("x", ["N", 64]), value("cond", [], TensorProto.BOOL)],
        [value("y", ["N", 64])],
        {name: found[name] for name in ("w", "double", "half", "brain")} | {"shape": np.array([3], np.int64)},
        functions=[function],
    )
    proto.graph.sparse_initializer.append(sparse)
    return proto, found


def attention(scale_on: str, factor: float, op: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Self-attention of one head whose scale stands on the scores, the query or the key.

    Args:
      scale_on: "scores", "query" or "key".
      factor: the constant.
      op: "Mul" or "Div".
      weights: wq, bq, wk, wv.
    """
    nodes = [
        constant("factor", np.array(factor, np.float32)),
        helper.make_node("MatMul", ["x", "wq"], ["q0"]),
        helper.make_node("Add", ["bq", "q0"], ["q1"]),
        helper.make_node("MatMul", ["x", "wk"], ["k0"]),
        helper.make_node("Transpose", ["k0"], ["k1"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "wv"], ["v"]),
    ]
    names = {"query": "q1", "key": "k1", "scores": "s"}
    after = {"query": "q2", "key": "k2", "scores": "scaled"}
    apply = helper.make_node(op, [names[scale_on], "factor"], [after[scale_on]], name="scale")
    query, key = (after[side] if side == scale_on else names[side] for side in ("query", "key"))
    product = helper.make_node("MatMul", [query, key], ["s"], name="scores")
    nodes += [product, apply] if scale_on == "scores" else [apply, product]
    nodes += [
        helper.make_node("Add", ["scaled" if scale_on == "scores" else "s", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    width = weights["wq"].shape[0]
    inputs = [value("x", ["N", "S", width]), value("mask", ["N", 1, "S"])]
    return model(nodes, inputs, [value("y", ["N", "S", width])], weights)
