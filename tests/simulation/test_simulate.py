"""The simulation against true 16-bit arithmetic: onnx.reference, ml_dtypes, and float64 rounded at the result."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import precision_planner as pp
from precision_planner.errors import ConversionError, SelectorError
from precision_planner.model import GraphIndex, Model
from precision_planner.simulation import all_low, apply_rounding, is_typed_low, open_simulation, prepare
from precision_planner.simulation.rounding import round_weights
from precision_planner.simulation.simulate import prove_rounding
from tests.simulation.models import BFLOAT16, FLOAT, FLOAT16, INT64, chain, model

X = np.array([1.0, 2.0, 3.0, 4.0], np.float32)


def half(x: np.ndarray) -> np.ndarray:
    """float64 (or float32) rounded to FP16 once, by numpy."""
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(np.float16).astype(np.float32)


def edge_values() -> np.ndarray:
    """Every finite FP16 value, the midpoints between neighbors, and float32's neighbors of the midpoints."""
    values = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middle = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    extreme = np.array([65504, 65519.99, 65520, 1e6, 3e38, 2.0**-25, 2.0**-25 * 1.0001, 1e-40], np.float32)
    found = np.concatenate(
        [values.astype(np.float32), middle, np.nextafter(middle, 0), np.nextafter(middle, np.float32(1e9)), extreme]
    ).astype(np.float32)
    return np.concatenate([found, -found, np.array([np.inf, -np.inf, np.nan], np.float32)])


def identity_add() -> onnx.ModelProto:
    return model(
        [helper.make_node("Add", ["x", "zero"], ["y"])],
        {"x": (FLOAT, ["n"])},
        {"y": (FLOAT, ["n"])},
        {"zero": np.zeros((), np.float32)},
    )


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_onnxruntime_rounds_every_tie_and_edge_as_the_format_says(precision: str, dtype: type) -> None:
    x = edge_values()
    with np.errstate(over="ignore"):
        expected = x.astype(dtype).astype(np.float32)
    found = pp.simulate(identity_add(), {"x": x}, precision=precision)["y"]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("typed", [False, True])
def test_a_product_that_passes_the_range_is_infinite_although_it_comes_back(typed: bool) -> None:
    source = chain(FLOAT16 if typed else FLOAT, 1e4, 1e4, 1e-4, 1e-4)
    assert np.isinf(pp.simulate(source, {"x": X})["y"]).all()


@pytest.mark.parametrize("typed", [False, True])
def test_operators_that_onnx_does_not_know_are_rounded_too(typed: bool) -> None:
    """ONNX infers no type behind an operator of com.microsoft; the product after it is rounded all the same."""
    kind, dtype = (FLOAT16, np.float16) if typed else (FLOAT, np.float32)
    nodes = [
        helper.make_node("FusedMatMul", ["x", "up"], ["a"], domain="com.microsoft", alpha=1.0),
        helper.make_node("MatMul", ["a", "down"], ["y"]),
    ]
    scales = {name: np.eye(4, dtype=dtype) * dtype(scale) for name, scale in (("up", 100), ("down", 0.01))}
    source = model(nodes, {"x": (kind, [1, 4])}, {"y": (kind, [1, 4])}, scales, domains=["com.microsoft"])
    past = pp.simulate(source, {"x": 1000 * X[None].astype(dtype)})["y"]
    assert not np.isfinite(past).any()  # infinity, and NaN where the identity's zeros meet it
    # 2049 is 2048 in FP16, so a product that is stored there shows it
    small = pp.simulate(source, {"x": dtype(20.49) * np.ones((1, 4), dtype)})["y"]
    np.testing.assert_array_equal(small, half(half(np.float64(half(20.49)) * 100) * np.float64(half(0.01))))


def test_bfloat16_has_the_range_and_loses_the_digits() -> None:
    found = pp.simulate(chain(BFLOAT16, 1e4, 1e4, 1e-4, 1e-4), {"x": X})["y"]
    value, expected = X.astype(ml_dtypes.bfloat16), None
    for scale in (1e4, 1e4, 1e-4, 1e-4):
        value = value * ml_dtypes.bfloat16(scale)
        expected = value
    np.testing.assert_array_equal(found, np.asarray(expected).astype(np.float32))


def test_fused_semantics_keep_a_pointwise_chain_inside_its_kernel() -> None:
    found = pp.simulate(chain(FLOAT, 1e4, 1e4, 1e-4, 1e-4), {"x": X}, semantics="fused")["y"]
    small = float(half(np.float32(1e-4)))
    np.testing.assert_allclose(found, half(X * (1e8 * small * small)), rtol=1e-3)


