"""The walk along what hands values on, over bodies, functions and cycles."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from precision_planner.model import GraphIndex
from precision_planner.model.flow import Flow
from precision_planner.operators import ANYHOW, carries


def node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def index_of(
    nodes: list[onnx.NodeProto],
    inputs: str = "x",
    outputs: str = "y",
    functions: list[onnx.FunctionProto] | None = None,
) -> GraphIndex:
    graph = helper.make_graph(nodes, "g", [value(n) for n in inputs.split()], [value(n) for n in outputs.split()])
    return GraphIndex(helper.make_model(graph, functions=functions or []))


def reads(index: GraphIndex, name: str = "x") -> list[tuple[str, int]]:
    found, _ = Flow(index).readers(index.main, name)
    return sorted((read.node.op_type, read.slot) for read in found)


def origins(index: GraphIndex, name: str = "y") -> list[str]:
    return sorted(origin.value for origin in Flow(index).origins(index.main, name))


def graph(nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", [value(n) for n in inputs], [value(n) for n in outputs])


def test_chain_and_every_output_of_a_split() -> None:
    index = index_of(
        [
            node("Squeeze", ["x"], ["a"]),
            node("Split", ["a"], ["b", "c"]),
            node("MatMul", ["q", "b"], ["d"]),
            node("Relu", ["c"], ["e"]),
            node("Add", ["d", "e"], ["y"]),
        ],
        "x q",
    )
    assert reads(index) == [("MatMul", 1), ("Relu", 0)]
    assert origins(index, "c") == ["x"]


def test_an_index_is_not_handed_on_and_a_merge_only_where_it_is_asked_for() -> None:
    index = index_of([node("Gather", ["t", "x"], ["a"]), node("Concat", ["a", "b"], ["y"], axis=0)], "x t b")
    assert reads(index) == [("Gather", 1)]
    assert origins(index) == ["y"]
    found = Flow(index).origins(index.main, "y", lambda n, slot: carries(n, slot, ANYHOW))
    assert sorted(origin.value for origin in found) == ["b", "t"]


def test_another_domain_hands_nothing_on() -> None:
    index = index_of([node("Reshape", ["x", "s"], ["y"], domain="mine")], "x s")
    assert reads(index) == [("Reshape", 0)]


def test_branches() -> None:
    then = graph([node("Identity", ["x"], ["t"])], [], ["t"])
    other = graph([node("Neg", ["x"], ["e"])], [], ["e"])
    index = index_of([node("If", ["c"], ["z"], then_branch=then, else_branch=other), node("Exp", ["z"], ["y"])], "x c")
    assert reads(index) == [("Exp", 0), ("Neg", 0)]
    assert origins(index, "z") == ["e", "x"]


def test_a_branch_that_returns_a_capture_directly() -> None:
    then = graph([], [], ["x"])
    other = graph([node("Neg", ["x"], ["e"])], [], ["e"])
    index = index_of([node("If", ["c"], ["z"], then_branch=then, else_branch=other), node("Exp", ["z"], ["y"])], "x c")
    assert reads(index) == [("Exp", 0), ("Neg", 0)]


def test_what_a_loop_carries() -> None:
    body = graph(
        [node("Identity", ["c"], ["co"]), node("Add", ["v", "v"], ["w"]), node("Identity", ["k"], ["kept"])],
        ["i", "c", "v", "k"],
        ["co", "w", "kept"],
    )
    index = index_of(
        [node("Loop", ["n", "c0", "x", "u"], ["y", "z"], body=body), node("Exp", ["z"], ["end"])], "x u n c0", "y end"
    )
    assert reads(index) == [("Add", 0), ("Add", 1)]
    # the sum comes back into the body and out of it
    assert reads(index, "u") == [("Exp", 0)]
    assert origins(index, "z") == ["u"]
    assert origins(index, "y") == ["w", "x"]


def test_what_a_scan_is_given() -> None:
    body = graph([node("Neg", ["s"], ["so"]), node("Identity", ["e"], ["eo"])], ["s", "e"], ["so", "eo"])
    index = index_of([node("Scan", ["x", "u"], ["y", "z"], body=body, num_scan_inputs=1)], "x u", "y z")
    assert reads(index) == [("Neg", 0)]
    assert origins(index, "z") == ["u"]


def test_functions_and_their_calls() -> None:
    function = helper.make_function("f", "move", ["p"], ["q"], [node("Transpose", ["p"], ["q"])], [], [])
    index = index_of(
        [node("move", ["x"], ["a"], domain="f"), node("move", ["b"], ["d"], domain="f"), node("Exp", ["a"], ["y"]),
         node("Log", ["d"], ["z"])],
        "x b",
        "y z",
        [function],
    )  # fmt: skip
    # one body stands for every call, so what comes out of it may come from either
    assert reads(index) == [("Exp", 0), ("Log", 0)]
    assert origins(index, "a") == ["b", "x"]


def test_a_cycle_ends() -> None:
    index = index_of([node("Identity", ["b"], ["a"]), node("Identity", ["a"], ["b"]), node("Neg", ["a"], ["y"])])
    assert reads(index, "a") == [("Neg", 0)]
    assert origins(index, "a") == []


def test_a_value_that_the_model_returns() -> None:
    index = index_of([node("Identity", ["x"], ["y"])])
    assert Flow(index).readers(index.main, "x") == ([], True)


def test_maker_and_paths() -> None:
    index = index_of([node("Exp", ["x"], ["e"]), node("Cast", ["e"], ["f"], to=1), node("Reshape", ["f", "s"], ["y"])])
    flow = Flow(index)
    maker = flow.maker(index.main, "y")
    assert maker is not None
    assert maker.node is not None
    assert maker.node.op_type == "Exp"
    assert [read.position for read in flow.passed(index.main, "e")] == [1, 2]
