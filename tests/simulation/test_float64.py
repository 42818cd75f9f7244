"""float64 models, open bounds of Clip, and LayerNormalization with 16-bit statistics, as their definitions say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import precision_planner as pp
from precision_planner.model import Model
from precision_planner.transforms.single import to_single

DOUBLE, HALF, BRAIN, FLOAT = TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT


def model_of(
    nodes: list[onnx.NodeProto],
    given: dict[str, tuple[int, list[object]]],
    returned: dict[str, tuple[int, list[object]]],
    constants: dict[str, np.ndarray],
    opset: int = 17,
) -> onnx.ModelProto:
    def info(entries: dict[str, tuple[int, list[object]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, *entry) for name, entry in entries.items()]

    graph = helper.make_graph(
        nodes,
        "g",
        info(given),
        info(returned),
        [numpy_helper.from_array(np.asarray(a), k) for k, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def double(scale: float = 1e4) -> onnx.ModelProto:
    nodes = [helper.make_node("Mul", ["x", "k"], ["a"]), helper.make_node("Mul", ["a", "k"], ["y"])]
    return model_of(nodes, {"x": (DOUBLE, [3])}, {"y": (DOUBLE, [3])}, {"k": np.float64(scale)})


def network() -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    w, v, x = rng.standard_normal((32, 32)) / 5, rng.standard_normal((32, 7)), rng.standard_normal((8, 32))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["y"]),
    ]
    model = model_of(nodes, {"x": (DOUBLE, ["b", 32])}, {"y": (DOUBLE, ["b", 7])}, {"w": w, "v": v})
    return model, {"x": x}, np.tanh(x @ w) @ v


def test_a_double_model_overflows_in_fp16_as_any_other() -> None:
    got = pp.simulate(double(), {"x": np.array([1.0, 2.0, 3.0])}, precision="fp16")["y"]
    assert not np.isfinite(got).any()


def test_a_double_model_is_planned_within_a_tolerance() -> None:
    model, feeds, want = network()
    result = pp.plan(model, inputs=feeds, tolerance={"max_abs": 0.05})
    assert result.passed
    np.testing.assert_allclose(pp.simulate(result.model, feeds)["y"], want, atol=0.05)


def test_single_keeps_the_interface_and_the_answer() -> None:
    model, feeds, want = network()
    single = to_single(Model.load(model)).to_proto()
    onnx.checker.check_model(single, full_check=True)
    assert single.graph.input[0].type.tensor_type.elem_type == DOUBLE
    assert single.graph.output[0].type.tensor_type.elem_type == DOUBLE
    assert {t.data_type for t in single.graph.initializer} == {FLOAT}
    got = ReferenceEvaluator(single).run(None, feeds)[0]
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_single_reaches_into_bodies() -> None:
    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(op, DOUBLE, [3])
        return helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [out])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("Neg"), else_branch=branch("Abs"))
    model = model_of([node], {"x": (DOUBLE, [3]), "c": (TensorProto.BOOL, [])}, {"y": (DOUBLE, [3])}, {})
    single = to_single(Model.load(model)).to_proto()
    onnx.checker.check_model(single, full_check=True)
    x = np.array([1.0, -2.0, 3.0])
    for condition, want in ((True, -x), (False, abs(x))):
        got = ReferenceEvaluator(single).run(None, {"x": x, "c": np.array(condition)})[0]
        np.testing.assert_array_equal(got, want)


def test_models_with_narrower_floats_are_left_alone() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=DOUBLE)]
    model = Model.load(model_of(nodes, {"x": (FLOAT, [3])}, {"y": (DOUBLE, [3])}, {}))
    assert to_single(model) is model


def test_a_clip_without_a_maximum_holds_no_more_than_the_type() -> None:
    """Its bound is the type's largest number: FP32's must not come out of an FP16 graph."""
    nodes = [helper.make_node("Mul", ["x", "x"], ["s"]), helper.make_node("Clip", ["s", "low"], ["y"])]
    model = model_of(nodes, {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])}, {"low": np.float32(0)})
    got = pp.simulate(model, {"x": np.array([300, 1], np.float32)}, precision="fp16")["y"]
    assert got[0] in (65504, np.inf)
    assert got[1] == 1


@pytest.mark.parametrize("opset", [17, 18, 21])
@pytest.mark.parametrize(("stash", "with_statistics"), [(HALF, False), (BRAIN, True)])
def test_sixteen_bit_statistics(opset: int, stash: int, with_statistics: bool) -> None:
    """At every opset, and where they are returned themselves (which the schema allows in BF16)."""
    outputs = ["y", "m", "d"] if with_statistics else ["y"]
    nodes = [helper.make_node("LayerNormalization", ["x", "g"], outputs, axis=-1, stash_type=stash)]
    returned = {"y": (HALF, [2, 8]), "m": (stash, [2, 1]), "d": (stash, [2, 1])}
    model = model_of(
        nodes, {"x": (HALF, [2, 8])}, {name: returned[name] for name in outputs}, {"g": np.ones(8, np.float16)}, opset
    )
    x = np.arange(16).reshape(2, 8).astype(np.float16)
    got = pp.simulate(model, {"x": x})
    wide = x.astype(np.float64)
    mean, deviation = wide.mean(1, keepdims=True), np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got["y"], (wide - mean) / deviation, atol=0.02 if stash == BRAIN else 5e-3)
    if with_statistics:
        np.testing.assert_allclose(got["m"], mean, rtol=2.0**-8)
        np.testing.assert_allclose(got["d"], 1 / deviation, rtol=2.0**-7)


def test_a_weak_plan_with_everything_in_fp32_answers_as_fp32_does() -> None:
    """The Cast back to doubles rounds nothing that is FP32: what FP32 meets is met."""
    model, inputs, _ = network()
    planned = pp.plan(model, inputs=inputs, target="tensorrt-10", tolerance={"rel_l2": 1e-6})
    assert planned.passed