def test_fused_semantics_round_where_a_reduction_reads() -> None:
    source = model(
        [
            helper.make_node("Mul", ["x", "x"], ["square"]),
            helper.make_node("ReduceMean", ["square"], ["y"], axes=[-1]),
        ],
        {"x": (FLOAT, [1, 4])},
        {"y": (FLOAT, [1, 1])},
    )
    assert np.isinf(pp.simulate(source, {"x": np.full((1, 4), 300, np.float32)}, semantics="fused")["y"]).all()


BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min"]
UNARY = ["Relu", "Neg", "Abs", "Sqrt", "Floor", "Reciprocal"]


@pytest.mark.parametrize("op", BINARY + UNARY)
@pytest.mark.parametrize("typed", [False, True])
def test_single_operators_are_true_fp16(op: str, typed: bool) -> None:
    generator = np.random.default_rng(7)
    a = (generator.normal(size=2000) * 10.0 ** generator.integers(-6, 5, 2000)).astype(np.float16)
    b = (generator.normal(size=2000) * 10.0 ** generator.integers(-3, 3, 2000)).astype(np.float16)
    a = np.abs(a) if op == "Sqrt" else a
    kind = FLOAT16 if typed else FLOAT
    names = ["a", "b"] if op in BINARY else ["a"]

    def build(elem: int) -> onnx.ModelProto:
        return model(
            [helper.make_node(op, names, ["y"])], {n: (elem, ["n"]) for n in names}, {"y": (elem, ["n"])}, opset=17
        )

    feeds = dict(zip(["a", "b"], [a, b], strict=True))
    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(build(FLOAT16)).run(None, {n: feeds[n] for n in names})[0]
    wide = {n: feeds[n].astype(np.float32) for n in names}
    np.testing.assert_array_equal(pp.simulate(build(kind), wide)["y"], expected.astype(np.float32))


def test_a_gemm_accumulates_wide_and_rounds_its_result() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.normal(size=(8, 4096)), generator.normal(size=(4096, 5))
    source = model(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        {"a": (FLOAT16, [8, 4096])},
        {"y": (FLOAT16, [8, 5])},
        {"b": b.astype(np.float16)},
    )
    exact = a.astype(np.float16).astype(np.float64) @ b.astype(np.float16).astype(np.float64)
    found = pp.simulate(source, {"a": a.astype(np.float16)})["y"]
    assert np.abs(found - exact).max() <= 2.0**-11 * np.abs(exact).max() * 1.05
    np.testing.assert_array_equal(found, half(found))


def layer_norm(stash_type: int) -> onnx.ModelProto:
    return model(
        [helper.make_node("LayerNormalization", ["x", "g", "b"], ["y"], axis=-1, stash_type=stash_type)],
        {"x": (FLOAT16, ["n", 64])},
        {"y": (FLOAT16, ["n", 64])},
        {"g": np.linspace(0.5, 2, 64).astype(np.float16), "b": np.linspace(-1, 1, 64).astype(np.float16)},
    )


def test_layer_normalization_is_wide_inside_as_its_stash_type_says() -> None:
    x = (np.random.default_rng(1).normal(size=(6, 64)) * 700).astype(np.float16)
    x64 = x.astype(np.float64)
    normal = (x64 - x64.mean(-1, keepdims=True)) / np.sqrt(x64.var(-1, keepdims=True) + 1e-5)
    gamma = np.linspace(0.5, 2, 64).astype(np.float16).astype(np.float64)
    beta = np.linspace(-1, 1, 64).astype(np.float16).astype(np.float64)
    expected = normal * gamma + beta
    found = pp.simulate(layer_norm(1), {"x": x})["y"]
    assert np.abs(found - expected).max() <= 2.0**-11 * np.abs(expected).max() * 1.05


def test_a_16_bit_stash_type_overflows_in_the_squares() -> None:
    x = (np.random.default_rng(1).normal(size=(6, 64)) * 700).astype(np.float16)
    found = pp.simulate(layer_norm(10), {"x": x})["y"]
    # infinite variance: the normalized value is 0 and the bias is left
    np.testing.assert_array_equal(found, np.tile(half(np.linspace(-1, 1, 64)), (6, 1)))


def test_a_cast_of_large_integers_rounds_once() -> None:
    source = model(
        [helper.make_node("Cast", ["x"], ["h"], to=FLOAT16), helper.make_node("Cast", ["h"], ["y"], to=FLOAT)],
        {"x": (INT64, ["n"])},
        {"y": (FLOAT, ["n"])},
    )
    x = np.array([0, 2049, 2051, 65504, 65519, 65520, 70000], np.int64)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(pp.simulate(source, {"x": x})["y"], expected)


