"""Rescaling a stream: bit by bit the same in FP32, finite in FP16, and refused where that cannot be had."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.model import Model, NodeId
from precision_planner.transforms.repairs import REPAIRS, RepairRequest, apply_repairs
from precision_planner.transforms.repairs.powers import cast_error, keeps_fp16
from tests.gates import assert_gates
from tests.rules import oracle
from tests.transforms import stream_models
from tests.transforms.stream_models import ACTIVATIONS, LINEARS, NORMS, READS, Spec

LIMIT = 65504.0

specs = st.builds(
    Spec,
    seed=st.integers(0, 999),
    layers=st.integers(1, 4),
    pre_norm=st.booleans(),
    norm=st.sampled_from(NORMS),
    linear=st.sampled_from(LINEARS),
    activation=st.sampled_from(ACTIVATIONS),
    attention=st.booleans(),
    shared=st.booleans(),
    read=st.sampled_from(READS),
    constant_nodes=st.booleans(),
    magnitude=st.sampled_from([1e4, 1e5, 3e6]),
    epsilon=st.sampled_from([1e-5, 1e-12]),
)


def run(model, inputs, names=None):
    proto = model.to_proto() if isinstance(model, Model) else model
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    if names:
        proto = onnx.ModelProto.FromString(proto.SerializeToString())
        proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in outputs_of(proto))
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = names or outputs_of(proto)
    return dict(zip(wanted, session.run(wanted, inputs), strict=True))


def outputs_of(proto):
    return [value.name for value in proto.graph.output]


def measured(proto, inputs):
    """(scope, value) -> amax of every float value, by onnxruntime."""
    names = [name for node in proto.graph.node if node.op_type != "Constant" for name in node.output if name]
    found = {**run(proto, inputs, names), **inputs}
    return {((), name): float(np.abs(a).max()) for name, a in found.items() if a.dtype == np.float32}


def rescale(proto, inputs, *values, **parameters):
    """Ask for the repair at some values, with what was measured."""
    defaults = {**REPAIRS["rescale_stream"].parameters, **parameters}
    requests = [RepairRequest("rescale_stream", (), (NodeId((), value),), "", defaults) for value in values]
    return apply_repairs(Model.load(proto), requests, measured(proto, inputs))


def rows(spec, count=6):
    return {"x": np.random.default_rng(spec.seed + 1).normal(0, 5, (count, spec.width)).astype(np.float32)}


def overflowing(proto, inputs, watched):
    """Which of the watched values (or what they have become) pass the limit, the largest first."""
    amax = measured(proto, inputs)
    names = {name for value in watched for name in (value, f"{value}_scaled") if ((), name) in amax}
    return sorted((name for name in names if amax[(), name] > LIMIT), key=lambda name: -amax[(), name])


@pytest.mark.slow
@settings(derandomize=True, max_examples=150, deadline=None)
@given(specs)
def test_the_same_to_the_bit_in_fp32_and_every_value_in_range(spec):
    (proto, watched), inputs = stream_models.build(spec), rows(spec)
    wide = overflowing(proto, inputs, watched)
    assume(wide)
    result = rescale(proto, inputs, *wide)
    refused = {request.nodes[0].output: why for request, why in result.refused if "gone" not in why}
    assert all("the graph returns it" in why for why in refused.values()), refused
    assume(result.applied)
    onnx.checker.check_model(result.model.to_proto(), full_check=True)
    before, after = run(proto, inputs), run(result.model, inputs)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
    assert all(np.isfinite(value).all() for value in before.values())
    # no sum and no product is past the limit any more, unless the caller wants to see it there
    assert set(overflowing(result.model.to_proto(), inputs, watched)) <= {*refused, *outputs_of(proto)}, result.refused


@pytest.mark.slow
@settings(derandomize=True, max_examples=40, deadline=None)
@given(specs)
def test_float64_by_onnxs_own_definitions_agrees(spec):
    (proto, watched), inputs = stream_models.build(spec), rows(spec)
    wide = overflowing(proto, inputs, watched)
    assume(wide)
    result = rescale(proto, inputs, *wide)
    assume(result.applied)
    before, after = oracle.run(Model.load(proto), inputs), oracle.run(result.model, inputs)
    for name in outputs_of(proto):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@settings(derandomize=True, max_examples=25, deadline=None)
@given(specs, st.sampled_from(["tensorrt-10", "tensorrt-11"]))
def test_a_plan_keeps_nothing_but_normalizations_high(spec, target):
    assume(spec.read in ("none", "sliced"))
    (proto, watched), inputs = stream_models.build(spec), rows(spec, 16)
    assume(overflowing(proto, inputs, watched))
    planned = pp.plan(proto, inputs=inputs, target=target)
    assert any(entry["repair"] == "rescale_stream" for entry in planned.plan.repairs)
    gemms = [node.node for node in planned.plan.kept if node.op_type in ("MatMul", "Gemm")]
    assert gemms == []
    assert planned.plan.predicted[outputs_of(proto)[-1]]["nonfinite"] == 0
    assert planned.plan.predicted[outputs_of(proto)[-1]]["rel_l2"] < 0.02


# -- one thing at a time ----------------------------------------------------------------------------------------------


def parse(body, opset=17, functions="", domains=""):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{domains}]> {body} {functions}')


def refusal(proto, inputs, value, **parameters):
    result = rescale(proto, inputs, value, **parameters)
    assert result.applied == ()
    assert result.model.proto == Model.load(proto).proto
    return result.refused[0][1]


def applied(proto, inputs, value, **parameters):
    """The repaired model, bit by bit the same."""
    result = rescale(proto, inputs, value, **parameters)
    assert result.applied, result.refused
    repaired = result.model.to_proto()
    onnx.checker.check_model(repaired, full_check=True)
    before, after = run(proto, inputs), run(repaired, inputs)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
    return repaired


def op_types(proto):
    return [node.op_type for node in proto.graph.node]


def arrays(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def weighted(nodes, weights, inputs, outputs, opset=17):
    """A model of nodes over arrays; every value is float32."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * rank) for n, rank in outputs.items()],
        [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def floats(seed, *shape, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


FFN = """g (float[1,2] x) => (float[1,2] y)
  <float[2,2] w = {400, 0, 0, 400}, float[2] b = {8, 16}, float[2,2] v = {0.5, 0, 0, 0.5}> {
  a = MatMul(x, w)
  s = Add(a, b)
  y = MatMul(s, v)
}"""


@pytest.mark.parametrize(("amax", "headroom", "power"), [(65504, 4, 2), (65505, 4, 3), (16377, 4, 1), (65505, 1, 1)])
def test_the_power_is_the_smallest_that_leaves_the_headroom(amax, headroom, power):
    proto = parse("g (float[2] x) => (float[2] y) { s = Relu(x) r = Add(s, x) y = LpNormalization(r) }")
    inputs = {"x": np.array([amax / 2, 1], np.float32)}
    repaired = applied(proto, inputs, "r", headroom=float(headroom))
    assert measured(repaired, inputs)[(), "r_scaled"] == amax * 2.0**-power <= LIMIT / headroom
    assert amax * 2.0 ** (1 - power) > LIMIT / headroom


def test_weight_and_bias_are_scaled_and_the_next_weight_takes_it_back():
    repaired = applied(parse(FFN), {"x": np.array([[200, -100]], np.float32)}, "a")
    assert op_types(repaired) == ["MatMul", "Add", "MatMul"]
    # 80008 / 2^3 is within 16376
    assert arrays(repaired)["w"].max() == 50
    assert arrays(repaired)["b"].tolist() == [1, 2]
    assert arrays(repaired)["v"].max() == 4


def test_what_is_in_range_or_was_not_measured_is_left_alone():
    assert "in range" in refusal(parse(FFN), {"x": np.array([[20, -10]], np.float32)}, "a")
    model = Model.load(parse(FFN))
    request = RepairRequest("rescale_stream", (), (NodeId((), "a"),), "", {"headroom": 4.0, "power": 0.0})
    assert "was not measured" in apply_repairs(model, [request]).refused[0][1]
    given = RepairRequest("rescale_stream", (), (NodeId((), "a"),), "", {"headroom": 4.0, "power": 5.0})
    assert apply_repairs(model, [given]).notes == ("2^-5 on 2 values; 3 constants scaled, 0 Mul inserted",)


def test_a_weight_that_others_read_gets_a_copy_and_stays_as_it_is():
    text = FFN.replace("(float[1,2] y)", "(float[1,2] y, float[2,2] z)")
    proto = parse(text.replace("y = MatMul(s, v)", "y = MatMul(s, v) z = Mul(w, v)"))
    repaired = applied(proto, {"x": np.array([[200, -100]], np.float32)}, "a")
    assert arrays(repaired)["w"].max() == 400
    assert arrays(repaired)["v"].max() == 0.5
    assert sorted(float(a.max()) for n, a in arrays(repaired).items() if "times" in n) == [4, 50]


def test_a_weight_that_the_caller_can_override_is_not_touched():
    proto = parse(FFN)
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 2]))
    repaired = applied(proto, {"x": np.array([[200, -100]], np.float32)}, "a")
    # the activation is scaled on its way in instead
    assert op_types(repaired) == ["Mul", "MatMul", "Add", "MatMul"]
    assert arrays(repaired)["w"].max() == 400


