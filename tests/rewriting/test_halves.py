"""Models that hold halves already, masks of -inf, and bodies whose types stay."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp

HALF, FLOAT, BRAIN = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.BFLOAT16
rng = np.random.default_rng(0)
W = rng.standard_normal((8, 8)).astype(np.float16)
X = rng.standard_normal((4, 8)).astype(np.float16)


def info(name: str, element: int = FLOAT, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, [4, 8] if shape is None else shape)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def relu_of_product() -> np.ndarray:
    return np.maximum(X.astype(np.float64) @ W.astype(np.float64), 0)


def test_an_fp16_model_becomes_bf16() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model = model_of(nodes, [info("x", HALF)], [info("y", HALF)], {"w": W})
    result = pp.rewrite(model, precision="bf16", verify=False).model
    onnx.checker.check_model(result, full_check=True)
    assert types(result) == {"w": BRAIN}
    assert result.graph.input[0].type.tensor_type.elem_type == HALF
    got = pp.simulate(result, {"x": X})["y"].astype(np.float64)
    assert np.linalg.norm(got - relu_of_product()) < 2.0**-7 * np.linalg.norm(relu_of_product())


def test_weights_stored_half_are_read_as_they_are() -> None:
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    result = pp.rewrite(model_of(nodes, [info("x")], [info("y")], {"w": W}), verify=False).model
    product = next(node for node in result.graph.node if node.op_type == "MatMul")
    assert product.input[1] == "w"
    np.testing.assert_array_equal(numpy_helper.to_array(result.graph.initializer[0]), W)


def test_a_half_interface_around_fp32_is_no_mixed_model() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=FLOAT),
        helper.make_node("MatMul", ["wide", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=HALF),
    ]
    model = model_of(nodes, [info("x", HALF)], [info("y", HALF)], {"w": W.astype(np.float32)})
    result = pp.rewrite(model, verify=False)
    assert types(result.model) == {"w": HALF}
    assert not result.report["kept_fp32"]


def test_what_is_cast_up_amid_halves_still_stays() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Cast", ["h"], ["wide"], to=FLOAT),
        helper.make_node("Exp", ["wide"], ["e"]),
        helper.make_node("Cast", ["e"], ["y"], to=HALF),
    ]
    model = model_of([*nodes], [info("x", HALF), info("z")], [info("y", HALF), info("u")], {"w": W})
    model.graph.node.append(helper.make_node("Neg", ["z"], ["u"]))
    kept = {entry["op_type"] for entry in pp.rewrite(model, verify=False).report["kept_fp32"]}
    assert "Exp" in kept
    assert "Neg" not in kept


def test_an_additive_mask_of_infinities_is_data_to_plan_on() -> None:
    q, k, v = (rng.standard_normal((8, 8)).astype(np.float32) for _ in range(3))
    mask = np.where(np.tril(np.ones((8, 8), bool)), 0, -np.inf).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Add", ["s", "mask"], ["sb"]),
        helper.make_node("Softmax", ["sb"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    model = model_of(
        nodes, [info(name, FLOAT, [8, 8]) for name in ("mask", "q", "k", "v")], [info("y", FLOAT, [8, 8])], {}
    )
    plan = pp.plan(model, inputs={"mask": mask, "q": q, "k": k, "v": v}, tolerance={"max_abs": 1e-2})
    assert plan.passed
    scores = q.astype(np.float64) @ k + mask
    weights = np.exp(scores - scores.max(1, keepdims=True))
    want = weights / weights.sum(1, keepdims=True) @ v
    got = pp.simulate(plan.model, {"mask": mask, "q": q, "k": k, "v": v})["y"]
    np.testing.assert_allclose(got, want, atol=1e-2)


def test_the_owner_of_a_body_that_stays_stays_too() -> None:
    decoder = helper.make_graph(
        [helper.make_node("MatMul", ["i", "wd"], ["logits"])], "decoder", [info("i", FLOAT, [1, 8])],
        [info("logits", FLOAT, [1, 8])], [numpy_helper.from_array(W.astype(np.float32), "wd")],
    )  # fmt: skip
    search = helper.make_node(
        "BeamSearch", ["ids", "most", "least", "beams", "many", "penalty"], ["seq", "", "score"],
        domain="com.microsoft", decoder=decoder, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Exp", ["z"], ["penalty"]),
        search,
        helper.make_node("Neg", ["score"], ["s"]),
    ]
    counts = {
        name: np.array([value], np.int32) for name, value in {"most": 5, "least": 1, "beams": 2, "many": 1}.items()
    }
    model = model_of(
        nodes,
        [info("x"), info("z", FLOAT, [1]), info("ids", TensorProto.INT32, [1, 4])],
        [info("y"), info("s", FLOAT, [1]), info("seq", TensorProto.INT32, [1, 2, 5])],
        {"w": W.astype(np.float32), **counts},
    )
    result = pp.rewrite(model, verify=False)
    reasons = {entry["op_type"]: entry["reason"] for entry in result.report["kept_fp32"]}
    assert "bodies" in reasons["BeamSearch"]
    inner = next(node for node in result.model.graph.node if node.op_type == "BeamSearch").attribute
    body = next(attribute.g for attribute in inner if attribute.name == "decoder")
    assert [tensor.data_type for tensor in body.initializer] == [FLOAT]
