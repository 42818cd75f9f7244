"""LayerNormalization as a plugin: the attributes and inputs that the open-source plugins take."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from precision_planner.errors import ConversionError
from precision_planner.model import Model
from precision_planner.patterns import find_patterns
from precision_planner.transforms.plugin_layernorm import SKIP_LAYERNORM, apply_plugin_layernorm

HEADER = '<ir_version: 8, opset_import: ["":17]>\n'
TWO = (
    "g (float[B,S,4] x, float[B,S,4] r) => (float[B,S,4] y) <float[4] g = {1, 2, 3, 4}, float[4] b = {1, 0, 0, 0}> {"
    "[n1] a = LayerNormalization<epsilon=1e-12>(x, g)\n s = Add(a, r)\n"
    "[n2] y = LayerNormalization<axis=-1, epsilon=1e-5>(s, g, b) }"
)


def load(text: str) -> Model:
    return Model.load(onnx.parser.parse_model(HEADER + text))


def attributes(node: onnx.NodeProto) -> dict:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_the_layernorm_plugin_gets_epsilon_axis_and_three_inputs():
    result = apply_plugin_layernorm(load(TWO), None, "LayerNorm")
    assert [node.output for node in result.replaced] == ["a", "y"]
    proto = result.model.to_proto()
    first, _, last = proto.graph.node
    assert (first.op_type, first.domain, first.name) == ("LayerNorm", "trt.plugins", "n1")
    assert list(first.input) == ["x", "g", "g_zeros"]
    assert list(last.input) == ["s", "g", "b"]
    assert attributes(first) == {
        "epsilon": pytest.approx(1e-12, rel=1e-6), "axis": -1, "plugin_version": b"1", "plugin_namespace": b"",
    }  # fmt: skip
    zeros = next(tensor for tensor in proto.graph.initializer if tensor.name == "g_zeros")
    assert np.array_equal(numpy_helper.to_array(zeros), np.zeros(4, np.float32))
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": 17, "trt.plugins": 1}
    onnx.checker.check_model(proto)


def test_only_the_matches_given_are_written():
    model = load(TWO)
    matches = [match for match in find_patterns(model) if match.kind == "layer_normalization" and match.output == "y"]
    assert len(matches) == 1
    proto = apply_plugin_layernorm(model, matches, "MyNorm").model.to_proto()
    assert [node.op_type for node in proto.graph.node] == ["LayerNormalization", "Add", "MyNorm"]


def test_the_skip_plugin_takes_the_addition_with_it():
    """Its own reference: (input + skip) normalized over E, times gamma, plus beta, shape [S, B, E, 1, 1]."""
    result = apply_plugin_layernorm(load(TWO), None, SKIP_LAYERNORM)
    assert [node.output for node in result.replaced] == ["y"]
    assert [node.output for node, _ in result.kept] == ["a"]
    assert "does not follow the addition" in result.kept[0][1]
    proto = result.model.to_proto()
    assert [node.op_type for node in proto.graph.node] == [
        "LayerNormalization", "Unsqueeze", "Unsqueeze", SKIP_LAYERNORM, "Squeeze",
    ]  # fmt: skip
    plugin = attributes(proto.graph.node[3])
    assert (plugin["type_id"], plugin["ld"]) == (0, 4)
    assert np.array_equal(numpy_helper.to_array(plugin["gamma"]), np.array([[[1, 2, 3, 4]]], np.float32))
    assert np.array_equal(numpy_helper.to_array(plugin["beta"]), np.array([[[1, 0, 0, 0]]], np.float32))
    # everything around the plugin is right: stand in for it with ONNX's own operators
    stand_in = onnx.ModelProto.FromString(proto.SerializeToString())
    nodes = list(stand_in.graph.node)
    del stand_in.graph.node[:]
    for node in nodes:
        if node.op_type != SKIP_LAYERNORM:
            stand_in.graph.node.append(node)
            continue
        stand_in.graph.node.extend(
            [
                helper.make_node("Add", list(node.input), ["sum5"]),
                helper.make_node("Squeeze", ["sum5", "plugin_layernorm_axes"], ["sum3"]),
                helper.make_node("LayerNormalization", ["sum3", "g", "b"], ["norm3"], epsilon=1e-5),
                helper.make_node("Unsqueeze", ["norm3", "plugin_layernorm_axes"], list(node.output)),
            ]
        )
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(2, 3, 4)).astype(np.float32) for name in ("x", "r")}
    outputs = [
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
        for m in (load(TWO).to_proto(), stand_in)
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-6, atol=1e-6)


def test_half_inputs_say_so_to_the_skip_plugin():
    model = load(TWO.replace("float[", "float16["))
    proto = apply_plugin_layernorm(model, None, SKIP_LAYERNORM).model.to_proto()
    assert attributes(proto.graph.node[3])["type_id"] == 1


def test_an_addition_that_others_read_stays():
    text = TWO.replace("=> (float[B,S,4] y)", "=> (float[B,S,4] y, float[B,S,4] s)")
    proto = apply_plugin_layernorm(load(text), None, SKIP_LAYERNORM).model.to_proto()
    assert "Add" in [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("g (float[4] x) => (float[4] y) { y = Relu(x) }", "LayerNorm", "fuse the decomposed ones first"),
        (TWO, "no name", "is no plugin's name"),
        (
            "g (float[B,4] x, float[4] g) => (float[B,4] y) { y = LayerNormalization(x, g) }",
            "LayerNorm",
            "has no bias and the plugin takes one",
        ),
        (
            "g (float[B,4] x, float[4] g) => (float[B,4] y, float[B,1] m) { y, m = LayerNormalization(x, g) }",
            "LayerNorm",
            "mean or standard deviation is read",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(text: str, name: str, message: str):
    with pytest.raises(ConversionError, match=message):
        apply_plugin_layernorm(load(text), None, name)