def test_a_weight_whose_small_channels_would_flush_is_spared():
    weight = np.diag([400.0, 2.0**-13]).astype(np.float32)
    weight[0, 1] = 2.0**-13 * 1.0009765625  # a channel of small values with all their bits
    inputs = {"x": np.array([[200, 0.5]], np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], "up"), helper.make_node("LpNormalization", ["a"], ["y"])]
    repaired = applied(weighted(nodes, {"w": weight}, inputs, {"y": 2}), inputs, "a")
    assert op_types(repaired) == ["Mul", "MatMul", "LpNormalization"]
    np.testing.assert_array_equal(arrays(repaired)["w"], weight)


def test_a_weight_that_cannot_take_the_power_up_gets_a_mul_behind_it():
    proto = parse(FFN.replace("v = {0.5, 0, 0, 0.5}", "v = {-0.25, 0, 50000, 0.5}"))
    repaired = applied(proto, {"x": np.array([[200, -0.0401]], np.float32)}, "a")
    assert op_types(repaired) == ["MatMul", "Add", "MatMul", "Mul"]


def test_what_a_later_product_makes_of_itself_is_its_own_affair():
    proto = parse(FFN.replace("v = {0.5, 0, 0, 0.5}", "v = {30, 0, 0, 0.5}"))
    repaired = applied(proto, {"x": np.array([[200, -100]], np.float32)}, "a")
    assert op_types(repaired) == ["MatMul", "Add", "MatMul"]
    assert "the graph returns it" in refusal(proto, {"x": np.array([[200, -100]], np.float32)}, "y")


