"""No Cast that could be done without, read off the graph: whatever the Casts are called."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto

import precision_planner as pp
from precision_planner.errors import ConversionError, SelectorError
from precision_planner.model import GraphIndex
from precision_planner.rules.language.builders import BUILDERS

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
KEEPS = ((), ("softmax",), ("gemm",), ("residual", "Add"), ("*",))


def casts(proto: onnx.ModelProto):
    """(scope, node, target) of every Cast between floats."""
    index = GraphIndex(proto)
    for scope, _, node in index.nodes():
        to = next((a.i for a in node.attribute if a.name == "to"), 0)
        if node.op_type == "Cast" and to in FLOATS:
            yield scope, node, to


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("keep", KEEPS, ids=["nothing", "softmax", "gemm", "residual", "all"])
def test_no_cast_is_redundant(name: str, keep: tuple[str, ...]) -> None:
    made = BUILDERS[name]
    model = made.build(**made.parameters)
    try:
        proto = pp.rewrite(model, keep_fp32=keep, verify=False).model
    except (SelectorError, ConversionError):  # the model has none of it, or nothing is left to convert
        return
    before = {tuple(node.output) for _, node, _ in casts(model)}
    seen: set[tuple[tuple[str, ...], str, int]] = set()
    index = GraphIndex(proto)
    for scope, node, to in casts(proto):
        if tuple(node.output) in before:
            continue
        key = (scope.path, node.input[0], to)
        assert key not in seen, f"{node.input[0]} is cast to {to} twice"
        seen.add(key)
        maker = scope.producer_node(node.input[0])
        back = maker is not None and maker.op_type == "Cast" and tuple(maker.output) not in before
        assert not back, f"{node.input[0]} is a Cast's result that is cast again"
        assert scope.consumers(node.output[0]) or node.output[0] in scope.outputs, f"nobody reads {node.output[0]}"
    assert index.scopes
