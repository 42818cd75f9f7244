"""TensorRT's warnings: the raw rule against brute force, folded scales, and the names in its logs."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from precision_planner.analysis import TensorRTWarnings, folded_scales, tensorrt_warnings, weights_census
from precision_planner.analysis.tensorrt_log import base_name, log_lists, myelin_name, same_tensor
from precision_planner.model import GraphIndex, Model
from precision_planner.patterns import find_patterns

from .models import attention, everywhere, model, tensor, value


def warn(proto: onnx.ModelProto) -> TensorRTWarnings:
    loaded = Model.load(proto)
    index = GraphIndex(loaded.proto)
    matches = find_patterns(loaded, index=index)
    weights = weights_census(loaded, index, matches)
    return tensorrt_warnings(weights, index, matches, folded_scales(loaded, index))


def raw_rule(arrays: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """TensorRT's rule as it was measured, one comparison a category."""
    out: dict[str, list[str]] = {"subnormal": [], "underflow": [], "overflow": []}
    for name, array in arrays.items():
        size = np.abs(array.astype(np.float64))
        if ((size >= 2.0**-24) & (size < 2.0**-14)).any():
            out["subnormal"].append(name)
        if ((size > 0) & (size < 2.0**-24)).any():
            out["underflow"].append(name)
        if ((size > 65504) & np.isfinite(size)).any():
            out["overflow"].append(name)
    return out


POINTS = [0.0, 1.0, -1.0, 2.0**-14, 2.0**-15, 2.0**-24, 2.0**-25, 1e-12, -1e-9, 6e-5, 65504, 65505, 65520, -7e4, 3.4e38,
          -3.4e38, math.inf, -math.inf, math.nan, 0.03]  # fmt: skip


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from(POINTS), min_size=1, max_size=5), min_size=1, max_size=5))
def test_the_lists_are_the_raw_rules(rows: list[list[float]]) -> None:
    arrays = {f"c{at}": np.array(row, np.float32) for at, row in enumerate(rows)}
    nodes = [helper.make_node("Mul", ["x", name], [f"y{name}"]) for name in arrays]
    outputs = [value(f"y{name}", ["N"]) for name in arrays]
    found = warn(model(nodes, [value("x", ["N", 1])], outputs, arrays))
    assert {name: list(names) for name, names in found.tensors.items()} == raw_rule(arrays)


def test_what_is_converted() -> None:
    proto, arrays = everywhere(np.random.default_rng(0))
    read = ("w", "value_float", "value_floats", "then_constant", "in_then", "else_constant", "in_function", "sparse",
            "sparse_constant")  # fmt: skip
    used = {name: arrays[name] for name in read if name not in ("value_float", "value_floats", "then_constant")}
    want = raw_rule(used)
    found = warn(proto)
    assert {name: sorted(names) for name, names in found.tensors.items()} == {
        name: sorted(names) for name, names in want.items()
    }


@pytest.mark.parametrize(("side", "folded"), [("scores", {"wq", "bq", "wk"}), ("query", {"wq", "bq"}), ("key", {"wk"})])
@pytest.mark.parametrize(("op", "factor"), [("Mul", 0.125), ("Div", 8.0)])
def test_folded_scales(side: str, folded: set[str], op: str, factor: float) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(0.1, 1, (64, 64)).astype(np.float32) for name in ("wq", "wk", "wv")}
    weights["bq"] = rng.uniform(0.1, 1, 64).astype(np.float32)
    for array in weights.values():
        array.flat[:3] = (2.0**-24, 2.0**-22, 2.0**-21)  # subnormal; by 0.125 two of the three underflow
    found = warn(attention(side, factor, op, weights))
    assert found.underflow == ()
    assert {weight.name for weight in found.folded} == folded
    for weight in found.folded:
        assert (weight.scale, weight.side, weight.node, weight.count) == (0.125, side, "scale", 2)
        assert weight.smallest == 2.0**-27
        assert weight.message == f"{weight.name} underflows after TensorRT folds the scale 0.125 into it"
    assert found.to_dict()["underflow"]["folded"][0]["scale"] == 0.125


def test_a_weight_that_underflows_by_itself_is_not_listed_twice() -> None:
    weights = {name: np.full((64, 64), 0.5, np.float32) for name in ("wq", "wk", "wv")} | {
        "bq": np.ones(64, np.float32)
    }
    weights["wq"][0, 0] = 1e-9
    found = warn(attention("scores", 8.0, "Div", weights))
    assert found.underflow == ("wq",)
    assert found.folded == ()


def test_scale_computed_from_constants() -> None:
    weights = {name: np.full((64, 64), 2.0**-23, np.float32) for name in ("wq", "wk", "wv")}
    weights["bq"] = np.ones(64, np.float32)
    proto = attention("scores", 64.0, "Div", weights)
    scale = next(node for node in proto.graph.node if node.name == "scale")
    scale.input[1] = "root"
    proto.graph.node.insert(1, helper.make_node("Sqrt", ["factor"], ["root"]))
    assert {(weight.name, weight.scale) for weight in warn(proto).folded} == {("wq", 0.125), ("wk", 0.125)}


