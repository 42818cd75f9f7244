"""The types of operators as of a version: by ONNX's own schemas, onnxruntime's, and none for what nobody knows."""

from __future__ import annotations

import onnx

from precision_planner.operators import op_types

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}


def test_both_names_of_the_default_domain_are_one() -> None:
    assert op_types("Conv", "ai.onnx", 17) == op_types("Conv", "", 17)
    found = op_types("Conv", "", 17)
    assert found is not None
    assert found.since_version == onnx.defs.get_schema("Conv", 17).since_version == 11
    assert found.outputs[0].elements == FLOATS
    later = op_types("Conv", "", 22)
    assert later is not None
    assert later.outputs[0].elements == FLOATS | {onnx.TensorProto.BFLOAT16}


def test_microsofts_operators_are_known_in_their_domain_alone() -> None:
    found = op_types("FusedMatMul", "com.microsoft", 1)
    assert found is not None
    assert found.domain == "com.microsoft"
    assert found.outputs[0].elements >= FLOATS
    assert op_types("FusedMatMul", "", 20) is None
    assert op_types("FusedMatMul", "com.other", 1) is None
    assert op_types("NoSuchOperator", "com.microsoft", 1) is None
    assert op_types("NoSuchOperator", "", 20) is None


def test_what_is_variadic_or_of_mixed_types_says_so() -> None:
    concat, loop, resize = op_types("Concat", "", 13), op_types("Loop", "", 16), op_types("Resize", "", 18)
    assert concat is not None
    assert loop is not None
    assert resize is not None
    assert (concat.inputs[0].variadic, concat.inputs[0].homogeneous) == (True, True)
    assert (loop.inputs[2].variadic, loop.inputs[2].homogeneous) == (True, False)
    assert not resize.inputs[1].variadic