def test_bodies_and_local_functions_round_inside() -> None:
    body = helper.make_function(
        "own", "Twice", ["v"], ["w"],
        [helper.make_node("Mul", ["v", "v"], ["sq"]), helper.make_node("Sqrt", ["sq"], ["w"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    then = helper.make_graph(
        [helper.make_node("Mul", ["t", "t"], ["sq2"]), helper.make_node("Sqrt", ["sq2"], ["out"])],
        "then", [], [helper.make_tensor_value_info("out", FLOAT, ["n"])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["out2"])],
        "else",
        [],
        [helper.make_tensor_value_info("out2", FLOAT, ["n"])],
    )
    source = model(
        [
            helper.make_node("Twice", ["x"], ["t"], domain="own"),
            helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
        ],
        {"x": (FLOAT, ["n"]), "c": (onnx.TensorProto.BOOL, [])},
        {"y": (FLOAT, ["n"]), "t": (FLOAT, ["n"])},
        functions=[body],
        domains=["own"],
    )
    big = np.array([100.0, 300.0], np.float32)
    found = pp.simulate(source, {"x": big, "c": np.array(False)})
    np.testing.assert_array_equal(found["t"], [100, np.inf])
    found = pp.simulate(source, {"x": np.array([255.5], np.float32), "c": np.array(True)})
    np.testing.assert_array_equal(found["y"], half(np.sqrt(half(half(np.sqrt(half(np.array([255.5**2])))) ** 2))))


def test_what_is_kept_reads_and_stores_fp32() -> None:
    source = chain(FLOAT, 1e4, 1e4, 1e-4, 1e-4)
    found = pp.simulate(source, {"x": X}, keep_fp32=["mul*"])["y"]
    np.testing.assert_allclose(found, X, rtol=1e-6)
    part = pp.simulate(source, {"x": X}, keep_fp32=["mul1", "mul2"])["y"]
    np.testing.assert_allclose(part, X, rtol=2e-3)
    with pytest.raises(SelectorError, match=r"did you mean .*mul1"):
        pp.simulate(source, {"x": X}, keep_fp32=["mul1x"])


def test_a_weight_shared_with_a_kept_node_stays_exact_for_it() -> None:
    weight = np.full((2, 2), 1 + 2.0**-12, np.float32)
    source = model(
        [helper.make_node("MatMul", ["x", "w"], ["low"]), helper.make_node("Add", ["x", "w"], ["high"], name="keep")],
        {"x": (FLOAT, [2, 2])},
        {"low": (FLOAT, [2, 2]), "high": (FLOAT, [2, 2])},
        {"w": weight},
    )
    found = pp.simulate(source, {"x": np.eye(2, dtype=np.float32)}, keep_fp32=["keep"])
    np.testing.assert_array_equal(found["high"], np.eye(2, dtype=np.float32) + weight)
    np.testing.assert_array_equal(found["low"], np.ones((2, 2)))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("ieee", [np.inf, -np.inf, 0, 0, 1]), ("saturate", [65504, -65504, 2.0**-24, -(2.0**-24), 1])],
)
def test_constants_follow_the_weight_policy(weights: str, expected: list[float]) -> None:
    source = model(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        {"x": (FLOAT, [1])},
        {"y": (FLOAT, [5])},
        {"w": np.array([1e9, -3.4e38, 1e-9, -1e-12, 1], np.float32)},
    )
    found = pp.simulate(source, {"x": np.ones(1, np.float32)}, weights=weights)["y"]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize("policy", ["inf", "saturate"])
@pytest.mark.parametrize(("precision", "elem_type"), [("fp16", FLOAT16), ("bf16", BFLOAT16)])
def test_the_fast_rounding_of_weights_is_the_exact_one(policy: str, precision: str, elem_type: int) -> None:
    from precision_planner.numerics.rounding import round_to_format

    x = edge_values()
    np.testing.assert_array_equal(
        round_weights(x, elem_type, policy),
        round_to_format(x, precision, overflow=policy),  # type: ignore[arg-type]
    )


@pytest.mark.slow
def test_large_weights_stream_into_the_session() -> None:
    weight = np.random.default_rng(0).normal(size=(3000, 2000)).astype(np.float32)  # 24 MB: past the in-memory limit
    source = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (FLOAT, [1, 3000])},
        {"y": (FLOAT, [1, 2000])},
        {"w": weight},
    )
    x = np.zeros((1, 3000), np.float32)
    x[0, 17] = 1
    np.testing.assert_array_equal(pp.simulate(source, {"x": x})["y"][0], half(weight[17]))


def test_the_interface_of_a_typed_model_is_rounded_on_the_way_in() -> None:
    x = np.array([1 + 2.0**-12, 70000.0], np.float32)
    source = model([helper.make_node("Identity", ["x"], ["y"])], {"x": (FLOAT16, ["n"])}, {"y": (FLOAT16, ["n"])})
    assert is_typed_low(Model.load(source))
    np.testing.assert_array_equal(pp.simulate(source, {"x": x})["y"], [1, np.inf])


