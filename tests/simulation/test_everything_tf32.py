"""What everything in TF32 gives, against numpy on the bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import precision_planner as pp
from precision_planner.errors import ConversionError


def to_tf32(x: np.ndarray) -> np.ndarray:
    """Ten fraction bits, to nearest."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def test_products_lose_the_lower_bits_of_their_operands_and_nothing_else_is_rounded() -> None:
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(64, 64)).astype(np.float32), rng.normal(size=(8, 64)).astype(np.float32)
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[8,64] x) => (float[8,64] y) {h = MatMul(x, w) y = Tanh(h)}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    expected = np.tanh(to_tf32(x).astype(np.float64) @ to_tf32(weight).astype(np.float64))
    found = pp.simulate(model, {"x": x}, precision="tf32")["y"]
    np.testing.assert_allclose(found, expected, atol=1e-5)  # sums of 64 in float32
    exact = np.tanh(x.astype(np.float64) @ weight.astype(np.float64))
    diff = pp.diff(model, model, {"x": x}, simulate="tf32")
    assert diff.outputs["y"].max_abs == pytest.approx(float(np.abs(expected - exact).max()), rel=0.01)
    half = pp.rewrite(model, verify=False).model
    with pytest.raises(ConversionError, match="typed already"):
        pp.diff(model, half, {"x": x}, simulate="tf32")
