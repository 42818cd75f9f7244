"""fp16+: halves summed in FP32, by the Cast sandwich with the bias outside."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from precision_planner import rewrite, simulate
from precision_planner.errors import ConversionError, SelectorError
from precision_planner.model import GraphIndex, Model
from precision_planner.typing import Decision, assign_types

RNG = np.random.default_rng(0)


def _value(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, T.FLOAT, shape)


def _model(nodes, inputs, outputs, opset=17, **weights) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _long_sum() -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    weight = (_normal(4096, 16) + 0.5) / 64
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    return _model([node], [_value("x", 8, 4096)], [_value("y", 8, 16)], w=weight), weight, _normal(8, 4096) + 0.5


def test_a_sandwich_is_simulated_with_fp32_sums_where_plain_halves_sum_in_fp16() -> None:
    model, weight, x = _long_sum()
    right = x.astype(np.float16).astype(np.float64) @ weight.astype(np.float16).astype(np.float64)

    def error(candidate: onnx.ModelProto) -> float:
        found = simulate(candidate, {"x": x}, accumulation="fp16")["y"]
        return float(np.linalg.norm(found - right) / np.linalg.norm(right))

    promised = rewrite(model, keep_sum32="product")
    assert error(promised.model) < 2**-11  # one rounding to half
    assert error(rewrite(model).model) > 2**-11
    assert [entry["node"] for entry in promised.report["kept_sum32"]] == ["product"]
    assert promised.report["converted"] == 1
    assert promised.report["work"]["fp16"] == 1


def test_weights_stay_halves_and_the_product_stands_between_casts() -> None:
    model, _, _ = _long_sum()
    typed = rewrite(model, keep_sum32="MatMul").model
    assert [t.data_type for t in typed.graph.initializer] == [T.FLOAT16]
    ops = [node.op_type for node in typed.graph.node]
    assert ops == ["Cast", "Cast", "Cast", "MatMul", "Cast", "Cast"]
    product = typed.graph.node[3]
    made = {node.output[0]: node for node in typed.graph.node}
    assert [helper.get_attribute_value(made[name].attribute[0]) for name in product.input] == [T.FLOAT, T.FLOAT]


@pytest.mark.parametrize(
    ("node", "weights", "shape"),
    [
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"]), {"w": _normal(6, 5), "b": _normal(5)}, (4, 6)),
        (helper.make_node("Conv", ["x", "w", "b"], ["y"]), {"w": _normal(5, 4, 3, 3), "b": _normal(5)}, (2, 4, 8, 8)),
        (helper.make_node("Conv", ["x", "w", "b"], ["y"]), {"w": _normal(5, 4, 3), "b": _normal(5)}, (2, 4, 8)),
        (
            helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2]),
            {"w": _normal(4, 5, 2, 2), "b": _normal(5)},
            (2, 4, 8, 8),
        ),
    ],
    ids=["Gemm", "Conv2d", "Conv1d", "ConvTranspose"],
)
def test_the_bias_stands_outside_in_half(node: onnx.NodeProto, weights: dict, shape: tuple[int, ...]) -> None:
    model = _model([node], [_value("x", *shape)], [helper.make_tensor_value_info("y", T.FLOAT, None)], **weights)
    result = rewrite(onnx.shape_inference.infer_shapes(model), keep_sum32="*")
    onnx.checker.check_model(result.model, full_check=True)
    index = GraphIndex(result.model)
    product = next(n for n in index.main.nodes if n.op_type == node.op_type)
    assert len(product.input) == 2
    add = next(n for n in index.main.nodes if n.op_type == "Add")
    assert index.main.producer_node(add.input[0]).op_type == "Cast"
    x = _normal(*shape)
    right = simulate(model, {"x": x}, keep_fp32=["*"])["y"]
    found = simulate(result.model, {"x": x}, accumulation="fp16")["y"]
    assert np.abs(found - right).max() < 0.02 * np.abs(right).max()


@pytest.mark.parametrize(("opset", "beta"), [(9, 1.0), (17, 0.5)])
def test_a_bias_that_cannot_stand_outside_stays_inside(opset: int, beta: float) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], beta=beta)
    model = _model([node], [_value("x", 4, 6)], [_value("y", 4, 5)], opset, w=_normal(6, 5), b=_normal(5))
    typed = rewrite(model, keep_sum32="Gemm").model
    onnx.checker.check_model(typed, full_check=True)
    assert next(len(n.input) for n in typed.graph.node if n.op_type == "Gemm") == 3
    assert not [n for n in typed.graph.node if n.op_type == "Add"]


def test_products_in_bodies_are_reached() -> None:
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"], name="inner")], "then", [], [_value("z", 4, 4)]
    )
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["i"])], "else", [], [_value("i", 4, 4)])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)
    given = [_value("x", 4, 4), helper.make_tensor_value_info("c", T.BOOL, [])]
    model = _model([node], given, [_value("y", 4, 4)], w=_normal(4, 4))
    result = rewrite(model, keep_sum32="inner")
    onnx.checker.check_model(result.model, full_check=True)
    body = next(
        a.g for n in result.model.graph.node if n.op_type == "If" for a in n.attribute if a.name == "then_branch"
    )
    made = {n.output[0]: n.op_type for n in body.node}
    product = next(n for n in body.node if n.op_type == "MatMul")
    assert [made[name] for name in product.input] == ["Cast", "Cast"]
    assert [n.op_type for n in body.node if product.output[0] in n.input] == ["Cast"]


def test_a_decision_is_simulated_without_being_written() -> None:
    model, _, x = _long_sum()
    loaded = Model.load(model)
    index = GraphIndex(loaded.proto)
    product = index.node_id(index.main, 0)
    right = simulate(model, {"x": x}, accumulation="fp32")["y"]

    def found(precision: str) -> np.ndarray:
        assignment = assign_types(loaded, {product: Decision(precision, "")})
        assert [typing.compute for typing in assignment.nodes.values()] == [precision]
        return simulate(model, {"x": x}, assignment=assignment, accumulation="fp16")["y"]

    assert np.array_equal(found("fp16+"), right)
    assert not np.array_equal(found("fp16"), right)


def test_what_sums_nothing_is_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    model = _model([node], [_value("x", 2)], [_value("y", 2)])
    with pytest.raises(SelectorError, match="names no product"):
        rewrite(model, keep_sum32="relu")
    with pytest.raises(ConversionError, match="sum in FP32"):
        rewrite(_long_sum()[0], precision="bf16", keep_sum32="MatMul")


@pytest.mark.rtx
@pytest.mark.parametrize("bias", [False, True])
def test_rtx_makes_one_half_kernel_of_it(bias: bool) -> None:
    from precision_planner.emitting.rtx import rtx_build

    nodes = [helper.make_node("MatMul", ["x", "w"], ["m" if bias else "y"])]
    weights = {"w": _normal(256, 128) / 16}
    if bias:
        nodes.append(helper.make_node("Add", ["m", "b"], ["y"]))
        weights["b"] = _normal(128)
    model = _model(nodes, [_value("x", 64, 256)], [_value("y", 64, 128)], **weights)
    built = rtx_build(rewrite(model, keep_sum32="MatMul", io_types="low").typed)
    assert built.ok
    assert built.kernels is not None
    (kernel,) = built.kernels
    assert {t.dtype for t in (*kernel.inputs, *kernel.outputs)} == {"Half"}
