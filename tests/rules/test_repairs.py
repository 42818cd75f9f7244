"""The repairs: the FP32 function stays, and each says why where it cannot be applied."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.model.session import Session
from precision_planner.transforms.repairs import REPAIRS, RepairRequest, apply_repairs
from tests.rules import oracle


def parse(body, opset=17):
    return Model.load(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {body}'))


def apply(model, repair, nodes=(), value="", **parameters):
    defaults = dict(REPAIRS[repair].parameters)
    request = RepairRequest(repair, (), tuple(NodeId((), n) for n in nodes), value, {**defaults, **parameters})
    return apply_repairs(model, [request])


def ops(model):
    return [node.op_type for node in model.proto.graph.node]


REFUSED = [
    ("finite_mask", "g(float[2] x) "
     "=> (float[2] y) <float m = {-1e9}> { y = Add(x, m) }", (), "m", "m reaches a graph output"),
    ("finite_mask", "g(float[2] x) => (float[2] y) <float m = {-1e9}> { a = Add(x, m) y = Exp(a) }", (), "m",
     "a reaches Exp, not only a softmax"),
    ("finite_mask", "g(float[2] x) => (float[2] y) <float m = {-1e4}> { a = Add(x, m) y = Softmax(a) }", (), "m",
     "no constant is below the mask"),
    ("finite_mask", "g(float[2] x) => (float[2] y, bool[2] z) <float m = {-1e9}> { a = Add(x, m) y = Softmax(a) "
     "z = Equal(a, m) }", (), "m", "tested by Equal"),
    ("scale_first", "g (float[2,2] x) "
     "=> (float[2,2] y, float[2,2] p) <float s = {0.5}> { p = MatMul(x, x) y = Mul(p, s) }",
     ("y",), "", "p is read elsewhere too"),
    ("scale_first", "g (float[2,2] x, float s) => (float[2,2] y) { p = MatMul(x, x) y = Mul(p, s) }", ("y",), "",
     "does not scale a MatMul by one constant"),
    ("scale_first", "g (float[2,2] x) "
     "=> (float[2,2] y) <float s = {0.5}> { p = MatMul(x, x) y = Div(s, p) }", ("y",), "",
     "does not scale a MatMul"),
    ("scale_first", "g (float[2,2] x) => (float[2,2] y) <float s = {0}> { p = MatMul(x, x) y = Mul(p, s) }", ("y",), "",
     "the scale is 0"),
    ("stable_softplus", "g(float[2] x) "
     "=> (float[2] y) <float s = {2}> { e = Exp(x) a = Add(e, s) y = Log(a) }", ("e",), "",
     "is not + 1"),
    ("shift_logsumexp", "g (float[4] x) => (float y) { y = ReduceLogSumExp<keepdims=0>(x) }", ("y",), "",
     "a scalar over all axes"),
    ("shift_logsumexp", "g (double[4] x) => (double[1] y) { y = ReduceLogSumExp(x) }", ("y",), "", "of doubles"),
    ("divide_first", "g (float[4] x) "
     "=> (float y) <float s = {4}> { r = ReduceSum<keepdims=0>(x) y = Div(s, r) }", ("r",), "",
     "not a division of it"),
    ("divide_first", "g (float[4] x) "
     "=> (float y) <float s = {0.5}> { r = ReduceSum<keepdims=0>(x) y = Div(r, s) }", ("r",),
     "", "dividing first would not help"),
    ("raise_epsilon", "g (float[4] x) => (float[4] y) <float e = {1e-5}> { y = Add(x, e) }", ("y",), "",
     "no epsilon below the new one"),
    ("rescale_weight", "g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {1,2,3,4}> { y = MatMul(x, w) }", (), "w",
     "scaling up would not help"),
    ("rescale_weight", "g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1e-7,0,0,1e-7}> { y = Add(x, w) }", (), "w",
     "Add reads w too"),
    ("fold_batch_norm", "g (float[1,2,4] x, float[2] m) => (float[1,2,4] y) <float[2] s = {1,1}, float[2] v = {1,1}> "
     "{ y = BatchNormalization(x, s, s, m, v) }", ("y",), "", "no float32 constants"),
    ("clamp_cube", "g (float[4] x) => (float[4] y) <float t = {3}> { c = Pow(x, t) y = Sigmoid(c) }", ("c",), "",
     "the cube reaches Sigmoid"),
    ("clamp_infinity", "g (float[4] x) => (float[4] y) <float t = {3}> { y = Min(x, t) }", ("y",), "", "no bound"),
    ("rescale_stream", "g (float[2,2] x) => (float[2,2] y) { e = Exp(x) y = Softplus(e) }", ("e",), "",
     "e was not measured"),
    ("constant_rank", "g (float[4] x) "
     "=> (float[4] y) <float[1] t = {3}> { y = Add(x, t) }", (), "t", "nothing of more axes"),
    ("log_softmax", "g (float[4] x) => (float[4] y) { s = Sigmoid(x) y = Log(s) }", ("y",), "", "not of a softmax"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("repair", "body", "nodes", "value", "reason"), REFUSED, ids=[f"{r[0]}: {r[4]}" for r in REFUSED]
)
def test_a_repair_that_cannot_be_proven_is_refused_with_the_reason(repair, body, nodes, value, reason):
    model = parse(body)
    result = apply(model, repair, nodes, value)
    assert result.applied == ()
    assert reason in result.refused[0][1]
    assert result.model.proto == model.proto


def test_every_repair_has_a_refusal_tested():
    assert {entry[0] for entry in REFUSED} == set(REPAIRS)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(
    power=st.integers(-8, 8), left=st.integers(1, 4), inner=st.integers(1, 6), seed=st.integers(0, 99),
    divide=st.booleans(),
)  # fmt: skip
def test_scaling_first_by_a_power_of_two_is_exact_in_float32(power, left, inner, seed, divide):
    op, scale = ("Div", 2.0**-power) if divide else ("Mul", 2.0**power)
    model = parse(
        f"g (float[{left},{inner}] a, float[{inner},3] b) => (float[{left},3] y) <float s = {{{scale!r}}}> "
        f"{{ p = MatMul(a, b) y = {op}(p, s) }}"
    )
    rng = np.random.default_rng(seed)
    inputs = {
        "a": rng.normal(size=(left, inner)).astype(np.float32),
        "b": rng.normal(size=(inner, 3)).astype(np.float32),
    }
    result = apply(model, "scale_first", ("y",))
    assert ops(result.model) == ["Mul", "MatMul"]
    from precision_planner.planning.cures import simulated

    before, after = simulated(model, inputs, None, {}), simulated(result.model, inputs, None, {})
    np.testing.assert_array_equal(before["y"], after["y"])


@settings(derandomize=True, max_examples=20, deadline=None)
@given(exponent=st.integers(-100, -20), seed=st.integers(0, 99))
def test_rescaling_a_weight_is_exact_in_float32(exponent, seed):
    rng = np.random.default_rng(seed)
    weight = np.ldexp(rng.normal(size=(8, 4)), exponent).astype(np.float32)
    body = "g (float[2,8] x) => (float[2,4] y) <float[8,4] w = {%s}> { y = MatMul(x, w) }"
    model = parse(body % ", ".join(repr(float(v)) for v in weight.reshape(-1)))
    result = apply(model, "rescale_weight", value="w")
    assert ops(result.model) == ["MatMul", "Mul"]
    scaled = result.model.array(result.model.proto.graph.initializer[0])
    assert 2.0**-6 <= np.abs(scaled).max() < 2.0**-5
    inputs = {"x": rng.normal(size=(2, 8)).astype(np.float32)}
    np.testing.assert_array_equal(oracle.run(model, inputs)["y"], oracle.run(result.model, inputs)["y"])


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_a_log_sum_exp_is_shifted_by_its_maximum(opset, keepdims):
    """float64 by hand, also where exp(x) overflows float32; rows of -inf, and rows that hold inf."""
    given = f"<axes=[1], keepdims={keepdims}>(x)" if opset < 18 else f"<keepdims={keepdims}>(x, last)"
    model = parse(
        f"g (float[5,8] x) => (float[5{',1' if keepdims else ''}] y) <int64[1] last = {{1}}> "
        f"{{ y = ReduceLogSumExp{given} }}",
        opset,
    )
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    x[1] += 200
    x[2] -= 200
    x[3] = -np.inf
    x[4, 2] = np.inf
    shifted = apply(model, "shift_logsumexp", ("y",)).model
    assert "ReduceLogSumExp" not in ops(shifted)
    onnx.checker.check_model(shifted.to_proto(), full_check=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        top = x.max(1, keepdims=True).astype(np.float64)
        shift = np.where(np.isinf(top), 0, top)
        right = np.log(np.exp(x - shift).sum(1, keepdims=True)) + shift
    with Session(shifted) as session:
        got = session.run({"x": x})["y"]
    np.testing.assert_allclose(got, right if keepdims else right[:, 0], rtol=3e-7)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_divide_first_writes_a_mean_where_it_can(opset):
    axes = "<axes=[1], keepdims=1>(x)" if opset < 13 else "<keepdims=1>(x, last)"
    model = parse(
        f"g (float[2,64] x) => (float[2,1] y) <float n = {{64}}, int64[1] last = {{1}}> "
        f"{{ r = ReduceSum{axes} y = Div(r, n) }}",
        opset,
    )
    result = apply(model, "divide_first", ("r",))
    # opset 13 to 17: ReduceSum takes its axes as an input, ReduceMean as an attribute
    assert ops(result.model) == (["Mul", "ReduceSum"] if opset == 13 else ["ReduceMean"])
    onnx.checker.check_model(result.model.to_proto(), full_check=True)
    inputs = {"x": np.random.default_rng(0).normal(size=(2, 64))}
    np.testing.assert_allclose(oracle.run(result.model, inputs)["y"], oracle.run(model, inputs)["y"], rtol=1e-6)


def test_repairs_in_a_body_and_of_shared_nodes_are_applied_in_turns():
    # two requests for one constant: the second finds nothing left to do, and says so
    model = parse("g(float[2] x) => (float[2] y) <float m = {-1e9}> { a = Add(x, m) y = Softmax(a) }")
    request = RepairRequest("finite_mask", (), (NodeId((), "a"),), "m", {"value": -30000.0}, label="MK001")
    result = apply_repairs(model, [request, request])
    assert len(result.applied) == 1
    assert result.refused[0][1] == "no constant is below the mask"
    assert float(result.model.array(result.model.proto.graph.initializer[0])) == -30000.0
    assert float(model.array(model.proto.graph.initializer[0])) == -1e9  # the input is as it was


def test_names_metadata_and_untouched_nodes_survive():
    model = parse(
        "g (float[2,2] x) => (float[2,2] y) <float s = {0.5}> { [mm] p = MatMul(x, x) "
        "[sc] q = Mul(p, s) [act] y = Relu(q) }"
    )
    proto = model.edit()
    proto.graph.node[0].metadata_props.add(key="origin", value="attention")
    proto.graph.doc_string = "kept"
    result = apply(model.with_proto(proto), "scale_first", ("q",))
    moved, relu = result.model.proto.graph.node[1], result.model.proto.graph.node[2]
    assert (moved.name, moved.metadata_props[0].value, list(moved.output)) == ("mm", "attention", ["q"])
    assert relu == proto.graph.node[2]
    assert result.model.proto.graph.doc_string == "kept"
    assert GraphIndex(result.model.proto).find(NodeId((), "q")) is not None
