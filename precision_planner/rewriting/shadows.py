"""Values of bodies that have the name of a value outside: renamed where both are typed.

ONNX wants names to be unique through a graph and its bodies; optimum's merged decoders name the outputs of an If and of
its branches alike. Type inference then takes one for the other, and refuses the graph where their types differ.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence

import onnx
from onnx import AttributeProto, GraphProto

from precision_planner.model.names import FreshNames

__all__ = ["separate_names"]


def separate_names(proto: onnx.ModelProto, names: FreshNames) -> int:
    """Rename, in place, what nodes of a body make under a name that is one outside.

    Args:
      proto: the model.
      names: of new values.

    Returns:
      How many values were renamed.
    """
    return _separate_bodies(proto.graph, _made(proto.graph) | _given(proto.graph), names)


def _separate_bodies(graph: GraphProto, outside: set[str], names: FreshNames) -> int:
    count = 0
    for node in graph.node:
        for attribute in node.attribute:
            for body in _bodies(attribute):
                shadows = {name: names.fresh(name) for name in sorted(_made(body) & outside)}
                if shadows:
                    _rename(body, shadows)
                    count += len(shadows)
                count += _separate_bodies(body, outside | _made(body) | _given(body), names)
    return count


def _rename(body: GraphProto, shadows: Mapping[str, str]) -> None:
    """Under new names what a body's nodes make, wherever it or a body within it reads them."""
    for node in body.node:
        _swap(node.input, shadows)
        _swap(node.output, shadows)
        for attribute in node.attribute:
            for inner in _bodies(attribute):
                own = _made(inner) | _given(inner)
                _rename_reads(inner, {old: new for old, new in shadows.items() if old not in own})
    for value in (*body.output, *body.value_info):
        value.name = shadows.get(value.name, value.name)
    for annotation in body.quantization_annotation:
        annotation.tensor_name = shadows.get(annotation.tensor_name, annotation.tensor_name)


def _rename_reads(body: GraphProto, shadows: Mapping[str, str]) -> None:
    for node in body.node:
        _swap(node.input, shadows)
        for attribute in node.attribute:
            for inner in _bodies(attribute):
                own = _made(inner) | _given(inner)
                _rename_reads(inner, {old: new for old, new in shadows.items() if old not in own})
    for value in body.output:
        value.name = shadows.get(value.name, value.name)


def _swap(names: MutableSequence[str], shadows: Mapping[str, str]) -> None:
    for at, name in enumerate(names):
        if name in shadows:
            names[at] = shadows[name]


def _bodies(attribute: AttributeProto) -> list[GraphProto]:
    if attribute.type == AttributeProto.GRAPH:
        return [attribute.g]
    return list(attribute.graphs) if attribute.type == AttributeProto.GRAPHS else []


def _made(graph: GraphProto) -> set[str]:
    return {name for node in graph.node for name in node.output if name}


def _given(graph: GraphProto) -> set[str]:
    return {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
