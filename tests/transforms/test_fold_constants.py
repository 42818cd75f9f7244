"""Products of constants are computed once, in FP32, and rounded once: DeBERTa's projected relative positions."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.model import Model
from precision_planner.transforms.fold_constants import fold_constants

F = np.float32
rng = np.random.default_rng(0)
TABLE = rng.standard_normal((12, 16)).astype(F)
W = rng.standard_normal((16, 8)).astype(F)
B = rng.standard_normal(8).astype(F)
X = rng.standard_normal((5, 8)).astype(F)


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int], **graph: object) -> Model:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(a), k) for k, a in constants.items()],
        **graph,
    )
    return Model.load(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def relative() -> Model:
    return model_of(
        [
            helper.make_node("LayerNormalization", ["table", "one", "zero"], ["n"]),
            helper.make_node("MatMul", ["n", "w"], ["p"]),
            helper.make_node("Add", ["p", "b"], ["k"]),
            helper.make_node("Transpose", ["k"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["y"]),
        ],
        {"table": TABLE, "one": np.ones(16, F), "zero": np.zeros(16, F), "w": W, "b": B},
        [5, 12],
    )


def keys() -> np.ndarray:
    wide = TABLE.astype(np.float64)
    normal = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    return normal @ W.astype(np.float64) + B


def test_the_constant_part_becomes_one_weight() -> None:
    folded = fold_constants(relative())
    assert folded.values == ("t",)
    graph = folded.model.to_proto().graph
    assert [node.op_type for node in graph.node] == ["MatMul"]
    assert [tensor.name for tensor in graph.initializer] == ["t"]
    np.testing.assert_allclose(numpy_helper.to_array(graph.initializer[0]), keys().T, rtol=1e-4, atol=1e-5)


def test_it_is_rounded_once() -> None:
    result = pp.rewrite(relative(), verify=False)
    stored = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    wide = keys().T.astype(F)
    np.testing.assert_allclose(stored["t"].astype(F), wide, rtol=2.0**-11, atol=2e-6)
    got = pp.simulate(result.model, {"x": X})["y"]
    np.testing.assert_allclose(got, X.astype(np.float64) @ keys().T, rtol=5e-3, atol=2e-2)


def test_what_only_moves_or_scales_constants_stays() -> None:
    model = model_of(
        [
            helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
            helper.make_node("Mul", ["t", "half"], ["s"]),
            helper.make_node("MatMul", ["x", "s"], ["y"]),
        ],
        {"w": rng.standard_normal((4, 8)).astype(F), "half": F(0.5)},
        [5, 4],
    )
    assert fold_constants(model).model is model


def test_what_a_caller_may_replace_stays() -> None:
    model = relative()
    proto = model.to_proto()
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 8]))
    replaceable = Model.load(proto)
    assert fold_constants(replaceable).values in ((), ("n",))
    assert "w" in {tensor.name for tensor in fold_constants(replaceable).model.to_proto().graph.initializer}


def test_the_weights_beside_it_stay() -> None:
    """A constant that other nodes read too is not taken away with what it was folded into."""
    model = relative()
    proto = model.to_proto()
    proto.graph.node.append(helper.make_node("Add", ["x", "b"], ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [5, 8]))
    folded = fold_constants(Model.load(proto)).model.to_proto()
    onnx.checker.check_model(folded, full_check=True)
    assert {tensor.name for tensor in folded.graph.initializer} == {"t", "b"}
