"""INT4 and INT8 weights behind one DequantizeLinear: half scales, so that builders keep one kernel with the product."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import precision_planner as pp

RNG = np.random.default_rng(0)


def weight_only(kind: int = TensorProto.INT4, *, tiny: bool = False, opset: int = 21, k: int = 64) -> onnx.ModelProto:
    blocked = "<axis=0, block_size=32>" if kind == TensorProto.INT4 else "<axis=1>"
    text = (
        f'<ir_version: 10, opset_import: ["": {opset}]> g (float[8,{k}] x) => (float[8,16] y) '
        f"{{ w = DequantizeLinear{blocked}(q, s) m = MatMul(x, w) y = Add(m, b) }}"
    )
    made = parser.parse_model(text)
    reach = 7 if kind == TensorProto.INT4 else 127
    scales = RNG.uniform(0.001, 0.02, (k // 32, 16) if kind == TensorProto.INT4 else (16,)).astype(np.float32)
    if tiny:
        scales[0, :2] = (0.0, 1e-9)
    made.graph.initializer.extend(
        [
            helper.make_tensor("q", kind, [k, 16], RNG.integers(-reach, reach + 1, k * 16)),
            numpy_helper.from_array(scales, "s"),
            numpy_helper.from_array(RNG.normal(size=16).astype(np.float32), "b"),
        ]
    )
    return made


def by_hand(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """float64, with the scales as they are."""
    q, s, b = (numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer)
    scales = np.repeat(s, 32, 0) if s.ndim == 2 else s
    return x.astype(np.float64) @ (q * scales) + b


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.INT8])
def test_the_weight_goes_straight_into_a_half_product(kind: int) -> None:
    result = pp.rewrite(weight_only(kind), precision="fp16")
    assert [node.op_type for node in result.model.graph.node] == ["Cast", "DequantizeLinear", "MatMul", "Add", "Cast"]
    assert {t.name: t.data_type for t in result.model.graph.initializer}["s"] == TensorProto.FLOAT16
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("tiny", [False, True])
def test_its_error_is_that_of_half(tiny: bool) -> None:
    """Zero scales stay zero; one that half does not hold becomes the nearest, 0, which is said and lost in the rest."""
    model = weight_only(tiny=tiny)
    x = RNG.normal(size=(8, 64)).astype(np.float32)
    result = pp.rewrite(model, precision="fp16")
    right = by_hand(model, x)
    got = pp.simulate(result.model, {"x": x})["y"]
    assert np.linalg.norm(got - right) / np.linalg.norm(right) < 1e-3
    scales = next(numpy_helper.to_array(t) for t in result.model.graph.initializer if t.name == "s")
    assert np.isfinite(scales).all()
    said = [change for change in result.report["weights"]["changes"] if change["tensor"] == "s"]
    assert [change["flushed"] for change in said] == ([1] if tiny else [])
    if tiny:
        assert scales[0, 0] == scales[0, 1] == 0


def test_quantized_activations_stay_as_they_are() -> None:
    """Q/DQ on both sides of a product is INT8 arithmetic: its scales stay FP32."""
    made = weight_only(TensorProto.INT8)
    nodes = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[8,64] x) => (float[8,64] d) '
        "<float a = {0.02}, int8 z = {0}> { i = QuantizeLinear(x, a, z) d = DequantizeLinear(i, a, z) }"
    ).graph
    made.graph.node[1].input[0] = "d"
    kept = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend([*nodes.node, *kept])
    made.graph.initializer.extend(nodes.initializer)
    result = pp.rewrite(made, precision="fp16")
    assert {t.name: t.data_type for t in result.model.graph.initializer}["s"] == TensorProto.FLOAT


def test_below_opset_19_scales_are_float() -> None:
    result = pp.rewrite(weight_only(TensorProto.INT8, opset=17), precision="fp16")
    assert {t.name: t.data_type for t in result.model.graph.initializer}["s"] == TensorProto.FLOAT


@pytest.mark.rtx
def test_rtx_never_writes_the_weight_out() -> None:
    """With FP32 scales and a Cast behind them a kernel writes it in half on every run."""
    from precision_planner.emitting.rtx import rtx_build

    def written_out(keep: list[str]) -> bool:
        model = pp.rewrite(weight_only(k=256), precision="fp16", io_types="low", keep_fp32=keep).model
        built = rtx_build(model)
        assert built.ok
        assert built.kernels is not None
        return any(tuple(made.dims) == (256, 16) for kernel in built.kernels for made in kernel.outputs)

    assert not written_out([])
    assert written_out(["DequantizeLinear"])
