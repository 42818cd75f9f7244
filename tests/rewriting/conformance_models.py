# ruff: noqa: E501  (graphs in ONNX's text format read better unbroken)
"""Small graphs, one for each thing that breaks converters: the conformance suite's models.

Every model is valid in FP32: it passes onnx.checker and onnxruntime runs it (custom operators aside).
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

MODELS: dict[str, Callable[[], onnx.ModelProto]] = {}
NOT_IN_ONNXRUNTIME = {"unknown_op", "plugin_node", "unknown_op_between", "fp4_modelopt"}
"""Models with operators that onnxruntime does not have."""


def _add(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    MODELS[build.__name__] = build
    return build


def text(body: str, opset: int = 17, ir: int = 8, domains: str = "", functions: str = "") -> onnx.ModelProto:
    """A model from ONNX's text format; `body` is the graph."""
    extra = f", {domains}" if domains else ""
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}{extra}]>\n{body}\n{functions}')


def weights(model: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    """Add initializers."""
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def normal(*shape: int, seed: int = 0, scale: float = 0.5) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def quantized(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 100, shape).astype(np.int8)


@_add
def linear() -> onnx.ModelProto:
    return weights(
        text("g (float[N,8] x) => (float[N,4] y) { h = MatMul(x, w) y = Add(h, b) }"), w=normal(8, 4), b=normal(4)
    )


@_add
def cast_to_float() -> onnx.ModelProto:
    """An existing Cast(to=FLOAT) of a mask."""
    return text("g (int64[N,8] m, float[N,8] x) => (float[N,8] y) { f = Cast<to=1>(m) y = Mul(x, f) }")


@_add
def cast_no_op_chain() -> onnx.ModelProto:
    """Cast(float -> float), as the RMSNorm of an FP32 Llama has it."""
    return text(
        "g (float[N,8] x) => (float[N,8] y) { a = Cast<to=1>(x) b = Mul(a, a) c = Cast<to=1>(b) y = Add(c, x) }"
    )


@_add
def cast_to_double_and_back() -> onnx.ModelProto:
    return text(
        "g (float[N,8] x) => (float[N,8] y) { h = Relu(x) d = Cast<to=11>(h) two = Constant<value = double {2.0}>() "
        "p = Pow(d, two) f = Cast<to=1>(p) y = Add(f, x) }"
    )


@_add
def cast_chains() -> onnx.ModelProto:
    """Chains whose first Cast loses nothing: int32 -> int64 -> float, and float -> double -> float."""
    return text(
        "g (int32[N,4] i, float[N,4] x) => (float[N,4] y) { a = Cast<to=7>(i) f = Cast<to=1>(a) e = Exp(x) "
        "d = Cast<to=11>(e) b = Cast<to=1>(d) y = Mul(f, b) }"
    )


@_add
def cast_chain_that_rounds() -> onnx.ModelProto:
    """float -> int32 -> float truncates: it stays."""
    return text("g (float[N,4] x) => (float[N,4] y) { e = Exp(x) i = Cast<to=6>(e) f = Cast<to=1>(i) y = Mul(f, e) }")


@_add
def cast_to_integer() -> onnx.ModelProto:
    return text("g (float[N,8] x) => (int32[N,8] y, float[N,8] z) { h = Sigmoid(x) y = Cast<to=6>(h) z = Exp(h) }")


@_add
def constant_value_float() -> onnx.ModelProto:
    return text("g (float[N,8] x) => (float[N,8] y) { c = Constant<value_float: float = 0.125>() y = Mul(x, c) }")


@_add
def constant_value_floats() -> onnx.ModelProto:
    return text(
        "g (float[N,3] x) => (float[N,3] y) { c = Constant<value_floats: floats = [1.0, 2.0, 3.0]>() y = Mul(x, c) }"
    )


@_add
def constant_tensor_shared() -> onnx.ModelProto:
    """One Constant read by a low node and by one that is forced to FP32."""
    return text(
        "g (float[N,3] x, float[1,3,4,4] i) => (float[N,3] y, float[1,3,r,s] z) { "
        "c = Constant<value = float[1] {2.0}>() y = Mul(x, c) one = Constant<value = float[2] {1.0, 1.0}>() "
        's = Concat<axis=0>(one, c, c) e = Relu(i) z = Resize<mode="nearest">(e, , s) }'
    )


@_add
def constant_of_shape_default() -> onnx.ModelProto:
    """ConstantOfShape without a value is a FLOAT zero."""
    return text("g (float[N,8] x) => (float[N,8] y) { s = Shape(x) z = ConstantOfShape(s) r = Relu(x) y = Add(r, z) }")


@_add
def constant_of_shape_mask() -> onnx.ModelProto:
    """A causal mask made of ConstantOfShape and Trilu."""
    model = text(
        "g (float[N,8,8] x) => (float[N,8,8] y) { s = Shape(x) z = ConstantOfShape<value = float[1] {-3.4e38}>(s) "
        "t = Trilu<upper=1>(z, one) m = Add(x, t) y = Softmax(m) }"
    )
    return weights(model, one=np.array(1, np.int64))


@_add
def attention_mask() -> onnx.ModelProto:
    """(1 - mask) * -3.4e38 before a softmax."""
    return text(
        "g (float[N,4,4] s, int64[N,1,4] m) => (float[N,4,4] p) { f = Cast<to=1>(m) one = Constant<value = float {1.0}>() "
        "i = Sub(one, f) big = Constant<value = float {-3.4028235e38}>() a = Mul(i, big) t = Add(s, a) "
        "p = Softmax<axis=-1>(t) }"
    )


@_add
def where_minus_infinity() -> onnx.ModelProto:
    return text(
        "g (float[N,4,4] s, bool[N,1,4] m) => (float[N,4,4] p) { h = Relu(s) z = Constant<value = float {-inf}>() "
        "t = Where(m, h, z) p = Softmax<axis=-1>(t) }"
    )


@_add
def epsilon_that_flushes() -> onnx.ModelProto:
    return text(
        "g (float[N,8] x) => (float[N,8] y) { e = Constant<value = float {1e-12}>() a = Abs(x) d = Add(a, e) y = Div(x, d) }"
    )


@_add
def if_branches() -> onnx.ModelProto:
    """Branches of which one is a constant, captures included."""
    return weights(
        text(
            "g (bool c, float[2,4] x) => (float[2,4] y) { h = MatMul(x, w) t = If(c) <"
            "then_branch: graph = a () => (float[2,4] ta) { ta = Relu(h) }, "
            "else_branch: graph = b () => (float[2,4] tb) { k = Constant<value = float[4] {1.0, 2.0, 3.0, 4.0}>() "
            "tb = Add(h, k) }> y = Tanh(t) }"
        ),
        w=normal(4, 4),
    )


@_add
def loop_carried() -> onnx.ModelProto:
    return weights(
        text(
            "g (int64 n, float[2,4] x) => (float[2,4] y, float[n2,2,4] all) { go = Constant<value = bool {1}>() "
            "y, all = Loop(n, go, x) <body: graph = b (int64 i, bool ci, float[2,4] s) => "
            "(bool co, float[2,4] so, float[2,4] scan) { co = Identity(ci) h = MatMul(s, w) so = Tanh(h) scan = Relu(so) }> }"
        ),
        w=normal(4, 4),
    )


@_add
def loop_state_from_constant() -> onnx.ModelProto:
    return text(
        "g (int64 n, float[4] x) => (float[4] y) { go = Constant<value = bool {1}>() "
        "z = Constant<value = float[4] {0.0, 0.0, 0.0, 0.0}>() y = Loop(n, go, z) <body: graph = b "
        "(int64 i, bool ci, float[4] s) => (bool co, float[4] so) { co = Identity(ci) f = Cast<to=1>(i) "
        "m = Mul(x, f) so = Add(s, m) }> }"
    )


@_add
def scan_states() -> onnx.ModelProto:
    return weights(
        text(
            "g (float[4] s0, float[3,4] xs) => (float[4] s, float[3,4] ys) { s, ys = Scan(s0, xs) <num_scan_inputs=1, "
            "body: graph = b (float[4] a, float[4] x) => (float[4] o, float[4] q) { h = MatMul(x, w) o = Add(a, h) "
            "q = Relu(o) }> }"
        ),
        w=normal(4, 4),
    )


@_add
def nested_bodies() -> onnx.ModelProto:
    """An If inside a Loop that captures from both scopes around it."""
    return text(
        "g (int64 n, bool c, float[4] x) => (float[4] y) { e = Exp(x) go = Constant<value = bool {1}>() "
        "y = Loop(n, go, x) <body: graph = b (int64 i, bool ci, float[4] s) => (bool co, float[4] so) { "
        "co = Identity(ci) so = If(c) <then_branch: graph = t () => (float[4] ta) { ta = Add(s, e) }, "
        "else_branch: graph = f () => (float[4] tb) { tb = Sub(s, e) }> }> }"
    )


@_add
def local_function() -> onnx.ModelProto:
    model = text(
        "g (float[N,4] x) => (float[N,4] y) { h = f.Linear(x, w, b) r = Relu(h) y = f.Linear(r, w, b) }",
        ir=8,
        domains='"f": 1',
        functions='<domain: "f", opset_import: ["": 17]> Linear (x, w, b) => (y) { h = MatMul(x, w) y = Add(h, b) }',
    )
    return weights(model, w=normal(4, 4), b=normal(4))


@_add
def local_function_with_constants() -> onnx.ModelProto:
    return text(
        "g (float[N,4] x) => (float[N,4] y) { h = Exp(x) y = f.Scale<alpha: float = 0.5>(h) }",
        domains='"f": 1',
        functions='<domain: "f", opset_import: ["": 17]> Scale <alpha> (x) => (y) { a = Constant<value_float: float = @alpha>() '
        "k = Constant<value = float {3.0}>() m = Mul(x, a) y = Add(m, k) }",
    )


@_add
def local_function_two_signatures() -> onnx.ModelProto:
    """Called with floats and with integers: left as it is."""
    return text(
        "g (float[N,4] x, int64[N,4] i) => (float[N,4] y, int64[N,4] j) { h = Exp(x) y = f.Double(h) j = f.Double(i) }",
        domains='"f": 1',
        functions='<domain: "f", opset_import: ["": 17]> Double (x) => (y) { y = Add(x, x) }',
    )


@_add
def sequences() -> onnx.ModelProto:
    return text(
        "g (float[6,4] x) => (float[6,4] y) { h = Relu(x) s = SplitToSequence<axis=0>(h) "
        "i = Constant<value = int64 {0}>() a = SequenceAt(s, i) q = SequenceConstruct(a, a) "
        "t = SequenceInsert(s, a) c = ConcatFromSequence<axis=0>(q) z = SequenceLength(t) k = Cast<to=1>(z) "
        "m = Mul(c, k) g1 = ReduceSum<keepdims=1>(m) y = Add(h, g1) }"
    )


@_add
def sequence_empty() -> onnx.ModelProto:
    return text(
        "g (float[2,4] x) => (float[4,4] y) { e = SequenceEmpty() h = Relu(x) a = SequenceInsert(e, h) "
        "b = SequenceInsert(a, h) y = ConcatFromSequence<axis=0>(b) }"
    )


@_add
def optional_value() -> onnx.ModelProto:
    return text(
        "g (float[2,4] x) => (float[2,4] y) { h = Exp(x) o = Optional(h) v = OptionalGetElement(o) y = Relu(v) }",
        opset=18,
    )


@_add
def qdq_int8_opset13() -> onnx.ModelProto:
    """Scales are FLOAT until opset 19."""
    return _qdq(13)


@_add
def qdq_int8_opset19() -> onnx.ModelProto:
    return _qdq(19)


@_add
def qdq_int8_opset21() -> onnx.ModelProto:
    return _qdq(21)


def _qdq(opset: int) -> onnx.ModelProto:
    model = text(
        "g (float[N,8] x) => (float[N,4] y) { r = Relu(x) q = QuantizeLinear(r, s, z) d = DequantizeLinear(q, s, z) "
        "dw = DequantizeLinear(w, sw, zw) m = MatMul(d, dw) b = Add(m, bias) y = Softmax(b) }",
        opset=opset,
        ir=9,
    )
    return weights(
        model,
        s=np.array(0.02, np.float32),
        z=np.array(0, np.int8),
        w=quantized(8, 4),
        sw=np.array(0.01, np.float32),
        zw=np.array(0, np.int8),
        bias=normal(4),
    )


@_add
def qdq_fp8() -> onnx.ModelProto:
    model = text(
        "g (float[N,16] x) => (float[N,16] y) { r = Relu(x) q = QuantizeLinear(r, s, z) d = DequantizeLinear(q, s, z) "
        "dw = DequantizeLinear(w, s, z) y = MatMul(d, dw) }",
        opset=19,
        ir=9,
    )
    weights(model, s=np.array(0.02, np.float32))
    for name, array in (
        ("z", np.zeros((), ml_dtypes.float8_e4m3fn)),
        ("w", normal(16, 16).astype(ml_dtypes.float8_e4m3fn)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@_add
def fp4_modelopt() -> onnx.ModelProto:
    """ModelOpt's FP4: an operator of TensorRT's own and two nested DequantizeLinear."""
    model = text(
        "g (float[N,32] x) => (float[N,32] y) { r = Relu(x) a, b = trt.TRT_FP4DynamicQuantize<axis: int = -1, "
        "block_size: int = 16, scale_type: int = 17>(r, s) c = DequantizeLinear(b, s) "
        "d = DequantizeLinear<axis = -1, block_size = 16>(a, c) y = MatMul(d, w) }",
        opset=23,
        ir=11,
        domains='"trt": 1',
    )
    model.graph.value_info.extend(
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT4E2M1, ["N", 32]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT8E4M3FN, ["N", 2]),
        ]
    )
    return weights(model, s=np.array(0.02, np.float32), w=normal(32, 32))


@_add
def dynamic_quantization() -> onnx.ModelProto:
    """int32 accumulators rescaled in float: past 65504 for any real K."""
    model = text(
        "g (float[N,64] x) => (float[N,8] y) { r = Relu(x) q, s, z = DynamicQuantizeLinear(r) "
        "a = MatMulInteger(q, w, z) f = Cast<to=1>(a) m = Mul(s, sw) o = Mul(f, m) y = Add(o, b) }"
    )
    return weights(model, w=np.full((64, 8), 100, np.int8), sw=np.array(0.01, np.float32), b=normal(8))


@_add
def resize_scales_computed() -> onnx.ModelProto:
    return text(
        "g (float[1,3,H,W] x) => (float[1,3,h,w] y) { r = Relu(x) s = Shape(x) f = Cast<to=1>(s) "
        "c = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>() p = Mul(f, c) q = Div(p, f) "
        'y = Resize<mode="linear">(r, , q) }'
    )


@_add
def resize_sizes_through_floor() -> onnx.ModelProto:
    return text(
        "g (float[1,3,H,W] x) => (float[1,3,h,w] y) { r = Relu(x) s = Shape(x) f = Cast<to=1>(s) "
        "c = Constant<value = float[4] {1.0, 1.0, 1.5, 1.5}>() p = Mul(f, c) q = Floor(p) i = Cast<to=7>(q) "
        'y = Resize<mode="nearest">(r, , , i) }'
    )


@_add
def resize_roi() -> onnx.ModelProto:
    model = text(
        "g (float[1,1,4,4] x) => (float[1,1,3,3] y) { r = Relu(x) "
        'y = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">(r, roi, , sizes) }'
    )
    return weights(
        model, roi=np.array([0, 0, 0.2, 0.2, 1, 1, 0.8, 0.8], np.float32), sizes=np.array([1, 1, 3, 3], np.int64)
    )


@_add
def upsample_9() -> onnx.ModelProto:
    model = text(
        'g (float[1,1,4,4] x) => (float[1,1,8,8] y) { r = Relu(x) y = Upsample<mode="nearest">(r, s) }', opset=9, ir=4
    )
    return weights(model, s=np.array([1, 1, 2, 2], np.float32))


@_add
def range_of_floats() -> onnx.ModelProto:
    return text(
        "g (float[4] x) => (float[4] y) { a = Constant<value = float {0.0}>() b = Constant<value = float {4.0}>() "
        "d = Constant<value = float {1.0}>() r = Range(a, b, d) y = Mul(x, r) }"
    )


@_add
def top_k() -> onnx.ModelProto:
    return weights(
        text("g (float[N,8] x) => (float[N,2] v, int64[N,2] i) { s = Sigmoid(x) v, i = TopK(s, k) }"),
        k=np.array([2], np.int64),
    )


@_add
def non_max_suppression() -> onnx.ModelProto:
    model = text(
        "g (float[1,6,4] b, float[1,1,6] s) => (int64[M,3] i) { r = Relu(b) t = Sigmoid(s) "
        "i = NonMaxSuppression(r, t, n, iou, th) }"
    )
    return weights(model, n=np.array([3], np.int64), iou=np.array([0.5], np.float32), th=np.array([0.1], np.float32))


@_add
def random_normal() -> onnx.ModelProto:
    model = text(
        "g (float[2,4] x) => (float[2,4] y) { n = RandomNormal<shape=[2,4], seed=1.0>() h = Mul(n, zero) y = Add(x, h) }"
    )
    return weights(model, zero=np.array(0, np.float32))


@_add
def random_like() -> onnx.ModelProto:
    model = text(
        "g (float[2,4] x) => (float[2,4] y) { r = Relu(x) n = RandomNormalLike(r) u = RandomUniformLike<dtype=1>(r) "
        "s = Add(n, u) h = Mul(s, zero) y = Add(r, h) }"
    )
    return weights(model, zero=np.array(0, np.float32))


@_add
def random_like_of_integers() -> onnx.ModelProto:
    """Shape from one input, type from the attribute."""
    model = text(
        "g (float[2,4] x, int64[2,4] i) => (float[2,4] y) { r = Relu(x) u = RandomUniformLike<dtype=1>(i) "
        "n = RandomNormalLike<dtype=1>(i) s = Add(n, u) h = Mul(s, zero) y = Add(r, h) }"
    )
    return weights(model, zero=np.array(0, np.float32))


@_add
def windows() -> onnx.ModelProto:
    """Of an audio front end: TensorRT makes them in float alone."""
    model = text(
        "g (float[N,16] x) => (float[N,16] y) { h = HannWindow(s) m = HammingWindow(s) b = BlackmanWindow(s) "
        "a = Mul(x, h) c = Mul(a, m) d = Mul(c, b) y = Exp(d) }"
    )
    return weights(model, s=np.array(16))


@_add
def global_lp_pool() -> onnx.ModelProto:
    return text("g (float[1,3,8,8] x) => (float[1,3,1,1] y) { e = Tanh(x) p = GlobalLpPool<p = 2>(e) y = Exp(p) }")


@_add
def eye_like() -> onnx.ModelProto:
    return text("g (float[4,4] x) => (float[4,4] y) { e = EyeLike(x) r = Relu(x) y = Add(r, e) }")


@_add
def bernoulli() -> onnx.ModelProto:
    model = text(
        "g (float[2,4] x) => (float[2,4] y) { s = Sigmoid(x) b = Bernoulli(s) h = Mul(b, zero) y = Add(s, h) }"
    )
    return weights(model, zero=np.array(0, np.float32))


@_add
def one_hot() -> onnx.ModelProto:
    model = text("g (int64[N] i, float[N,5] x) => (float[N,5] y) { h = OneHot(i, d, v) y = Mul(h, x) }")
    return weights(model, d=np.array(5, np.int64), v=np.array([0, 1], np.float32))


@_add
def cast_like() -> onnx.ModelProto:
    return text("g (int64[N,4] i, float[N,4] x) => (float[N,4] y) { f = CastLike(i, x) r = Relu(x) y = Add(f, r) }")


@_add
def layer_normalization_outputs() -> onnx.ModelProto:
    """The mean and the inverse deviation are FLOAT by stash_type, whatever X is."""
    model = text(
        "g (float[N,8] x) => (float[N,8] y, float[N,1] m) { r = Relu(x) y, m, s = LayerNormalization(r, g, b) }"
    )
    return weights(model, g=normal(8), b=normal(8))


@_add
def batch_normalization() -> onnx.ModelProto:
    model = text("g (float[1,3,4,4] x) => (float[1,3,4,4] y) { r = Relu(x) y = BatchNormalization(r, s, b, m, v) }")
    return weights(model, s=normal(3), b=normal(3), m=normal(3), v=np.abs(normal(3)) + 1)


@_add
def group_normalization_decomposed() -> onnx.ModelProto:
    model = text(
        "g (float[1,4,4,4] x) => (float[1,4,4,4] y) { a = Reshape(x, sh) n = InstanceNormalization(a, o, z) s = Shape(x) "
        "r = Reshape(n, s) m = Mul(r, w) y = Add(m, b) }"
    )
    return weights(
        model,
        sh=np.array([0, 2, -1], np.int64),
        o=np.ones(2, np.float32),
        z=np.zeros(2, np.float32),
        w=normal(4, 1, 1),
        b=normal(4, 1, 1),
    )


@_add
def convolutions() -> onnx.ModelProto:
    model = text(
        "g (float[1,3,8,8] x) => (float[1,3,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) "
        "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) y = ConvTranspose<strides=[2,2]>(p, wt) }"
    )
    return weights(model, w=normal(4, 3, 3, 3), b=normal(4), wt=normal(4, 3, 2, 2))


@_add
def lstm() -> onnx.ModelProto:
    model = text("g (float[5,1,4] x) => (float[5,1,1,4] y) { y, h, c = LSTM<hidden_size=4>(x, w, r, b) }")
    return weights(model, w=normal(1, 16, 4), r=normal(1, 16, 4), b=normal(1, 32))


@_add
def lstm_with_lengths_and_state() -> onnx.ModelProto:
    """Optional inputs, one of them empty."""
    model = text(
        "g (float[5,1,4] x, float[1,1,4] h0) => (float[5,1,1,4] y, float[1,1,4] h) { "
        "y, h = LSTM<hidden_size=4>(x, w, r, , , h0) }"
    )
    return weights(model, w=normal(1, 16, 4), r=normal(1, 16, 4))


@_add
def empty_optional_inputs() -> onnx.ModelProto:
    """Clip without a minimum, and a TopK of which one output is unused."""
    model = text("g (float[N,8] x) => (float[N,8] y) { c = Clip(x, , hi) y = Relu(c) }")
    return weights(model, hi=np.array(3, np.float32))


@_add
def clip_of_infinite_bounds() -> onnx.ModelProto:
    model = text("g (float[N,8] x) => (float[N,8] y) { r = Exp(x) y = Clip(r, lo, hi) }")
    return weights(model, lo=np.array(-3.4e38, np.float32), hi=np.array(3.4e38, np.float32))


@_add
def einsum() -> onnx.ModelProto:
    return text('g (float[2,3,4] a, float[2,4,5] b) => (float[2,3,5] c) { c = Einsum<equation="bij,bjk->bik">(a, b) }')


@_add
def gather_embedding() -> onnx.ModelProto:
    model = text("g (int64[N,4] i) => (float[N,4,8] y) { e = Gather(w, i) y = LayerNormalization(e, g) }")
    return weights(model, w=normal(10, 8), g=normal(8))


@_add
def shared_initializer() -> onnx.ModelProto:
    """One gamma for two norms and a bias: exporters share equal tensors."""
    model = text(
        "g (float[N,8] x) => (float[N,8] y) { a = LayerNormalization(x, g) b = LayerNormalization(a, g) y = Add(b, g) }"
    )
    return weights(model, g=normal(8))


@_add
def identity_of_initializer() -> onnx.ModelProto:
    model = text("g (float[N,8] x) => (float[N,8] y) { i = Identity(w) t = Transpose<perm=[1,0]>(i) y = MatMul(x, t) }")
    return weights(model, w=normal(8, 8))


@_add
def initializer_as_output() -> onnx.ModelProto:
    model = text("g (float[N,4] x) => (float[N,4] y, float[4] b) { y = Add(x, b) }")
    return weights(model, b=normal(4))


@_add
def input_as_output() -> onnx.ModelProto:
    return text("g (float[N,4] x) => (float[N,4] y, float[N,4] x) { y = Exp(x) }")


@_add
def passthrough_of_input() -> onnx.ModelProto:
    """Reshape of an input straight to an output: nothing is rounded on the way."""
    model = text("g (float[2,4] x) => (float[4,2] y, float[2,4] z) { y = Reshape(x, s) z = Exp(x) }")
    return weights(model, s=np.array([4, 2], np.int64))


@_add
def overridable_initializer() -> onnx.ModelProto:
    model = text("g (float[N,4] x, float[4] b) => (float[N,4] y) { y = Add(x, b) }")
    return weights(model, b=normal(4))


@_add
def unused_initializer() -> onnx.ModelProto:
    model = text("g (float[N,4] x) => (float[N,4] y) { y = Exp(x) }")
    return weights(model, unused=normal(300))


@_add
def unsorted_graph() -> onnx.ModelProto:
    model = text("g (float[N,4] x) => (float[N,4] y) { a = Exp(x) b = Relu(a) y = Add(a, b) }")
    nodes = [model.graph.node[at] for at in (2, 1, 0)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


@_add
def output_listed_twice() -> onnx.ModelProto:
    """One value under two entries of the outputs, which onnxruntime takes."""
    model = text("g (float[N,4] x) => (float[N,4] y) { e = Exp(x) y = Tanh(e) }")
    model.graph.output.append(model.graph.output[0])
    return model


@_add
def names_taken() -> onnx.ModelProto:
    """Values that already have the names which Casts would get, and unnamed nodes."""
    return text("g (float[N,4] x) => (float[N,4] y) { x__fp16 = Exp(x) y__fp16 = Relu(x__fp16) y = Add(x, y__fp16) }")


@_add
def one_value_many_readers() -> onnx.ModelProto:
    """A value read by FP32 and low nodes several times needs one Cast a direction."""
    return text(
        "g (float[1,1,4,4] x) => (float[1,1,4,4] a, float[1,1,4,4] b, float[1,1,4,4] c) { h = Exp(x) "
        "a = MeanVarianceNormalization<axes=[0,2,3]>(h) b = MeanVarianceNormalization<axes=[2,3]>(h) c = Relu(h) }"
    )


@_add
def microsoft_ops() -> onnx.ModelProto:
    model = text(
        "g (float[1,2,8] x) => (float[1,2,8] y) { a = com.microsoft.BiasGelu(x, b) "
        "c = com.microsoft.SkipLayerNormalization<epsilon: float = 1e-5>(a, x, g, b) y = Relu(c) }",
        domains='"com.microsoft": 1',
    )
    return weights(model, b=normal(8), g=normal(8))


@_add
def microsoft_fused_matmul() -> onnx.ModelProto:
    model = text(
        "g (float[2,8] x) => (float[2,4] y) { a = com.microsoft.FusedMatMul<alpha: float = 0.5>(x, w) "
        "q = com.microsoft.QuickGelu(a) y = Relu(q) }",
        domains='"com.microsoft": 1',
    )
    return weights(model, w=normal(8, 4))


@_add
def microsoft_island() -> onnx.ModelProto:
    """Operators that ONNX cannot infer the types of, around one that takes no bfloat16 (and, kept, no float16)."""
    model = text(
        "g (float[2,8] x) => (float[2,8] y) { a = com.microsoft.FusedMatMul<alpha: float = 0.5>(x, w) "
        "q = com.microsoft.QuickGelu(a) r = Relu(q) "
        'f = com.microsoft.FusedGemm<activation: string = "Relu">(r, w, b) '
        "h = com.microsoft.Gelu(f) m = MatMul(h, w) y = com.microsoft.BiasGelu(m, b) }",
        domains='"com.microsoft": 1',
    )
    return weights(model, w=normal(8, 8), b=normal(8))


@_add
def microsoft_before_island() -> onnx.ModelProto:
    """All that goes low in bfloat16 is an operator whose types ONNX cannot infer."""
    model = text(
        "g (float[2,8] x) => (float[2,8] y) { a = com.microsoft.FusedMatMul<alpha: float = 0.5>(x, w) "
        'q = com.microsoft.QuickGelu(a) y = com.microsoft.FusedGemm<activation: string = "Relu">(q, w, b) }',
        domains='"com.microsoft": 1',
    )
    return weights(model, w=normal(8, 8), b=normal(8))


@_add
def microsoft_alone() -> onnx.ModelProto:
    """A model that does not import the default domain, which has the Cast."""
    model = text(
        "g (float[4] x) => (float[4] y) { a = com.microsoft.Gelu(x) y = com.microsoft.QuickGelu(a) }",
        domains='"com.microsoft": 1',
    )
    del model.opset_import[0]
    return model


@_add
def onnxruntimes_own_norms() -> onnx.ModelProto:
    """What onnxruntime's optimizer writes: LayerNormalization below opset 17, and one that is in no opset."""
    model = text(
        "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) n = LayerNormalization<epsilon = 1e-5>(a, g, b) "
        "c = MatMul(n, w) s = SimplifiedLayerNormalization<epsilon: float = 1e-6, axis: int = -1>(c, g) y = MatMul(s, w) }",
        opset=14,
    )
    return weights(model, w=normal(8, 8), g=normal(8), b=normal(8))


@_add
def group_normalization_18() -> onnx.ModelProto:
    """The version that opset 21 replaced: its schema is marked as deprecated."""
    model = text(
        "g (float[2,4,3,3] x) => (float[2,4,3,3] y) { a = Tanh(x) y = GroupNormalization<num_groups = 2>(a, s, b) }", 18
    )
    return weights(model, s=normal(2), b=normal(2))


@_add
def unknown_op() -> onnx.ModelProto:
    model = text(
        "g (float[N,4] x) => (float[N,4] y) { a = Exp(x) b = mine.Thing(a) c = Add(b, w) y = Relu(c) }",
        domains='"mine": 1',
    )
    return weights(model, w=normal(4))


@_add
def unknown_op_between() -> onnx.ModelProto:
    """Nothing says what the unknown operator gives: what depends on it alone stays as it is."""
    return text(
        "g (float[N,4] x) => (float[N,4] y) { a = Exp(x) b, n = mine.Thing(a) c = Relu(b) d = Exp(x) y = Add(c, d) }",
        domains='"mine": 1',
    )


@_add
def plugin_node() -> onnx.ModelProto:
    return text(
        "g (float[1,6,4] b, float[1,6,3] s) => (int32[1,1] n, float[1,5,4] k) { r = Relu(b) t = Sigmoid(s) "
        "n, k, sc, cl = trtp.EfficientNMS_TRT(r, t) }",
        domains='"trtp": 1',
    )


@_add
def double_model() -> onnx.ModelProto:
    model = text("g (double[N,4] x) => (double[N,4] y) { h = MatMul(x, w) y = Relu(h) }")
    return weights(model, w=normal(4, 4).astype(np.float64))


@_add
def half_model_with_island() -> onnx.ModelProto:
    """Already half, with an FP32 island of its author's and FP32 weights nobody converted."""
    model = text(
        "g (float16[N,8] x) => (float[N,64] y) { f = Cast<to=1>(x) q = Mul(f, f) m = ReduceMean<axes=[-1]>(q) s = Sqrt(m) "
        "d = Div(f, s) h = Cast<to=10>(d) l = MatMul(h, w) o = Cast<to=1>(l) y = Softmax(o) }"
    )
    return weights(model, w=normal(8, 64).astype(np.float16))


@_add
def weights_stored_in_half() -> onnx.ModelProto:
    """An FP32 model whose weights take half the room, cast up before they are used."""
    model = text(
        "g (float[N,8] x) => (float[N,4] y) { c = Cast<to=1>(w) m = MatMul(x, c) f = Cast<to=1>(b) y = Add(m, f) }"
    )
    return weights(model, w=normal(8, 4).astype(np.float16), b=normal(4).astype(np.float16))


@_add
def mixed_model() -> onnx.ModelProto:
    """Half an encoder in float16 and a layer left in FP32 behind a Cast."""
    model = text(
        "g (float16[N,64] x) => (float[N,128] y) { h = MatMul(x, w) r = Relu(h) c = Cast<to=1>(r) l = MatMul(c, v) y = Tanh(l) }"
    )
    return weights(model, w=normal(64, 64).astype(np.float16), v=normal(64, 128))


@_add
def scatter_reductions() -> onnx.ModelProto:
    """Scatters that add up, which onnxruntime loads in float16 but cannot run."""
    return text(
        "g (float[N,4] x, int64[2,1] i, int64[2,4] j, float[2,4] u) => (float[N,4] y) { e = Exp(x) "
        'a = ScatterND<reduction = "add">(e, i, u) b = ScatterElements<reduction = "mul">(a, j, u) y = Tanh(b) }'
    )


@_add
def sparse_initializer() -> onnx.ModelProto:
    model = text("g (float[2,4] x) => (float[2,4] y) { r = Relu(x) y = Add(r, s) }")
    values = helper.make_tensor("s", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("s_i", TensorProto.INT64, [2], [1, 3])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    return model


@_add
def indices_from_coordinates() -> onnx.ModelProto:
    """Predicted coordinates become indices: their arithmetic stays exact."""
    model = text(
        "g (float[6,4] x, float[3] p) => (float[3,4] y) { s = Sigmoid(p) w = Mul(s, five) f = Floor(w) i = Cast<to=7>(f) "
        "r = Exp(x) y = Gather(r, i) }"
    )
    return weights(model, five=np.array(5, np.float32))


@_add
def relative_position_buckets() -> onnx.ModelProto:
    """T5: integer distances, a logarithm, and back to an index."""
    model = text(
        "g (int64[4] d, float[4,8] x) => (float[4,8] y) { a = Abs(d) f = Cast<to=1>(a) o = Add(f, one) l = Log(o) "
        "m = Mul(l, two) i = Cast<to=7>(m) b = Gather(t, i) y = Add(b, x) }"
    )
    return weights(model, one=np.array(1, np.float32), two=np.array(2, np.float32), t=normal(10, 8))


@_add
def comparison_of_input() -> onnx.ModelProto:
    return text(
        "g (float[N,4] x) => (float[N,4] y) { z = Constant<value = float {0.3333}>() c = Greater(x, z) e = Exp(x) "
        "n = Neg(e) y = Where(c, e, n) }"
    )


@_add
def concat_of_cache() -> onnx.ModelProto:
    """A decoder's cache: past comes in, present goes out."""
    model = text(
        "g (float[1,2,P,4] past, float[1,2,1,4] x) => (float[1,2,T,4] present, float[1,2,1,T] y) { k = Tanh(x) "
        "present = Concat<axis=2>(past, k) t = Transpose<perm=[0,1,3,2]>(present) y = MatMul(k, t) }"
    )
    return model


@_add
def quantized_annotation_and_metadata() -> onnx.ModelProto:
    """Everything that is easily lost."""
    model = weights(text("g (float[N,4] x) => (float[N,4] y) { h = MatMul(x, w) y = Relu(h) }"), w=normal(4, 4))
    model.graph.node[0].doc_string, model.graph.node[0].name = "a doc", "/layer/MatMul"
    model.graph.node[0].metadata_props.add(key="pkg.onnxscript.name", value="matmul")
    model.metadata_props.add(key="author", value="someone")
    model.graph.metadata_props.add(key="graph", value="g")
    model.graph.doc_string, model.doc_string = "graph doc", "model doc"
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 4]))
    note = model.graph.quantization_annotation.add(tensor_name="h")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    return model


