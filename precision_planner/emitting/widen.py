"""A typed model back in FP32 types: what a comparison with plain FP16 starts from."""

from __future__ import annotations

from onnx import GraphProto, TensorProto

from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.model.bodies import bodies_of
from precision_planner.model.edit import Container, set_nodes
from precision_planner.transforms.single import make_single

_LOW = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_FLOATS = _LOW | {TensorProto.FLOAT}


def widen(model: Model) -> Model:
    """The model with every FLOAT16 and BFLOAT16 as FLOAT, and without the Casts between these three.

    Exact: every 16-bit value is a float32 value; weights are widened while they are read. Values keep their names but
    where a Cast went: its readers read what it cast.
    """
    casts = _no_longer_needed(model)
    proto = model.edit()
    weights = make_single(proto, model, _LOW)
    for info in (*proto.graph.input, *proto.graph.output):
        if info.type.tensor_type.elem_type in _LOW:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    for scope in reversed(GraphIndex(proto).scopes):  # bodies first: nodes are copied
        if scope.kind != "function":
            _drop(scope.container, casts)
    return model.with_proto(proto, weights)


def _no_longer_needed(model: Model) -> dict[str, str]:
    """Output of a Cast between floats -> what it casts, for Casts of graphs (not of functions)."""
    types = infer_types(model)
    found: dict[str, str] = {}

    def walk(graph: GraphProto) -> None:
        outputs = {info.name for info in graph.output}
        for node in graph.node:
            for body in bodies_of(node):
                walk(body)
            if node.op_type != "Cast" or node.domain or node.output[0] in outputs:
                continue
            target = next(attribute.i for attribute in node.attribute if attribute.name == "to")
            source = elements.get(node.input[0], 0)
            if target in _FLOATS and source in _FLOATS:
                found[node.output[0]] = node.input[0]

    elements = {value: kind.elem_type for (_, value), kind in types.items()}
    walk(model.proto.graph)
    return found


def _drop(graph: Container, casts: dict[str, str]) -> None:
    kept = [node for node in graph.node if not (node.op_type == "Cast" and node.output[0] in casts)]
    for node in kept:
        for index, name in enumerate(node.input):
            while name in casts:
                name = casts[name]
            node.input[index] = name
    if len(kept) != len(graph.node):
        set_nodes(graph, kept)
