"""Random graphs of every kind of node, with a precision drawn for each; for property tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import GraphIndex, NodeId
from precision_planner.typing import Decision

UNARY = ("Exp", "Relu", "Identity", "Softmax", "Transpose", "Cast", "Sigmoid", "Celu", "MeanVarianceNormalization")
BINARY = ("Add", "Mul", "MatMul", "Concat", "Where", "Max")


@dataclass
class Drawn:
    model: onnx.ModelProto
    precisions: list[str]
    io_types: str


@st.composite
def graphs(draw: st.DrawFn) -> Drawn:
    """Square 4x4 values, every reader choosing any earlier value, captures of an If included."""
    values, nodes, precisions = ["x", "z"], [], []
    weights = {f"w{at}": np.full((4, 4), 0.25, np.float32) for at in range(draw(st.integers(1, 2)))}
    constants = list(weights)
    for at in range(draw(st.integers(1, 9))):
        name, pool = f"v{at}", values + constants
        kind = draw(st.sampled_from(("unary", "binary", "if", "constant")))
        if kind == "unary":
            op = draw(st.sampled_from(UNARY))
            source = draw(st.sampled_from(values))
            attributes = {"Cast": {"to": TensorProto.FLOAT}, "MeanVarianceNormalization": {"axes": [0]}}.get(op, {})
            nodes.append(helper.make_node(op, [source], [name], name=f"n{at}", **attributes))
        elif kind == "binary":
            op = draw(st.sampled_from(BINARY))
            left, right = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
            if op == "Where":
                nodes.append(helper.make_node("Greater", [left, right], [f"{name}_c"], name=f"n{at}_c"))
                nodes.append(helper.make_node("Where", [f"{name}_c", left, right], [name], name=f"n{at}"))
            elif op == "Concat":
                nodes.append(helper.make_node("Concat", [left, right], [f"{name}_c"], name=f"n{at}_c", axis=0))
                nodes.append(helper.make_node("Slice", [f"{name}_c", "from", "to"], [name], name=f"n{at}"))
            else:
                nodes.append(helper.make_node(op, [left, right], [name], name=f"n{at}"))
        elif kind == "constant":
            value = numpy_helper.from_array(np.full((4, 4), 0.5, np.float32), "")
            nodes.append(helper.make_node("Constant", [], [name], name=f"n{at}", value=value))
        else:
            left, right = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
            ops = [draw(st.sampled_from(("Exp", "Identity", "Celu"))) for _ in range(2)]
            bodies = [
                helper.make_graph(
                    [helper.make_node(op, [source], [f"{name}_b{side}"], name=f"n{at}_b{side}")],
                    f"b{side}",
                    [],
                    [helper.make_tensor_value_info(f"{name}_b{side}", TensorProto.FLOAT, [4, 4])],
                )
                for side, (op, source) in enumerate(zip(ops, (left, right), strict=True))
            ]
            nodes.append(
                helper.make_node("If", ["c"], [name], name=f"n{at}", then_branch=bodies[0], else_branch=bodies[1])
            )
        values.append(name)
    precisions = [draw(st.sampled_from(("", "", "", "fp32", "bf16", "fp16"))) for _ in range(40)]
    made = [node.output[0] for node in nodes if node.output[0] in values]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    floats = [(name, TensorProto.FLOAT) for name in ("x", "z")]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            *(helper.make_tensor_value_info(n, t, [4, 4]) for n, t in floats),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in outputs],
        [
            *(numpy_helper.from_array(array, name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([0], np.int64), "from"),
            numpy_helper.from_array(np.array([4], np.int64), "to"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Drawn(model, precisions, draw(st.sampled_from(("keep", "low", f"low={outputs[0]},x"))))


def decisions_of(drawn: Drawn, index: GraphIndex) -> dict[NodeId, Decision]:
    """The drawn precisions, node by node."""
    found = {}
    for number, (scope, position, _) in enumerate(index.nodes()):
        precision = drawn.precisions[number % len(drawn.precisions)]
        if precision:
            found[index.node_id(scope, position)] = Decision(precision, "drawn")  # type: ignore[arg-type]
    return found
