"""Collects nodes and initializers and makes the ModelProto; the two styles share it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .spec import CLASSES, BertSpec

Array = np.ndarray


class GraphParts:
    """Nodes in order, initializers by name, equal initializers known to each other."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, Array] = {}
        self._by_content: dict[tuple[object, ...], list[str]] = {}

    def share(self, name: str) -> str:
        """Add a parameter as an initializer, or return the name of an equal one that is there already.

        Exporters compare values, so one gamma of ones serves every LayerNorm of an untrained model.
        """
        value = self.weights[name]
        if name in self.initializers:
            return name
        key = (value.shape, zlib.crc32(value.data))
        for other in self._by_content.setdefault(key, []):
            if np.array_equal(self.initializers[other], value):
                return other
        self._by_content[key].append(name)
        self.initializers[name] = value
        return name

    def node(self, op_type: str, inputs: list[str], output: str, name: str, **attributes: object) -> str:
        """Append one node with one output and return the output's name."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output


def make_model(spec: BertSpec, parts: GraphParts, *, ir_version: int, producer_version: str) -> onnx.ModelProto:
    """Put the parts together; the weights' bytes are copied once, into ``raw_data``."""
    batch, sequence = "batch", "sequence"
    graph = helper.make_graph(
        parts.nodes,
        "main_graph",
        [helper.make_tensor_value_info("input", TensorProto.INT64, [batch, sequence])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES]),
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, [batch, CLASSES]),
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", spec.opset)],
        ir_version=ir_version,
        producer_name="pytorch",
        producer_version=producer_version,
    )
    for name, value in parts.initializers.items():
        tensor = model.graph.initializer.add(name=name, dims=value.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor.raw_data = np.ascontiguousarray(value).tobytes()
    return model


def constant_tensor(value: Array) -> onnx.TensorProto:
    """Return an unnamed tensor, as the TorchScript exporter puts into Constant nodes."""
    return numpy_helper.from_array(np.asarray(value))
