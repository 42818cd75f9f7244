"""LayerNorm as jax2tf and tf2onnx write it: statistics without their axes, put back by a Reshape and an Expand.

The spelling is that of Flax's fast variance in a published model (ReduceSum * 1/n, Concat(Shape, 1)); each fault
changes one condition, on a dynamic first axis. What is fused is judged by numpy in float64.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from precision_planner.model import Model
from precision_planner.patterns import find_patterns
from precision_planner.transforms import fuse

WIDTH = 16
_AROUND = {
    "expand": "p = Reshape(m, sh1) q = Reshape(v, sh1) M = Expand(p, sh1) V = Expand(q, sh1)",
    "expand to x": "p = Reshape(m, sh1) q = Reshape(v, sh1) sx = Shape(x) M = Expand(p, sx) V = Expand(q, sx)",
    "reshape": "M = Reshape(m, sh1) V = Reshape(v, sh1)",
    "unsqueeze": "M = Unsqueeze(m, last) V = Unsqueeze(v, last)",
    "unsqueeze of the mean alone": "M = Unsqueeze(m, last) V = Reshape(v, sh1)",
}
_VARIANCE = {
    "moments": "v0 = Sub(e2, mm) v = Max(zero, v0)",
    "not clamped": "v = Sub(e2, mm)",
}


def _model(around: str = "expand", variance: str = "moments", faults: dict[str, str] | None = None) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    gamma, beta = (", ".join(map(str, values)) for values in (rng.uniform(0.5, 1.5, WIDTH), rng.normal(0, 0.2, WIDTH)))
    body = f"""
      s = ReduceSum<keepdims=0>(x, last) m = Mul(s, rn) mm = Mul(m, m)
      xx = Mul(x, x) s2 = ReduceSum<keepdims=0>(xx, last) e2 = Mul(s2, rn) {_VARIANCE[variance]}
      sh = Shape(m) sh1 = Concat<axis=0>(sh, one) {_AROUND[around]}
      d = Sub(x, M) ve = Add(V, eps) sd = Sqrt(ve) r = Reciprocal(sd) rg = Mul(r, g) dr = Mul(d, rg) y = Add(dr, b)
    """
    for old, new in (faults or {}).items():
        assert old in body
        body = body.replace(old, new)
    text = f"""
    <ir_version: 8, opset_import: ["" : 15]>
    flax (float[N,{WIDTH}] x, float[N,{WIDTH}] other) => (float[N,{WIDTH}] y)
    <int64[1] last = {{1}}, int64[1] one = {{1}},
     float rn = {{{1 / WIDTH}}}, float zero = {{0}}, float eps = {{0.000001}},
     float[{WIDTH}] g = {{{gamma}}}, float[{WIDTH}] b = {{{beta}}}> {{ {body} }}
    """
    return onnx.parser.parse_model(text)


def _fused(model: onnx.ModelProto) -> onnx.ModelProto | None:
    loaded = Model.load(model)
    proto = fuse(loaded, find_patterns(loaded)).model.to_proto()
    return proto if any(node.op_type == "LayerNormalization" for node in proto.graph.node) else None


@pytest.mark.parametrize("variance", sorted(_VARIANCE))
@pytest.mark.parametrize("around", sorted(_AROUND))
def test_is_fused_and_right(around: str, variance: str) -> None:
    model = _model(around, variance)
    fused = _fused(model)
    assert fused is not None
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rng = np.random.default_rng(1)
    x = rng.normal(0.5, 3, (3, WIDTH)).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-6)
    expected = expected * constants["g"] + constants["b"]
    session = onnxruntime.InferenceSession(fused.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {"x": x, "other": x[:, ::-1].copy()} if len(session.get_inputs()) > 1 else {"x": x})[0]
    assert np.abs(got - expected).max() < 2e-5


@pytest.mark.parametrize(
    "faults",
    [
        {"Concat<axis=0>(sh, one)": "Concat<axis=0>(one, sh)"},
        {"sh = Shape(m)": "sh = Shape<start=0, end=1>(m)"},
        {"e2 = Mul(s2, rn)": "e2 = Mul(s2, eps)"},
        {"xx = Mul(x, x)": "xx = Mul(x, other)"},
        {"xx = Mul(x, x)": "xx = Mul(other, other)"},
        {"mm = Mul(m, m)": "mm = Mul(m, s)"},
        {"v0 = Sub(e2, mm)": "v0 = Sub(mm, e2)"},
        {"v = Max(zero, v0)": "v = Max(eps, v0)"},
        {"d = Sub(x, M)": "d = Sub(other, M)"},
        {"d = Sub(x, M)": "d = Sub(M, x)"},
        {"q = Reshape(v, sh1)": "w = Neg(v) q = Reshape(w, sh1)"},
    ],
    ids=str,
)
def test_one_fault_is_refused(faults: dict[str, str]) -> None:
    assert _fused(_model(faults=faults)) is None


def test_an_expand_to_another_shape_is_refused() -> None:
    faults = {"M = Expand(p, sh1)": "so = Shape(other) M = Expand(p, so)"}
    assert _fused(_model(faults=faults)) is None
    assert _fused(_model(faults={"V = Expand(q, sh1)": "so = Shape(other) V = Expand(q, so)"})) is None
