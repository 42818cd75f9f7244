"""The classes whose symptom no rounding between nodes shows: each by the test that can show it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from precision_planner.model import Model
from precision_planner.planning.cures import apply_action
from precision_planner.rules import load_rulebook
from precision_planner.rules.engine.cases import case_inputs, case_model
from precision_planner.rules.language.schema import read_cases
from tests.rules import oracle

BOOK = load_rulebook()


def shown(rule_id, name):
    rule = BOOK.get(rule_id)
    (case,) = [case for case in read_cases(rule) if case.name == name]
    model = case_model(rule, case)
    return rule, case, model, case_inputs(rule, case, model)


@pytest.mark.parametrize("number", range(1, 30))
def test_every_class_has_a_rule(number):
    assert [rule.id for rule in BOOK if number in rule.classes]


def test_class_12_instance_norm_with_fp16_statistics():
    # what a runtime that accumulates in FP16 does with 4096 pixels of 300
    x = np.random.default_rng(0).normal(300, 100, 4096).astype(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.add.accumulate(x, dtype=np.float16)[-1] / np.float16(x.size)
    assert not np.isfinite(mean)
    exact = x.astype(np.float64)
    normalized = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    assert np.abs(normalized).max() < 10  # FP32 statistics: an ordinary result, which FP16 stores
    (finding,) = apply_action(*shown("GN001", "on onnxruntime")[:2], oracle.measure).resolution.decisions.values()
    assert finding.precision == "fp32"


@pytest.mark.parametrize("name", ["the cube written with Pow, x up to 60", "the largest finite input"])
def test_class_14_the_cube_is_infinite_before_and_finite_after(name):
    rule, case, model, inputs = shown("GL001", name)
    before = oracle.run(model, inputs, low="fp16")
    assert np.isinf(before["c"]).any()
    # a kernel that forms tanh from exponentials: inf / inf
    with np.errstate(all="ignore"):
        grown = np.exp(2 * before["f"])
        assert np.isnan((grown - 1) / (grown + 1)).any()
    cured = apply_action(rule, case, oracle.measure)
    after = oracle.run(cured.model, inputs, low="fp16")
    assert all(np.isfinite(array).all() for array in after.values())
    reference = oracle.run(model, inputs)["y"]
    np.testing.assert_array_equal(oracle.run(cured.model, inputs)["y"], reference)


def test_class_15_a_softplus_kernel_in_fp16_overflows_and_the_written_out_form_does_not():
    rule, case, _, inputs = shown("SP002", "softplus of 20")
    with np.errstate(over="ignore"):
        naive = np.log(np.float16(1) + np.exp(inputs["x"].astype(np.float16)))
    assert np.isinf(naive).any()
    cured = apply_action(rule, case, oracle.measure)
    assert "Softplus" not in {node.op_type for node in cured.model.proto.graph.node}
    # the stable form in true FP16, step by step
    after = oracle.run(cured.model, inputs, low="fp16")["y"]
    assert oracle.error(np.logaddexp(0, inputs["x"].astype(np.float64)), after) < 0.002


def test_class_23_the_constant_has_its_consumers_rank():
    rule, case, model, _ = shown("CR001", "an epsilon of rank 0 added to a matrix")
    cured = apply_action(rule, case, oracle.measure)
    add = cured.model.proto.graph.node[0]
    (dims,) = [list(t.dims) for t in cured.model.proto.graph.initializer if t.name in add.input]
    assert dims == [1, 1]
    inputs = {"x": np.ones((2, 4), np.float32)}
    np.testing.assert_array_equal(oracle.run(cured.model, inputs)["y"], oracle.run(model, inputs)["y"])


@pytest.mark.rtx
def test_class_23_tensorrt_needs_no_shuffle_for_it():
    trt = pytest.importorskip("tensorrt_rtx")
    rule, case, model, _ = shown("CR001", "an epsilon of rank 0 added to a matrix")
    cured = apply_action(rule, case, oracle.measure)

    def shuffles(model: Model) -> int:
        logger = trt.Logger(trt.Logger.ERROR)
        network = trt.Builder(logger).create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(model.to_proto().SerializeToString())
        layers = [network.get_layer(number) for number in range(network.num_layers)]
        return sum(layer.type == trt.LayerType.SHUFFLE for layer in layers)

    assert shuffles(model) == 1
    assert shuffles(cured.model) == 0


def test_class_24_a_long_product_in_an_fp16_accumulator():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.4, 0.6, 4096).astype(np.float16), rng.uniform(0.4, 0.6, 4096).astype(np.float16)
    exact = float(a.astype(np.float64) @ b.astype(np.float64))
    drifting = np.add.accumulate(a * b, dtype=np.float16)[-1]
    kept = np.float16(a.astype(np.float32) @ b.astype(np.float32))
    assert abs(float(drifting) - exact) / exact > 0.02
    assert abs(float(kept) - exact) / exact < 0.0005
    _, case, _, _ = shown("AC001", "4096 products in FP16")
    assert (case.severity, case.action) == ("info", "warn")  # each is weighed by a search with a tolerance


def test_class_27_a_denominator_past_65504():
    # equal scores: exp(score - max) = 1 for each key
    with np.errstate(over="ignore"):
        denominator = np.float16(np.ones(70000, np.float32).sum())
    assert np.isinf(denominator)
    assert np.float16(1) / denominator == 0
    import ml_dtypes

    brain = np.ones(70000, np.float32).sum().astype(ml_dtypes.bfloat16)
    assert abs(1 / float(brain) * 70000 - 1) < 2**-8
    rule, case, _, _ = shown("FA001", "a point cloud of 70,000")
    decisions = apply_action(rule, case, oracle.measure).decisions
    assert {decision.precision for decision in decisions.values()} == {"bf16"}


def test_class_28_is_computed_by_onnx_as_we_think():
    # LogSoftmax against the definition, in float64
    x = np.array([[10.0, 0.0, -20.0]])
    graph = onnx.parser.parse_graph("g (double[1,3] x) => (double[1,3] y) { y = LogSoftmax(x) }")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    (found,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(found, x - np.log(np.exp(x).sum()), rtol=1e-12, atol=1e-15)
