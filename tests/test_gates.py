"""The gates close: each has a model that only it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.gates import GateError, assert_gates, check_onnx, check_onnxruntime, check_rtx, check_shapes

HEADER = '<ir_version: 10, opset_import: ["":17]>\n'
SOUND = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"


def parse(text):
    return onnx.parser.parse_model(HEADER + text)


@pytest.mark.rtx
def test_a_sound_model_passes_as_a_proto_and_as_a_path_with_external_data(tmp_path):
    model = parse("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.eye(64, dtype=np.float32), "w"))
    onnx.save(model, tmp_path / "inside.onnx")
    assert assert_gates(model).ok
    onnx.save(model, tmp_path / "outside.onnx", save_as_external_data=True, location="w", size_threshold=0)
    assert assert_gates(tmp_path / "outside.onnx").ok
    assert assert_gates(str(tmp_path / "inside.onnx"), rtx=False) is None


def test_the_checker_refuses_a_value_that_nothing_makes():
    with pytest.raises(GateError, match=r"onnx\.checker: .*'?nothing'?"):
        check_onnx(parse("g (float[4] x) => (float[4] y) { y = Add(x, nothing) }"))


@pytest.mark.parametrize("as_path", [False, True])
def test_shape_inference_refuses_a_declared_type_that_is_wrong(tmp_path, as_path):
    model = parse("g (float[4] x) => (float16[4] y) { y = Relu(x) }")
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(GateError, match="shape inference: "):
        check_shapes(path if as_path else model)


def test_onnxruntime_refuses_an_operator_it_has_not_in_this_type():
    # bfloat16 Conv is in no kernel and in no schema of opset 17.
    model = parse("g (bfloat16[1,1,4,4] x, bfloat16[1,1,3,3] w) => (bfloat16[1,1,2,2] y) { y = Conv(x, w) }")
    with pytest.raises(GateError, match="onnxruntime, optimizations disabled: "):
        check_onnxruntime(model)


def test_a_custom_domain_is_not_asked_of_onnxruntime():
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["":17, "foo":1]> g (float[4] x) => (float[4] y) { y = foo.Bar(x) }'
    )
    with pytest.raises(GateError, match="onnxruntime"):
        assert_gates(model, rtx=False)
    assert assert_gates(model, rtx=False, custom_domains=frozenset({"foo"})) is None


@pytest.mark.rtx
class TestRtx:
    MIXED = "g (float16[4] x, float[4] z) => (float16[4] y) { [sum] y = Add(x, z) }"

    def test_refuses_types_that_meet_without_a_cast(self):
        with pytest.raises(GateError, match=r"TensorRT-RTX, parse: sum Add: .*Half and Float"):
            check_rtx(parse(self.MIXED))

    def test_excuses_what_the_original_could_not_either(self):
        assert not check_rtx(parse(self.MIXED), baseline=parse(self.MIXED)).ok

    def test_does_not_excuse_what_the_original_could(self):
        with pytest.raises(GateError):
            check_rtx(parse(self.MIXED), baseline=parse(SOUND))
