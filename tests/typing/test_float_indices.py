"""Positions past 2048 that are counted in floats: the rows that they look up stay the ones of FP32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.model import Model

F = np.float32
TABLE = ((np.arange(4096) * 7919) % 1009).astype(F).reshape(4096, 1)
"""Row i holds 7919 i mod 1009: neighbors differ by more than FP16's spacing below 1024."""

LOOKUP = [
    helper.make_node("Cast", ["p"], ["pi"], to=TensorProto.INT64),
    helper.make_node("Gather", ["table", "pi"], ["e"]),
    helper.make_node("Mul", ["e", "one"], ["y"]),
]


def info(name: str, element: int = TensorProto.FLOAT, shape: list[object] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def model_of(
    nodes: list[onnx.NodeProto],
    given: onnx.ValueInfoProto,
    constants: dict[str, np.ndarray] | None = None,
    function: onnx.FunctionProto | None = None,
) -> Model:
    values = {"table": TABLE, "one": F(1), **(constants or {})}
    graph = helper.make_graph(
        [*nodes, *LOOKUP],
        "g",
        [given],
        [info("y")],
        [numpy_helper.from_array(np.asarray(a), k) for k, a in values.items()],
    )
    imports = [helper.make_opsetid("", 17)] + ([helper.make_opsetid("my", 1)] if function else [])
    proto = helper.make_model(graph, opset_imports=imports, functions=[function] if function else [], ir_version=9)
    return Model.load(proto)


def cumulated() -> tuple[Model, dict[str, np.ndarray], np.ndarray]:
    mask = np.zeros((1, 4096), np.int64)
    mask[0, :3001] = 1
    model = model_of(
        [
            helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("CumSum", ["m", "axis"], ["c"]),
            helper.make_node("Sub", ["c", "one"], ["d"]),
            helper.make_node("Relu", ["d"], ["p"]),
        ],
        info("mask", TensorProto.INT64, ["b", "s"]),
        {"axis": np.array(1)},
    )
    return model, {"mask": mask}, np.maximum(np.cumsum(mask, 1) - 1, 0)


def counted_by_a_loop() -> tuple[Model, dict[str, np.ndarray], np.ndarray]:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["co"]), helper.make_node("Add", ["s", "one"], ["s2"])],
        "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("s", shape=[])],
        [info("co", TensorProto.BOOL, []), info("s2", shape=[])],
    )
    model = model_of(
        [helper.make_node("Loop", ["trip", "", "zero"], ["p"], body=body)],
        info("trip", TensorProto.INT64, []),
        {"zero": F(0)},
    )
    return model, {"trip": np.array(3001)}, np.array(3001)


def counted_in_a_function() -> tuple[Model, dict[str, np.ndarray], np.ndarray]:
    function = helper.make_function(
        "my", "last", ["m"], ["r"],
        [
            helper.make_node("Constant", [], ["axis"], value=numpy_helper.from_array(np.array([1]))),
            helper.make_node("ReduceSum", ["m", "axis"], ["n"], keepdims=0),
            helper.make_node("Constant", [], ["i"], value=numpy_helper.from_array(F(1))),
            helper.make_node("Sub", ["n", "i"], ["r"]),
        ],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    mask = np.zeros((1, 4096), np.int64)
    mask[0, :2999] = 1
    model = model_of(
        [
            helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("last", ["m"], ["p"], domain="my"),
        ],
        info("mask", TensorProto.INT64, ["b", "s"]),
        function=function,
    )
    return model, {"mask": mask}, np.array([2998])


def chosen_by_a_branch() -> tuple[Model, dict[str, np.ndarray], np.ndarray]:
    def branch(name: str, nodes: list[onnx.NodeProto], out: str) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [info(out, shape=[1])])

    node = helper.make_node(
        "If", ["flag"], ["p"],
        then_branch=branch("then", [helper.make_node("Sub", ["f", "one"], ["t"])], "t"),
        else_branch=branch("else", [helper.make_node("Add", ["f", "one"], ["u"])], "u"),
    )  # fmt: skip
    model = model_of(
        [
            helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["n"], ["flag0"], to=TensorProto.BOOL),
            helper.make_node("Squeeze", ["flag0"], ["flag"]),
            node,
        ],
        info("n", TensorProto.INT64, [1]),
    )
    return model, {"n": np.array([3000])}, np.array([2999])


@pytest.mark.parametrize("case", [cumulated, counted_by_a_loop, counted_in_a_function, chosen_by_a_branch])
def test_rows_past_2048_are_the_right_ones(case) -> None:  # type: ignore[no-untyped-def]
    model, feeds, rows = case()
    result = pp.rewrite(model, verify=False)
    assert result.report["kept_fp32"]
    got = pp.simulate(result.model, feeds)["y"]
    np.testing.assert_array_equal(got, TABLE[rows])


def test_an_angle_of_a_network_is_no_index() -> None:
    """What a product makes is a network's own, even where it is looked up by later."""
    proto = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "w"], ["h"]),
                helper.make_node("Floor", ["h"], ["p"]),
                *LOOKUP,
            ],
            "g",
            [info("x", shape=[2, 4])],
            [info("y")],
            [
                numpy_helper.from_array(a, k)
                for k, a in {"table": TABLE, "one": np.array(1, F), "w": np.ones((4, 2), F)}.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    kept = {entry["node"] for entry in pp.rewrite(Model.load(proto), verify=False).report["kept_fp32"]}
    assert "MatMul(h)" not in kept
    assert "Floor(p)" in kept
