"""Models for the tests of the model area: every place where ONNX can hold a tensor, in every encoding."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

PLACES = ("initializer", "constant", "subgraph", "function", "sparse", "sparse_attribute")
ENCODINGS = ("raw_float", "float_data", "double_data", "int64_data", "half_int32", "bool_int32", "uint64_data")


def encoded(name: str, encoding: str, count: int, seed: int = 0) -> tuple[TensorProto, np.ndarray]:
    """A tensor of `count` elements in one of protobuf's encodings, and its values as numpy has them."""
    rng = np.random.default_rng(seed)
    match encoding:
        case "raw_float":
            values = rng.standard_normal(count).astype(np.float32)
            return numpy_helper.from_array(values, name), values
        case "float_data":
            values = rng.standard_normal(count).astype(np.float32)
            return helper.make_tensor(name, TensorProto.FLOAT, [count], values.tolist()), values
        case "double_data":
            values = rng.standard_normal(count)
            return helper.make_tensor(name, TensorProto.DOUBLE, [count], values.tolist()), values
        case "int64_data":
            values = rng.integers(-(2**62), 2**62, count)
            return helper.make_tensor(name, TensorProto.INT64, [count], values.tolist()), values
        case "uint64_data":
            values = rng.integers(0, 2**64, count, dtype=np.uint64, endpoint=False)
            return helper.make_tensor(name, TensorProto.UINT64, [count], values.tolist()), values
        case "half_int32":
            values = rng.standard_normal(count).astype(np.float16)
            tensor = TensorProto(name=name, dims=[count], data_type=TensorProto.FLOAT16)
            tensor.int32_data.extend(values.view(np.uint16).tolist())
            return tensor, values
        case "bool_int32":
            values = rng.integers(0, 2, count).astype(bool)
            tensor = TensorProto(name=name, dims=[count], data_type=TensorProto.BOOL)
            tensor.int32_data.extend(values.astype(int).tolist())
            return tensor, values
    raise AssertionError(encoding)


def holding(tensor: TensorProto, place: str) -> onnx.ModelProto:
    """A model that holds `tensor` in one of `PLACES` (structure only; it need not run)."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"], name="keep", doc_string="kept")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, 3])],
        doc_string="graph doc",
    )
    functions = []
    sparse_dims = [4 * tensor.dims[0]] if tensor.dims else [1]
    indices = numpy_helper.from_array(np.arange(int(np.prod(tensor.dims)), dtype=np.int64), "indices")
    match place:
        case "initializer":
            graph.initializer.append(tensor)
        case "constant":
            graph.node.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        case "subgraph":
            held = helper.make_tensor_value_info(tensor.name, tensor.data_type, None)
            body = helper.make_graph([], "body", [], [held], initializer=[tensor])
            graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
            graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body))
        case "function":
            node = helper.make_node("Constant", [], ["k"], value=tensor)
            functions.append(helper.make_function("local", "F", ["a"], ["k"], [node], [helper.make_opsetid("", 17)]))
        case "sparse":
            graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, sparse_dims))
        case "sparse_attribute":
            sparse = helper.make_sparse_tensor(tensor, indices, sparse_dims)
            attribute = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
            attribute.sparse_tensor.CopyFrom(sparse)
            node = helper.make_node("Constant", [], ["k"])
            node.attribute.append(attribute)
            graph.node.append(node)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, functions=functions)
    helper.set_model_props(model, {"author": "test", "tätigkeit": "prüfen"})
    annotation = graph.quantization_annotation.add()
    annotation.tensor_name = "x"
    return model


def body_of(nodes: list[onnx.NodeProto], outputs: list[str], name: str = "body") -> onnx.GraphProto:
    """A body without inputs that returns `outputs` (float, shape unknown)."""
    infos = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs]
    return helper.make_graph(nodes, name, [], infos)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str | None]],
    outputs: list[str],
    initializers: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A float model from its nodes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (initializers or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