def test_unsorted_and_intermediate_values_can_be_had() -> None:
    source = chain(FLOAT, 3.0, 5.0)
    nodes = list(source.graph.node)[::-1]
    del source.graph.node[:]
    source.graph.node.extend(nodes)
    found = pp.simulate(source, {"x": X}, outputs=["t0", "y"])
    np.testing.assert_array_equal(found["t0"], X * 3)
    np.testing.assert_array_equal(found["y"], X * 15)


def test_the_model_given_is_not_changed() -> None:
    source = chain(FLOAT16, 2.0)
    before = source.SerializeToString()
    pp.simulate(source, {"x": X})
    assert source.SerializeToString() == before


def test_the_proof_fails_where_rounding_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["precision_planner.simulation.simulate"]
    monkeypatch.setattr(module, "_proven", [])
    monkeypatch.setattr(module, "apply_rounding", lambda model, plan: model)
    with pytest.raises(RuntimeError, match="removed the explicit rounding"):
        prove_rounding()


def test_wrong_options_say_what_to_do() -> None:
    with pytest.raises(ConversionError, match="use typed or fused"):
        prepare(chain(FLOAT, 1.0), semantics="strong")  # type: ignore[arg-type]
    with pytest.raises(ConversionError, match="use fp16, bf16 or tf32"):
        prepare(chain(FLOAT, 1.0), precision="fp8")


def test_a_plan_rounds_only_what_can_be_low() -> None:
    source = Model.load(
        model(
            [
                helper.make_node("Range", ["s", "l", "d"], ["r"]),
                helper.make_node("Mul", ["r", "d"], ["y"]),
            ],
            {"s": (FLOAT, []), "l": (FLOAT, []), "d": (FLOAT, [])},
            {"y": (FLOAT, ["n"])},
        )
    )
    index = GraphIndex(source.proto)
    plan = all_low(source, index, FLOAT16)
    assert ((), "r") not in plan.values  # Range has no FLOAT16
    assert ((), "y") in plan.values
    assert len(apply_rounding(source, plan).proto.graph.node) > 2


@pytest.mark.parametrize("preset", ["tiny", "tiny-massive"])
def test_a_type_assignment_and_the_graph_written_from_it_agree_to_the_bit(preset: str) -> None:
    from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs

    spec = PRESETS[preset]
    inputs = sample_inputs(spec, rows=4, sequence=24)
    result = pp.rewrite(build_bert_classifier(spec), keep_fp32=["layernorm"], verify=False)
    typed = pp.simulate(result.typed, inputs)
    assigned = pp.simulate(result.fused, inputs, assignment=result.assignment)
    for name, array in typed.items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(assigned[name], array)


def test_two_bodies_may_round_one_value_of_the_graph_around_them() -> None:
    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node("Add", ["x", "x"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, FLOAT, ["n"])])

    source = model(
        [
            helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
            helper.make_node("Mul", ["x", "x"], ["z"]),
        ],
        {"x": (FLOAT, ["n"]), "c": (onnx.TensorProto.BOOL, [])},
        {"y": (FLOAT, ["n"]), "z": (FLOAT, ["n"])},
    )
    x = np.array([1 + 2.0**-12], np.float32)
    for way in (False, True):
        np.testing.assert_array_equal(pp.simulate(source, {"x": x, "c": np.array(way)})["y"], [2])


def test_bf16_of_an_old_opset() -> None:
    source = model([helper.make_node("Mul", ["x", "x"], ["y"])], {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])}, opset=9)
    x = np.array([1.0078125, 3.0], np.float32)  # 1 + 2^-7: its square needs 15 bits
    np.testing.assert_array_equal(pp.simulate(source, {"x": x}, precision="bf16")["y"], [1.015625, 9])


def test_nodes_in_bf16_beside_nodes_in_fp16() -> None:
    """70000 is in BF16's range and not in FP16's; what FP16 reads of it is infinite, what BF16 reads is not."""
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["large"], name="large"),
        helper.make_node("Mul", ["large", "tiny"], ["kept"], name="kept"),
        helper.make_node("Mul", ["large", "tiny"], ["lost"], name="lost"),
    ]
    constants = {"k": np.float32(700.0), "tiny": np.float32(2.0**-10)}
    graph = model(nodes, {"x": (FLOAT, [1])}, {"kept": (FLOAT, [1]), "lost": (FLOAT, [1])}, constants)
    simulation = prepare(graph, keep_bf16=["large", "kept"], precision="fp16")
    with open_simulation(simulation) as session:
        found = session.run({"x": np.array([100.0], np.float32)})
    large = np.float32(np.float32(700.0).astype(ml_dtypes.bfloat16)) * np.float32(100.0)
    brain = np.float32(large.astype(ml_dtypes.bfloat16))
    assert found["kept"][0] == np.float32((brain * np.float32(2.0**-10)).astype(ml_dtypes.bfloat16))
    assert np.isinf(found["lost"][0])