def test_no_scale_where_there_is_no_attention() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Div", ["h", "eight"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"]),
    ]
    arrays = {"w": np.full((4, 4), 2.0**-23, np.float32), "eight": np.array(8, np.float32)}
    assert warn(model(nodes, [value("x", ["N", 4])], [value("y", ["N", 4])], arrays)).folded == ()


def test_wording_and_json() -> None:
    nodes = [helper.make_node("Mul", ["x", "mask"], ["h"]), helper.make_node("Add", ["h", "eps"], ["y"])]
    arrays = {"mask": np.array(-3.4e38, np.float32), "eps": np.array([1e-12, 3e-5], np.float32)}
    found = warn(model(nodes, [value("x", ["N", 2])], [value("y", ["N", 2])], arrays))
    assert found.lines() == [
        "TensorRT encountered issues when converting weights between types and that could affect accuracy.",
        "- 1 weights are affected by this issue: Detected subnormal FP16 values.",
        "- 1 weights are affected by this issue: Detected values less than smallest positive FP16 subnormal value and "
        "converted them to the FP16 minimum subnormalized value.",
        "- 1 weights are affected by this issue: Detected finite FP32 values which would overflow in FP16 and "
        "converted them to the closest finite FP16 value.",
    ]
    as_json = found.to_dict()
    assert as_json["overflow"]["tensors"] == ["mask"]
    assert as_json["overflow"]["count"] == 1
    assert as_json["layernorm_in_fp16"] == []
    assert all(as_json[name]["cure"] for name in ("subnormal", "underflow", "overflow"))


@pytest.mark.parametrize("native", [False, True])
def test_layernorm_in_fp16(native: bool) -> None:
    arrays = {"gamma": np.ones(8, np.float32), "beta": np.zeros(8, np.float32)}
    if native:
        nodes = [helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["y"], name="norm")]
    else:
        arrays |= {"two": np.array(2, np.float32), "eps": np.array(1e-12, np.float32)}
        steps = [
            ("ReduceMean", ["x"], "m", {"axes": [-1]}), ("Sub", ["x", "m"], "d", {}), ("Pow", ["d", "two"], "p", {}),
            ("ReduceMean", ["p"], "v", {"axes": [-1]}), ("Add", ["v", "eps"], "ve", {}), ("Sqrt", ["ve"], "r", {}),
            ("Div", ["d", "r"], "n", {}), ("Mul", ["n", "gamma"], "g", {}), ("Add", ["g", "beta"], "y", {}),
        ]  # fmt: skip
        nodes = [helper.make_node(op, ins, [out], name=f"/norm/{op}_{out}", **attrs) for op, ins, out, attrs in steps]
    found = warn(model(nodes, [value("x", ["N", 8])], [value("y", ["N", 8])], arrays))
    assert found.layernorm_in_fp16 == (() if native else ("/norm/Add_y",))
    assert any("Detected layernorm nodes in FP16: /norm/Add_y" in line for line in found.lines()) is not native


def test_half_weights_are_not_converted() -> None:
    nodes = [
        helper.make_node("Cast", ["half"], ["h"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "h"], ["y"]),
    ]
    arrays = {"half": np.array([1e-6, 1], np.float16)}
    assert warn(model(nodes, [value("x", ["N", 2])], [value("y", ["N", 2])], arrays)).lines() == []


LOG = """[TRT] [W] TensorRT encountered issues when converting weights between types and that could affect accuracy.
[TRT] [W] Check verbose logs for the list of affected weights.
[TRT] [W] - 2 weights are affected by this issue: Detected subnormal FP16 values.
[TRT] [V]   List of affected weights: encoder.weight, onnx::MatMul_98 + (Unnamed Layer* 88) [Shuffle]
[TRT] [W] - 1 weights are affected by this issue: Detected values less than smallest positive FP16 subnormal value and \
converted them to the FP16 minimum subnormalized value.
[TRT] [V]   List of affected weights: _layer_0_LayerNorm_Constant_1_output_0 _ (Unnamed Layer_ 96) [Shuffle]_constant
[TRT] [W] Detected layernorm nodes in FP16: /a/Sub, /a/Pow
"""


def test_log_lists() -> None:
    found = log_lists(LOG)
    assert found["subnormal"] == ["encoder.weight", "onnx::MatMul_98 + (Unnamed Layer* 88) [Shuffle]"]
    assert [base_name(name) for name in found["subnormal"]] == ["encoder.weight", "onnx::MatMul_98"]
    assert found["overflow"] == []
    assert found["layernorm_in_fp16"] == ["/a/Sub", "/a/Pow"]
    (listed,) = found["underflow"]
    assert base_name(listed) == "_layer_0_LayerNorm_Constant_1_output_0"
    assert myelin_name("/layer.0/LayerNorm/Constant_1_output_0") == base_name(listed)
    assert same_tensor(listed, ["/layer.0/LayerNorm/Constant_1_output_0"])
    assert same_tensor("onnx::MatMul_98 + (Unnamed Layer* 88) [Shuffle]", ["onnx::MatMul_98"])
    assert not same_tensor("onnx::MatMul_9", ["onnx::MatMul_98"])


def test_tensor_helper_keeps_bits() -> None:
    assert tensor(np.float32([1e-12])).raw_data == np.float32([1e-12]).tobytes()
