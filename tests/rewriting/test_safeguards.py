"""What `rewrite` keeps in FP32 without a search, judged by the simulation against numpy in float64."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.compat import convert_float_to_float16, convert_to_mixed_precision

RNG = np.random.default_rng(0)


def model(nodes, inputs, outputs, constants, opset=17):
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def reasons(report):
    return {entry["node"]: entry["reason"] for entry in report["kept_fp32"]}


def off(found, right):
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def clipped_variance():
    channels = 8
    g, b = RNG.uniform(0.7, 1.1, channels), RNG.normal(0, 0.3, channels)
    m, v = RNG.normal(0, 300, channels), RNG.uniform(1e7, 9.8e7, channels)
    w = RNG.normal(0, 1000, (channels, 3, 1, 1))
    constants = {n: a.astype(np.float32) for n, a in {"w": w, "g": g, "b": b, "m": m, "v": v}.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], "bn"),
    ]
    made = model(nodes, [value("x", ["N", 3, 8, 8])], [value("y", ["N", channels, 8, 8])], constants, opset=15)
    x = RNG.normal(0, 1, (2, 3, 8, 8))
    c = np.einsum("oi,nihw->nohw", w[:, :, 0, 0], x)
    along = lambda a: a[None, :, None, None]  # noqa: E731
    return made, x.astype(np.float32), along(g) * (c - along(m)) / np.sqrt(along(v) + 1e-5) + along(b)


@pytest.mark.parametrize("how", ["rewrite", "autocast", "float16"])
def test_a_variance_that_fp16_cannot_hold_is_not_clipped(how):
    made, x, right = clipped_variance()
    if how == "rewrite":
        result = pp.rewrite(made)
        assert list(reasons(result.report)) == ["bn"]
        assert "constant 'v' reaches" in reasons(result.report)["bn"]
        typed = result.model
    elif how == "autocast":
        typed = convert_to_mixed_precision(made, keep_io_types=True)
    else:
        typed = convert_float_to_float16(made, keep_io_types=True)
    assert off(pp.simulate(typed, {"x": x})["y"], right) < 2e-3


def test_a_weight_that_would_be_zero_is_kept_however_it_is_moved():
    w = (RNG.normal(0, 1, (4, 4)) * 1e-9).astype(np.float32)
    nodes = [
        helper.make_node("Unsqueeze", ["w", "axes"], ["u"], "moved"),
        helper.make_node("MatMul", ["x", "u"], ["a"], "product"),
        helper.make_node("Mul", ["a", "big"], ["y"], "scale"),
    ]
    constants = {"w": w, "axes": np.array([0]), "big": np.float32(1e5) * np.ones(1, np.float32)}
    result = pp.rewrite(
        model([*nodes, helper.make_node("Relu", ["x"], ["z"], "low")], [value("x", [1, 2, 4])],
              [value("y", [1, 2, 4]), value("z", [1, 2, 4])], constants)
    )  # fmt: skip
    kept = reasons(result.report)
    assert "makes zero" in kept["product"]
    assert "reaches 1e+05" in kept["scale"]
    x = RNG.normal(0, 1, (1, 2, 4)).astype(np.float32)
    right = x.astype(np.float64) @ w.astype(np.float64) * 1e5
    assert off(pp.simulate(result.model, {"x": x})["y"], right) < 1e-5


def test_masks_bounds_and_epsilons_are_no_reason():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"], "scores"),
        helper.make_node("Add", ["s", "mask"], ["m"], "masked"),
        helper.make_node("Softmax", ["m"], ["p"], "softmax"),
        helper.make_node("Clip", ["p", "", "top"], ["c"], "clip"),
        helper.make_node("Min", ["c", "top"], ["d"], "min"),
        helper.make_node("Add", ["d", "eps"], ["y"], "add"),
    ]
    constants = {
        "w": np.eye(4, dtype=np.float32), "mask": np.array([0, 0, -3.4e38, 0], np.float32),
        "top": np.float32(3.4e38), "eps": np.float32(1e-12),
    }  # fmt: skip
    made = model(nodes, [value("x", [2, 4])], [value("y", [2, 4])], constants)
    assert reasons(pp.rewrite(made).report) == {}


def rope(length=3000):
    """Angles of rotary embedding from integer positions, and a product that uses their cosine."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["f", "last"], ["col"], "col"),
        helper.make_node("MatMul", ["col", "freq"], ["angle"], "angle"),
        helper.make_node("Cos", ["angle"], ["cos"], "cos"),
        helper.make_node("Mul", ["x", "cos"], ["y"], "rotate"),
    ]
    freq = (1.0 / 100 ** (np.arange(4) / 4)).astype(np.float32)[None]
    inputs = [value("ids", [3], TensorProto.INT64), value("x", [3, 4])]
    made = model(nodes, inputs, [value("y", [3, 4])], {"last": np.array([1]), "freq": freq})
    ids = np.array([1, length // 2 + 1, length - 1])
    x = RNG.uniform(0.5, 1, (3, 4)).astype(np.float32)
    return made, {"ids": ids, "x": x}, x * np.cos(ids[:, None] * freq.astype(np.float64))


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_angles_from_integers_stay_and_their_cosines_do_not(precision, bound):
    made, feeds, right = rope()
    result = pp.rewrite(made, precision=precision)
    kept = reasons(result.report)
    assert set(kept) >= {"angle", "cos"}
    assert "rotate" not in kept
    assert off(pp.simulate(result.model, feeds)["y"], right) < bound


def test_the_sine_of_what_a_network_computes_is_no_such_angle():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], "a"), helper.make_node("Sin", ["a"], ["y"], "sine")]
    made = model(nodes, [value("x", [2, 4])], [value("y", [2, 4])], {"w": np.eye(4, dtype=np.float32)})
    assert reasons(pp.rewrite(made).report) == {}