def test_a_large_weight_is_written_block_by_block():
    x = floats(0, 3, 64, scale=100)
    weights = {"w": floats(1, 64, 64, scale=200), "g": np.ones(64), "v": floats(2, 64, 64)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "up"),
        helper.make_node("Add", ["x", "a"], ["s"], "sum"),
        helper.make_node("LayerNormalization", ["s", "g"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "v"], ["y"], "down"),
    ]
    repaired = applied(weighted(nodes, weights, {"x": x}, {"y": 2}), {"x": x}, "s")
    power = round(np.log2(arrays(repaired)["w"][0, 0] / weights["w"][0, 0]))
    assert power < 0
    np.testing.assert_array_equal(arrays(repaired)["w"], np.ldexp(weights["w"], power))
    epsilon = next(a.f for n in repaired.graph.node if n.name == "norm" for a in n.attribute if a.name == "epsilon")
    assert epsilon == np.ldexp(np.float32(1e-5), 2 * power)  # the default, written out


@pytest.mark.parametrize("opset", [10, 13, 17])
def test_convolutions_pools_clips_and_native_norms(opset):
    x = floats(0, 1, 4, 6, 6, scale=50)
    weights = {
        "w": floats(1, 8, 4, 3, 3, scale=200), "b": floats(2, 8, scale=9), "t": floats(3, 8, 4, 2, 2, scale=0.2),
        "c": floats(4, 4), "g": floats(5, 4) + 3, "h": floats(6, 4), "m": floats(7, 4), "v": floats(8, 4) ** 2 + 1,
    }  # fmt: skip
    clip = {"min": -30000.0, "max": 3e5} if opset < 11 else {}
    if opset >= 11:
        weights |= {"low": np.float32(-30000), "high": np.float32(3e5)}
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], "conv", pads=[1, 1, 1, 1]),
        node("Clip", ["a"] if opset < 11 else ["a", "low", "high"], ["d"], "clip", **clip),
        node("MaxPool", ["d"], ["e"], "pool", kernel_shape=[2, 2]),
        node("LeakyRelu", ["e"], ["f"], "leaky", alpha=0.1),
        node("ConvTranspose", ["f", "t", "c"], ["u"], "deconv"),
        node("InstanceNormalization", ["u", "g", "h"], ["y"], "instance", epsilon=1e-3),
        node("BatchNormalization", ["u", "g", "h", "m", "v"], ["z"], "batch"),
    ]
    proto = weighted(nodes, weights, {"x": x}, {"y": 4, "z": 4}, opset)
    repaired = applied(proto, {"x": x}, "a")
    assert "Mul" not in op_types(repaired)
    amax = measured(repaired, {"x": x})
    assert max(amax[(), name] for name in ("a_scaled", "d_scaled", "e_scaled", "f_scaled")) <= LIMIT / 4