@_add
def pow_of_integer_exponent() -> onnx.ModelProto:
    """Pow's exponent may have a type of its own."""
    return text("g (float[N,4] x) => (float[N,4] y) { e = Constant<value = int64 {2}>() y = Pow(x, e) }")


@_add
def grid_sample() -> onnx.ModelProto:
    return text("g (float[1,1,4,4] x, float[1,3,3,2] g) => (float[1,1,3,3] y) { t = Tanh(g) y = GridSample(x, t) }")


@_add
def dropout_with_ratio() -> onnx.ModelProto:
    model = text("g (float[N,4] x) => (float[N,4] y) { r = Relu(x) d = Dropout(r, p) y = Exp(d) }")
    return weights(model, p=np.array(0.5, np.float32))


@_add
def rms_normalization_23() -> onnx.ModelProto:
    model = text("g (float[N,8] x) => (float[N,8] y) { r = Relu(x) y = RMSNormalization(r, g) }", opset=23, ir=11)
    return weights(model, g=normal(8))


@_add
def attention_23() -> onnx.ModelProto:
    return text(
        "g (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v) => (float[1,2,4,8] y) { y = Attention(q, k, v) }",
        opset=23,
        ir=11,
    )


@_add
def is_nan_guard() -> onnx.ModelProto:
    return text(
        "g (float[N,4] x) => (float[N,4] y) { e = Log(x) n = IsNaN(e) z = Constant<value = float {0.0}>() y = Where(n, z, e) }"
    )


@_add
def arg_max_and_size() -> onnx.ModelProto:
    return text("g (float[N,4] x) => (int64[N,1] a, int64 s) { r = Relu(x) a = ArgMax<axis=1>(r) s = Size(r) }")


@_add
def variadic_sum() -> onnx.ModelProto:
    return text(
        "g (float[N,4] a, float[N,4] b, float[N,4] c) => (float[N,4] y) { s = Sum(a, b, c) m = Max(s, a) y = Mean(m, b) }"
    )


@_add
def split_outputs() -> onnx.ModelProto:
    return text(
        "g (float[2,6] x) => (float[2,3] y) { r = Relu(x) a, b = Split<axis=1, num_outputs=2>(r) y = Mul(a, b) }",
        opset=18,
    )


@_add
def same_branch_output_twice() -> onnx.ModelProto:
    """A loop whose body returns one value as state and as a scan output."""
    return text(
        "g (int64 n, float[4] x) => (float[4] y, float[n2,4] all) { go = Constant<value = bool {1}>() e = Exp(x) "
        "y, all = Loop(n, go, e) <body: graph = b (int64 i, bool ci, float[4] s) => (bool co, float[4] o, float[4] o) { "
        "co = Identity(ci) o = Relu(s) }> }"
    )
