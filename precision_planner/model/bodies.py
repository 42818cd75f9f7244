"""The bodies of a node: the graphs that its attributes hold; and every graph of a model."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

__all__ = ["bodies_of", "graphs_of", "held_by"]


def held_by(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """The graphs that one attribute holds."""
    return [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs)


def bodies_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds."""
    return [body for attribute in node.attribute for body in held_by(attribute)]


def graphs_of(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Every graph of a model: the main one, functions, and the bodies inside of both."""
    stack: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            stack += bodies_of(node)