def test_statistics_that_are_no_constants_are_read_at_their_own_scale():
    """A batch normalization whose statistics are computed, or given, cannot take the power up."""
    x = floats(0, 1, 4, 6, 6, scale=50)
    weights = {"w": floats(1, 4, 4, 1, 1, scale=300), "g": [1, 2, 3, 4], "h": [4, 3, 2, 1], "v": [4e6, 1e6, 2e6, 1e6]}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("BatchNormalization", ["r", "g", "h", "m", "v"], ["y"], "batch"),
    ]
    inputs = {"x": x, "m": np.array([1000, 2000, 3000, 4000], np.float32)}
    proto = weighted(nodes, weights, inputs, {"y": 4})
    amax = max(measured(proto, inputs)[(), name] for name in ("a", "r"))
    assert LIMIT / 4 < amax < LIMIT
    assert op_types(applied(proto, inputs, "r")) == ["Conv", "Relu", "Mul", "BatchNormalization"]


def test_a_reader_that_needs_the_value_gets_it_by_a_mul_or_the_repair_is_refused():
    text = """g (float[1,2] x) => (float[1,2] y, float[1,2] z)
      <float[2,2] w = {300, 0, 0, 300}, float[2] g = {1, 1}> {
      a = MatMul(x, w)
      s = Add(x, a)
      y = LayerNormalization(s, g)
      z = Softplus(s)
    }"""
    repaired = applied(parse(text), {"x": np.array([[200, 1]], np.float32)}, "s")  # 60200 is in range as it is
    assert op_types(repaired).count("Mul") == 2
    why = refusal(parse(text), {"x": np.array([[300, 1]], np.float32)}, "s")
    assert why == "s reaches 9.03e+04 and Softplus needs it as it is"


BODY = """
      a = MatMul(x, w)
      s = Add(x, a)
      y = LayerNormalization(s, g)
      z = If (c) <then_branch = t () => (float[1,2] p) { p = Identity(s) },
                  else_branch = e () => (float[1,2] q) { q = Neg(s) }>
    }"""


