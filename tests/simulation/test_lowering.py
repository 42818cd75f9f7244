"""Operators as a target's parser writes them out, against float64 that rounds after each step by hand."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import parser

from precision_planner.model import Model
from precision_planner.simulation import prepare
from precision_planner.simulation.simulate import open_simulation
from precision_planner.targets import TARGETS, get_target
from precision_planner.targets.lowering import Form, Lowering

HALF, BRAIN = np.float16, ml_dtypes.bfloat16


def low(x: np.ndarray, kind: type) -> np.ndarray:
    with np.errstate(over="ignore"):
        return x.astype(kind).astype(np.float64)


def squares_root(x, kind):
    return low(np.sqrt(low(low(x * x, kind).sum(-1, keepdims=True), kind)), kind)


def squares(x, kind):
    return low(low(x * x, kind).sum(-1, keepdims=True), kind)


def sum_log(x, kind):
    return low(np.log(low(x.sum(-1, keepdims=True), kind)), kind)


def exp_sum_log(x, kind):
    return low(np.log(low(low(np.exp(x), kind).sum(-1, keepdims=True), kind)), kind)


def lp_normalization(x, kind):
    norm = squares_root(x, kind)
    return low(x / np.where(norm == 0, 1, norm), kind)


def lp_normalization_of_magnitudes(x, kind):
    return low(x / low(np.abs(x).sum(-1, keepdims=True), kind), kind)


def softmax_log(x, kind):
    e = np.exp(x - x.max(-1, keepdims=True))
    return low(np.log(low(e / e.sum(-1, keepdims=True), kind)), kind)


def running_sum(x, kind):
    out, total = np.empty_like(x), np.zeros_like(x[..., 0])
    for at in range(x.shape[-1]):
        total = low(total + x[..., at], kind)
        out[..., at] = total
    return out


def running_sum_backwards_of_those_behind(x, kind):
    after = np.concatenate([x[..., 1:], np.zeros_like(x[..., :1])], -1)
    return running_sum(after[..., ::-1], kind)[..., ::-1]


def powers_root(x, kind):
    flat = np.abs(x).reshape(*x.shape[:2], -1)
    total = low(low(flat**3, kind).sum(-1), kind)
    return low(total ** float(low(np.array(1 / 3), kind)), kind)[..., None]


CASES: list[tuple[str, Form, str, Callable]] = [
    ("ReduceL2<axes=[-1], keepdims=1>(x)", "squares_root", "13", squares_root),
    ("ReduceL2<axes=[-1], keepdims=1>(x)", "squares_root", "11", squares_root),
    ("ReduceL2<keepdims=1>(x, last)", "squares_root", "18", squares_root),
    ("ReduceSumSquare<axes=[-1], keepdims=1>(x)", "squares", "17", squares),
    ("ReduceLogSum<keepdims=1>(x, last)", "sum_log", "18", sum_log),
    ("ReduceLogSumExp<axes=[-1], keepdims=1>(x)", "exp_sum_log", "17", exp_sum_log),
    ("LpNormalization<axis=-1, p=2>(x)", "lp_normalization", "17", lp_normalization),
    ("LpNormalization<axis=-1, p=2>(x)", "lp_normalization", "12", lp_normalization),
    ("LpNormalization(x)", "lp_normalization", "17", lp_normalization),
    ("LpNormalization<p=1>(x)", "lp_normalization", "17", lp_normalization_of_magnitudes),
    ("GlobalLpPool<p=3>(x)", "powers_root", "17", powers_root),
    ("LogSoftmax<axis=-1>(x)", "softmax_log", "17", softmax_log),
    ("CumSum(x, axis)", "running_sum", "17", running_sum),
    ("CumSum<exclusive=1, reverse=1>(x, axis)", "running_sum", "14", running_sum_backwards_of_those_behind),
]


def model(expression: str, opset: str) -> Model:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[a,b,c] x) => (float y)'
    text += " <int64[1] last = {-1}, int64 axis = {2}> { y = " + expression + " }"
    return Model.load(parser.parse_model(text))


def simulated(source: Model, x: np.ndarray, form: Form, precision: str) -> np.ndarray:
    op_type = source.proto.graph.node[0].op_type
    made = prepare(source, precision=precision, weights="ieee", lowering=(Lowering(op_type, form, "low", "a test"),))
    with open_simulation(made) as session:
        return session.run(made.feeds({"x": x}))["y"]


@pytest.mark.parametrize(("kind", "precision"), [(HALF, "fp16"), (BRAIN, "bf16")])
@pytest.mark.parametrize(("expression", "form", "opset", "by_hand"), CASES)
def test_each_form_rounds_after_each_of_its_steps(expression, form, opset, by_hand, kind, precision) -> None:
    if precision == "bf16" and int(opset) < 13:
        pytest.skip("no bfloat16 at that opset")
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 2.0, (2, 3, 64)).astype(np.float32)
    got = simulated(model(expression, opset), x, form, precision).astype(np.float64)
    want = by_hand(low(x, kind), kind)
    step = 2.0**-10 if kind is HALF else 2.0**-7
    assert got.shape == want.shape
    # FP32 inside a step may round to the other neighbor, and a sum's other neighbor is a root's
    assert np.all(np.abs(got - want) <= 1.01 * step * np.abs(want))
    assert np.mean(got == want) > 0.9


@pytest.mark.parametrize(
    ("expression", "form", "scale", "wrong"),
    [
        ("ReduceL2<axes=[-1], keepdims=1>(x)", "squares_root", 200.0, "inf"),
        ("ReduceL2<axes=[-1], keepdims=1>(x)", "squares_root", 1e-5, "zero"),
        ("LpNormalization<axis=-1, p=2>(x)", "lp_normalization", 200.0, "zero"),
        ("GlobalLpPool<p=2>(x)", "powers_root", 200.0, "inf"),
        ("ReduceLogSumExp<axes=[-1], keepdims=1>(x)", "exp_sum_log", 200.0, "inf"),
    ],
)
def test_what_the_device_gave_comes_out(expression, form, scale, wrong) -> None:
    """As TensorRT 10.6 on an H200 in half: LpNormalization 0, GlobalLpPool and ReduceLogSumExp inf."""
    x = (scale * np.random.default_rng(0).uniform(0.8, 1.2, (2, 3, 1024))).astype(np.float32)
    got = simulated(model(expression, "17"), x, form, "fp16")
    assert np.all(np.isinf(got) if wrong == "inf" else got == 0)


def test_a_running_count_stops_at_2048_as_on_the_device() -> None:
    """4,000 ones: TensorRT 10.6 came out 1952 off, relative error 0.341."""
    got = simulated(model("CumSum(x, axis)", "17"), np.ones((1, 8, 4000), np.float32), "running_sum", "fp16")
    right = np.broadcast_to(np.arange(1.0, 4001.0), got.shape)
    assert np.max(right - got) == 1952
    assert np.linalg.norm(right - got) / np.linalg.norm(right) == pytest.approx(0.34096919, rel=1e-6)


def test_a_norm_of_zero_counts_as_one() -> None:
    got = simulated(
        model("LpNormalization<axis=-1, p=2>(x)", "17"), np.zeros((1, 1, 8), np.float32), "lp_normalization", "fp16"
    )
    assert np.all(got == 0)


def test_a_cumsum_whose_axis_is_computed_stays_as_it_is() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2,3,8] x, int64 axis) => (float y) { y = CumSum(x, axis) }'
    source = Model.load(parser.parse_model(text))
    made = prepare(source, precision="fp16", lowering=get_target("tensorrt-8.6").lowering)
    assert [node.op_type for node in made.model.proto.graph.node].count("CumSum") == 1


def test_operators_in_fp32_are_not_written_out() -> None:
    source = model("ReduceL2<axes=[-1], keepdims=1>(x)", "17")
    for target in TARGETS.values():
        made = prepare(source, precision="fp16", keep_fp32=["*"], lowering=target.lowering)
        assert [node.op_type for node in made.model.proto.graph.node].count("ReduceL2") == 1


def test_every_form_of_every_target_is_tested() -> None:
    named = {(entry.op_type, entry.form) for target in TARGETS.values() for entry in target.lowering}
    assert named <= {(expression.partition("(")[0].partition("<")[0], form) for expression, form, _, _ in CASES}
    assert all(onnx.defs.has(op_type) for op_type, _ in named)