def overflowing():
    """(x * 300)^2 / 300^2: the square passes 65504 where |x| > 0.86."""
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["a"], "grow"),
        helper.make_node("Mul", ["a", "a"], ["b"], "square"),
        helper.make_node("Mul", ["b", "i"], ["y"], "shrink"),
        helper.make_node("Relu", ["x"], ["z"], "relu"),
    ]
    constants = {"k": np.float32(300) * np.ones(1, np.float32), "i": np.full(1, 1 / 90000, np.float32)}
    return model(nodes, [value("x", [8])], [value("y", [8]), value("z", [8])], constants)


def test_what_overflows_on_the_inputs_stays_and_without_inputs_nobody_knows():
    x = np.linspace(-2, 2, 8).astype(np.float32)
    result = pp.rewrite(overflowing(), inputs={"x": x})
    kept = reasons(result.report)
    assert set(kept) == {"square", "shrink"}
    assert "on the inputs" in kept["square"]
    assert off(pp.simulate(result.model, {"x": x})["y"], x.astype(np.float64) ** 2) < 2e-3
    assert reasons(pp.rewrite(overflowing()).report) == {}
    assert not np.isfinite(pp.simulate(pp.rewrite(overflowing()).model, {"x": x})["y"]).all()


def test_the_user_has_the_last_word():
    made, _, _ = clipped_variance()
    low = pp.rewrite(made, weights="saturate")
    assert reasons(low.report) == {}
    chosen = pp.rewrite(made, only_low=["*"])
    assert reasons(chosen.report) == {}


def norm_behind_kept():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "project"),
        helper.make_node("Mul", ["h", "k"], ["s"], "stream"),
        helper.make_node("LayerNormalization", ["s", "g", "b"], ["n"], "norm", axis=-1),
        helper.make_node("MatMul", ["n", "w"], ["y"], "out"),
    ]
    constants = {
        "w": np.eye(8, dtype=np.float32), "k": np.full(1, 3e4, np.float32),
        "g": np.ones(8, np.float32), "b": np.zeros(8, np.float32),
    }  # fmt: skip
    return model(nodes, [value("x", [4, 8])], [value("y", [4, 8])], constants)


def test_a_kept_norm_behind_a_kept_node_reads_no_half():
    x = RNG.normal(0, 30, (4, 8)).astype(np.float32)
    h = x.astype(np.float64) * 3e4
    right = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
    result = pp.rewrite(norm_behind_kept(), keep_fp32=["stream", "layernorm"])
    assert off(pp.simulate(result.model, {"x": x})["y"], right) < 2e-3
    # said by hand, it is done as said
    forced = pp.rewrite(norm_behind_kept(), keep_fp32=["stream", "layernorm"], keep_as="compute")
    assert not np.isfinite(pp.simulate(forced.model, {"x": x})["y"]).all()


def test_excluded_nodes_stay_islands():
    x = RNG.normal(0, 30, (4, 8)).astype(np.float32)
    typed = convert_to_mixed_precision(norm_behind_kept(), nodes_to_exclude=["stream", "norm"], keep_io_types=True)
    assert np.isfinite(pp.simulate(typed, {"x": x})["y"]).all()


def test_arguments_that_do_nothing_are_warned_of():
    made = overflowing()
    with pytest.warns(UserWarning, match="nodes_to_exlude is unknown"):
        convert_to_mixed_precision(made, nodes_to_exlude=["square"])
    with pytest.warns(UserWarning, match="providers is AutoCast's"):
        convert_to_mixed_precision(made, providers=["cpu"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_to_mixed_precision(made, trt_plugins=None)


def test_a_model_that_fails_on_the_inputs_is_converted_and_says_so():
    nodes = [helper.make_node("Log", ["x"], ["a"], "log"), helper.make_node("Mul", ["a", "a"], ["y"], "mul")]
    made = model(nodes, [value("x", [2])], [value("y", [2])], {})
    result = pp.rewrite(made, inputs={"x": np.array([-1.0, 1.0], np.float32)})
    assert any("not looked for" in note for note in result.report["notes"])
    assert isinstance(result.model, onnx.ModelProto)


@pytest.mark.parametrize("how", ["initializer", "constant"])
def test_a_weight_stored_in_half_and_cast_back_makes_no_island(how: str) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]> case (float[2] x) => (float[2] y) '
    stored = "float16[2] {14336, 16384}"
    body = {
        "initializer": "<float16[2] c = {14336, 16384}> { w = Cast<to = 1>(c) y = Mul(x, w) }",
        "constant": f"{{ c = Constant<value = {stored}>() w = Cast<to = 1>(c) y = Mul(x, w) }}",
    }
    report = pp.rewrite(onnx.parser.parse_model(head + body[how]), verify=False).report
    assert report["kept_fp32"] == []
