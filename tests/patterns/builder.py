"""A small graph writer for tests: each call adds a node and returns its output's name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

ELEM = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
}


@dataclass
class Graph:
    opset: int = 13
    style: str = "initializer"
    """How scalar constants are written: initializer, constant, value_float, value_floats, shared."""
    identities: frozenset[int] = frozenset()
    """Numbers of the nodes whose output goes through an Identity."""
    prefix: str = ""
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)
    count: int = 0

    def name(self, base: str) -> str:
        self.count += 1
        return f"{self.prefix}{base}_{self.count}"

    def op(self, op_type: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any) -> str:
        out = output or self.name(op_type)
        number = len(self.nodes)
        name = f"/norm/{self.prefix}{op_type}_{number}"
        if number in self.identities and not output and not domain:
            self.nodes.append(helper.make_node(op_type, list(inputs), [out], name, **attributes))
            return self.op("Identity", out)
        self.nodes.append(helper.make_node(op_type, list(inputs), [out], name, domain=domain or None, **attributes))
        return out

    def const(self, array: np.ndarray, style: str | None = None, name: str = "") -> str:
        style, name = style or self.style, name or self.name("const")
        array = np.asarray(array)
        if style == "value_float" and array.ndim == 0 and array.dtype == np.float32 and self.opset >= 12:
            self.nodes.append(helper.make_node("Constant", [], [name], value_float=float(array)))
        elif style == "value_floats" and array.ndim <= 1 and array.dtype == np.float32 and self.opset >= 12:
            values = [float(v) for v in array.reshape(-1)]
            self.nodes.append(helper.make_node("Constant", [], [name], value_floats=values))
        elif style in ("constant", "value_float", "value_floats"):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def scalar(self, value: float, dtype: str = "float32", shape: tuple[int, ...] = ()) -> str:
        return self.const(np.full(shape, value, dtype))

    def input(self, name: str, shape: tuple[int | str | None, ...], dtype: str = "float32") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, ELEM[dtype], list(shape)))
        return name

    def output(self, name: str, dtype: str = "float32", shape: tuple[int | str, ...] | None = None) -> None:
        value = ValueInfoProto(name=name)
        value.type.tensor_type.elem_type = ELEM[dtype]
        if shape is not None:
            value.CopyFrom(helper.make_tensor_value_info(name, ELEM[dtype], list(shape)))
        self.outputs.append(value)

    def reduce(self, op_type: str, x: str, axes: tuple[int, ...], *, keepdims: int | None = None) -> str:
        attributes: dict[str, Any] = {} if keepdims is None else {"keepdims": keepdims}
        if self.opset >= (13 if op_type == "ReduceSum" else 18):
            return self.op(op_type, x, self.const(np.array(axes, np.int64), "initializer"), **attributes)
        return self.op(op_type, x, axes=list(axes), **attributes)

    def unsqueeze(self, x: str, axes: tuple[int, ...]) -> str:
        if self.opset >= 13:
            return self.op("Unsqueeze", x, self.const(np.array(axes, np.int64), "initializer"))
        return self.op("Unsqueeze", x, axes=list(axes))

    def cast(self, x: str, dtype: str) -> str:
        return self.op("Cast", x, to=ELEM[dtype])

    def graph(self, name: str = "g") -> onnx.GraphProto:
        return helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.initializers)

    def model(self, functions: list[onnx.FunctionProto] | None = None, domain: str = "") -> onnx.ModelProto:
        imports = [helper.make_opsetid("", self.opset)]
        if domain:
            imports.append(helper.make_opsetid(domain, 1))
        if functions:
            imports.append(helper.make_opsetid("local", 1))
        model = helper.make_model(self.graph(), opset_imports=imports, functions=functions or [])
        least = helper.OP_SET_ID_VERSION_MAP[("ai.onnx", self.opset)]
        model.ir_version = max(least, 8 if functions else 4)
        inferred = onnx.shape_inference.infer_shapes(model)
        for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
            if found.type.tensor_type.HasField("shape"):
                value.type.CopyFrom(found.type)
        return model