def test_a_nested_body_reads_the_value_as_it_was():
    text = (
        """g (float[1,2] x, bool c) => (float[1,2] y, float[1,2] z)
      <float[2,2] w = {300, 0, 0, 300}, float[2] g = {1, 1}> {"""
        + BODY
    )
    proto = parse(text)
    c = np.array(True)
    near, past = np.array([[200, 1]], np.float32), np.array([[300, 1]], np.float32)

    def ranges(x):
        return {((), "x"): float(x.max()), ((), "a"): 300 * float(x.max()), ((), "s"): 301 * float(x.max())}

    request = RepairRequest("rescale_stream", (), (NodeId((), "s"),), "", {"headroom": 4.0, "power": 0.0})
    result = apply_repairs(Model.load(proto), [request], ranges(near))
    assert result.applied
    before, after = run(proto, {"x": near, "c": c}), run(result.model, {"x": near, "c": c})
    np.testing.assert_array_equal(after["z"], before["z"])
    refused = apply_repairs(Model.load(proto), [request], ranges(past)).refused
    assert refused[0][1] == "s reaches 9.03e+04 and a nested body reads it"


def test_values_of_bodies_and_local_functions_are_refused():
    inside = parse(
        """g (float[1,2] x, bool c) => (float[1,2] z) {
      z = If (c) <then_branch = t () => (float[1,2] p) { q = Add(x, x) p = Neg(q) },
                  else_branch = e () => (float[1,2] r) { r = Neg(x) }>
    }"""
    )
    scope = ("z.then_branch",)
    request = RepairRequest("rescale_stream", scope, (NodeId(scope, "q"),), "", {"headroom": 4.0, "power": 3.0})
    assert "nested body or a local function" in apply_repairs(Model.load(inside), [request]).refused[0][1]


def test_an_epsilon_that_would_leave_float32_is_refused():
    text = """g (float[1,2] x) => (float[1,2] y) <float[2] g = {1, 1}> {
      s = Add(x, x)
      y = LayerNormalization<epsilon = 1e-37>(s, g)
    }"""
    why = refusal(parse(text), {"x": np.array([[1e5, 1]], np.float32)}, "s")
    assert why == "the epsilon 1e-37 of LayerNormalization would leave float32's normal range"


def test_a_stream_too_large_for_fp16_at_both_ends_is_refused():
    text = "g (float[1,2] x) => (float[1,2] y) { s = Add(x, x) y = LpNormalization(s) }"
    assert "at the other end" in refusal(parse(text), {"x": np.array([[1e13, 1]], np.float32)}, "s")


def test_two_streams_of_one_model_get_powers_of_their_own():
    text = """g (float[1,2] x) => (float[1,2] y)
      <float[2,2] w = {400, 0, 0, 400}, float[2,2] u = {900000, 0, 0, 100}, float[2] g = {1, 2}> {
      a = MatMul(x, w)
      s = Add(x, a)
      n = LayerNormalization(s, g)
      b = MatMul(n, u)
      t = Add(n, b)
      y = LayerNormalization(t, g)
    }"""
    proto, inputs = parse(text), {"x": np.array([[200, -100]], np.float32)}
    result = rescale(proto, inputs, "s", "t")
    assert len(result.applied) == 2
    before, after = run(proto, inputs), run(result.model, inputs)
    np.testing.assert_array_equal(after["y"], before["y"])
    assert [note.split()[0] for note in result.notes] == ["2^-3", "2^-6"]


@pytest.mark.parametrize("power", [-3, -8, -12, -16])
def test_what_fp16_makes_of_a_scaled_channel_is_measured_as_numpy_rounds(power):
    weight = floats(3, 40, 6, scale=0.05)
    scaled = np.ldexp(weight, power).astype(np.float64)
    wrong = scaled.astype(np.float16).astype(np.float64) - scaled
    expected = (np.linalg.norm(wrong, axis=0) / np.linalg.norm(scaled, axis=0)).max()
    assert cast_error(weight, 1, power) == pytest.approx(expected, rel=1e-6)
    assert cast_error(np.ascontiguousarray(weight.T), 0, power) == pytest.approx(expected, rel=1e-6)
    assert keeps_fp16(weight, 1, power) == (expected <= 2.0**-11)


@pytest.mark.rtx
@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_rescaled_network_passes_the_gates(pre_norm):
    spec = Spec(seed=5, pre_norm=pre_norm, attention=True, shared=True, read="skip", constant_nodes=True)
    (proto, watched), inputs = stream_models.build(spec), rows(spec)
    result = rescale(proto, inputs, *overflowing(proto, inputs, watched))
    assert result.applied
    assert_gates(result.model.to_proto())
