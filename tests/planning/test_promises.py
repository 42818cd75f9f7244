"""What a plan promises: what FP32 meets it meets, what the user keeps is kept, and twice asked it is the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import precision_planner as pp
from precision_planner.planning import PlannedModel
from precision_planner.targets import TARGETS
from tests.planning.random_models import random_model

TOLERANCES = ({"rel_l2": 1e-2}, {"rel_l2": 1e-3}, {"max_abs": 1e-2}, {"sad": 1e-3}, {"cosine": 0.9999})


@pytest.mark.slow
@given(st.integers(0, 1 << 30), st.sampled_from(sorted(TARGETS)), st.sampled_from(TOLERANCES))
@settings(max_examples=40, deadline=None)
def test_what_the_model_meets_in_fp32_its_plan_meets(seed: int, target: str, tolerance: dict[str, float]) -> None:
    """The model as it is, in FP32, is its own reference: nothing that is finite is out of its reach."""
    model, inputs = random_model(seed)
    planned = pp.plan(model, inputs=inputs, target=target, tolerance=tolerance, verify=False)
    assert planned.passed
    assert pp.plan(model, inputs=inputs, target=target, tolerance=tolerance, verify=False).plan == planned.plan


@pytest.mark.slow
@given(st.integers(0, 1 << 30), st.sampled_from(TOLERANCES), st.sampled_from(["MatMul", "re:[a-z]+[02468]$"]))
@settings(max_examples=15, deadline=None)
def test_what_the_user_keeps_in_fp32_is_met_and_kept(seed: int, tolerance: dict[str, float], selector: str) -> None:
    model, inputs = random_model(seed)
    names = {node.name for node in model.graph.node if node.op_type == "MatMul"}
    if not names and selector == "MatMul":
        return
    planned = pp.plan(model, inputs=inputs, tolerance=tolerance, keep_fp32=[selector], verify=False)
    assert planned.passed
    if selector == "MatMul":
        assert {node.precision for node in planned.plan.nodes if node.node in names} == {"fp32"}


def _plan(text: str, weights: dict[str, np.ndarray], inputs: dict[str, np.ndarray], **options: object) -> PlannedModel:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    onnx.checker.check_model(model, full_check=True)
    return pp.plan(model, inputs={name: v.astype(np.float32) for name, v in inputs.items()}, **options)


HEAD = '<ir_version: 8, opset_import: ["": 17]> '


@pytest.mark.parametrize("target", ["tensorrt-11", "tensorrt-8.6"])
def test_scores_past_the_range_are_lifted_beyond_what_a_rule_says(target: str) -> None:
    """A rule puts unscaled scores of 80,000 into BF16, whose 8 bits are too few: FP32 it is."""
    x = np.array([[200, 199.99, 199.98], [200, 199.995, 199.9], [198.01, 198, 197.99], [180, 180.005, 179.99]])
    text = "g (float[4,3] x) => (float[4,3] y) {[up] s = MatMul(x, w) [softmax] y = Softmax<axis=-1>(s)}"
    planned = _plan(HEAD + text, {"w": np.eye(3) * 400}, {"x": x}, tolerance={"sad": 5e-2}, target=target)
    assert planned.passed
    assert {node.precision for node in planned.plan.kept} == {"fp32"}


@pytest.mark.parametrize("target", ["tensorrt-11", "tensorrt-8.6"])
def test_a_phase_that_a_rule_gave_to_bf16_is_lifted_with_its_region(target: str) -> None:
    rng = np.random.default_rng(0)
    text = """g (float[1,1,50] x) => (float[1,1,500] y) {
        [phase] p = Mul(x, k) [up] u = Resize<mode="linear">(p, "", sc) [sin] s = Sin(u) [gain] y = Mul(s, a)}"""
    weights = {"k": np.array(100.0), "sc": np.array([1, 1, 10.0]), "a": np.array(0.1)}
    phase = np.cumsum(rng.uniform(0.2, 1.0, size=(1, 1, 50)), -1)
    assert _plan(HEAD + text, weights, {"x": phase}, tolerance={"y:rel_l2": 0.02}, target=target).passed


@pytest.mark.parametrize("target", ["tensorrt-11", "tensorrt-8.6"])
def test_the_logarithm_of_a_power_spectrum_is_met(target: str) -> None:
    rng, length = np.random.default_rng(0), 256
    bins = np.arange(length)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * bins / length)
    waves = (np.cos(2 * np.pi * np.outer(np.arange(length // 2), bins) / length) * window)[:, None, :] * 8
    time = np.arange(4096) / 16000
    signal = (0.9 * np.sin(2 * np.pi * 1000 * time) + 1e-3 * rng.normal(size=4096))[None, None]
    text = """g (float[1,1,4096] x) => (float[1,128,16] y) {
        [stft] c = Conv<strides=[256],kernel_shape=[256]>(x, W) [power] p = Mul(c, c) [clip] q = Clip(p, e)
        [log] y = Log(q)}"""
    weights = {"W": waves, "e": np.array(1e-10)}
    assert _plan(HEAD + text, weights, {"x": signal}, tolerance={"y:max_abs": 0.05}, target=target).passed


def _masked(scale: float) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    text = """g (float[8,16] x, float[8,16] mask) => (float[8,16] y) {
        [scores] s = MatMul(x, W) [bias] b = Mul(mask, neg) [add] t = Add(s, b)
        [softmax] p = Softmax<axis=-1>(t) [pv] y = MatMul(p, V)}"""
    weights = {"W": rng.standard_normal((16, 16)), "V": rng.standard_normal((16, 16)), "neg": np.array(-1e9)}
    x, mask = rng.standard_normal((8, 16)) * scale, rng.random((8, 16)) < 0.5
    return HEAD + text, weights, {"x": x, "mask": mask}


def test_masked_scores_past_the_range_meet_what_fp32_meets() -> None:
    assert _plan(*_masked(5e3), tolerance={"rel_l2": 1e-2}).passed


def test_without_a_tolerance_what_is_finite_stays_finite() -> None:
    planned = _plan(*_masked(5e3))
    assert planned.passed is None
    assert not planned.plan.tolerance
    assert planned.plan.predicted["y"]["nonfinite"] == 0
    assert planned.plan.predicted["y"]["rel_l2"] < 0.05


def test_a_product_that_is_repaired_twice_has_two_names() -> None:
    """Found by `python -m benchmarks.plans_keep_promises`: onnxruntime refused the twins of one name."""
    model, inputs = random_model(1730)
    found = pp.plan(model, inputs=inputs, target="tensorrt-rtx", tolerance={"rel_l2": 1e-2}, verify=False)
    assert found.passed


def test_a_repair_never_changes_what_the_user_keeps() -> None:
    """A finite mask of -32,752 beside scores of 190,000 would be wrong, in FP32 too."""
    keep = ["scores", "bias", "add", "softmax"]
    planned = _plan(*_masked(2e4), tolerance={"rel_l2": 1e-2}, keep_fp32=keep)
    assert planned.passed
    assert not planned.plan.repairs


def test_near_ties_of_a_router_keep_the_gate_alone() -> None:
    """Experts are chosen by TopK of gates that differ by less than FP16 shows; the experts themselves stay low."""
    rng = np.random.default_rng(1)
    gates = np.tile(rng.standard_normal((64, 1)), (1, 8)) + rng.standard_normal((64, 8)) * 2e-3
    text = """g (float[256,64] x) => (float[256,8] y, int64[256,2] chosen) <int64[1] k = {2}> {
        [gate] g0 = MatMul(x, Wg) [route] v, chosen = TopK<axis=1>(g0, k)
        [up] h = MatMul(x, W1) [act] a = Relu(h) [down] y = MatMul(a, W2)}"""
    weights = {"Wg": gates, "W1": rng.standard_normal((64, 64)) / 8, "W2": rng.standard_normal((64, 8)) / 8}
    inputs = {"x": rng.standard_normal((256, 64))}
    planned = _plan(HEAD + text, weights, inputs, tolerance={"chosen:max_abs": 0.0, "y:rel_l2": 1e-2})
    assert planned.passed
    assert {node.node for node in planned.plan.kept} == {"gate", "route"}


def test_a_tolerance_that_everything_low_meets_keeps_nothing() -> None:
    rng = np.random.default_rng(2)
    text = "g (float[4,16] x) => (float[4,16] y) {h = MatMul(x, W) y = Tanh(h)}"
    inputs = {"x": rng.standard_normal((4, 16))}
    planned = _plan(HEAD + text, {"W": rng.standard_normal((16, 16)) / 4}, inputs, tolerance={"rel_l2": 1e-2})
    assert planned.passed
    assert planned.plan.search["cost_us"] == 0.0
    assert not planned.plan.kept


def test_only_what_the_user_wants_low_is_beyond_reach() -> None:
    rng = np.random.default_rng(3)
    text = "g (float[4,16] x) => (float[4,16] y) {[one] h = MatMul(x, W) [two] y = Tanh(h)}"
    inputs = {"x": rng.standard_normal((4, 16))}
    weights = {"W": rng.standard_normal((16, 16)) / 4}
    planned = _plan(HEAD + text, weights, inputs, tolerance={"max_abs": 1e-7}, only_low=["one"])
    assert not planned.passed
    assert "everything in FP32" in planned.plan.search["stopped"]
    assert _plan(HEAD + text, weights, inputs, tolerance={"max_abs": 1e-7}).passed


def test_a_repair_stays_where_the_same_types_do_worse_without_it() -> None:
    """Flushed weights: rescaled they are right in FP16, which is cheaper than a product in FP32."""
    rng = np.random.default_rng(4)
    text = "g (float[4,64] x) => (float[4,64] y) {[m] h = MatMul(x, W) [up] y = Mul(h, big)}"
    weights = {"W": rng.standard_normal((64, 64)) * 1e-8, "big": np.array(1e3)}
    planned = _plan(HEAD + text, weights, {"x": rng.standard_normal((4, 64)) * 1e4})
    assert [entry["repair"] for entry in planned.plan.repairs] == ["rescale_weight"]
    assert planned.plan.predicted["y"]["rel_l2"] < 2e-3
