"""Every name and other text of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from precision_planner.model.bodies import held_by


def texts(proto: onnx.ModelProto) -> Iterator[Any]:
    """Every text of a model; str, or bytes where protobuf met what is not UTF-8."""
    yield from (proto.producer_name, proto.producer_version, proto.domain, proto.doc_string)
    yield from _pairs(proto.metadata_props)
    yield from (entry.domain for entry in proto.opset_import)
    yield from _graph_texts(proto.graph)
    for training in proto.training_info:
        yield from _graph_texts(training.initialization)
        yield from _graph_texts(training.algorithm)
    for function in proto.functions:
        yield from (function.name, function.domain, function.doc_string, *function.input, *function.output)
        yield from (*function.attribute, *(entry.domain for entry in function.opset_import))
        for info in function.value_info:
            yield from _info_texts(info)
        for attribute in function.attribute_proto:
            yield from _attribute_texts(attribute)
        for node in function.node:
            yield from _node_texts(node)


def _pairs(entries: Iterable[onnx.StringStringEntryProto]) -> Iterator[Any]:
    for entry in entries:
        yield entry.key
        yield entry.value


def _graph_texts(graph: GraphProto) -> Iterator[Any]:
    yield from (graph.name, graph.doc_string)
    yield from _pairs(graph.metadata_props)
    for info in (*graph.input, *graph.output, *graph.value_info):
        yield from _info_texts(info)
    for tensor in graph.initializer:
        yield from (tensor.name, tensor.doc_string)
        yield from _pairs(tensor.external_data)
    for sparse in graph.sparse_initializer:
        yield sparse.values.name
    for annotation in graph.quantization_annotation:
        yield annotation.tensor_name
        yield from _pairs(annotation.quant_parameter_tensor_names)
    for node in graph.node:
        yield from _node_texts(node)


def _info_texts(info: onnx.ValueInfoProto) -> Iterator[Any]:
    yield from (info.name, info.doc_string)
    if info.type.HasField("tensor_type"):
        for dim in info.type.tensor_type.shape.dim:
            yield dim.dim_param


def _node_texts(node: NodeProto) -> Iterator[Any]:
    yield from (node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output)
    yield from _pairs(node.metadata_props)
    for attribute in node.attribute:
        yield from _attribute_texts(attribute)


def _attribute_texts(attribute: AttributeProto) -> Iterator[Any]:
    yield from (attribute.name, attribute.ref_attr_name, attribute.doc_string)
    for body in held_by(attribute):
        yield from _graph_texts(body)
    if attribute.HasField("t"):
        yield attribute.t.name
