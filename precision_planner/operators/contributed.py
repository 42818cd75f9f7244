"""onnxruntime's own operators (com.microsoft), as far as a question of ours is about them.

An operator without a column is known, and nothing is claimed of it; its types stand in microsoft_ops.json.

Source: onnxruntime's docs/ContribOperators.md; tests/operators runs what onnxruntime can run on a CPU.
"""

from __future__ import annotations

from functools import partial

from precision_planner.operators.row import Operator, slots

_op = partial(Operator, domain="com.microsoft")
_product = partial(_op, product="matmul", factors=slots(0, 1))
_attention = partial(_op, product="attention", scores=slots(0, 1))
_norm = partial(_op, statistics_type=False)
_quantized = partial(_op, quantizes=True)

ROWS = (
    _product("FusedMatMul", weights={0: "weight", 1: "weight"}),
    _product("TransposeMatMul", weights={0: "weight", 1: "weight"}),
    _product("FusedGemm", weights={0: "weight", 1: "weight", 2: "bias"}),
    _product("FusedMatMulActivation", weights={0: "weight", 1: "weight"}),
    _product("GemmFastGelu", weights={1: "weight", 2: "bias"}),
    _product("MatMulNBits", factors=slots(0), weights={2: "quantization_scale"}),
    _op("FusedConv", product="convolution", factors=slots(0, 1), weights={1: "weight", 2: "bias"}),
    _op("NhwcFusedConv", product="convolution", factors=slots(0, 1), weights={1: "weight", 2: "bias"}),
    _op("NhwcConv", product="convolution", factors=slots(0, 1), weights={1: "weight", 2: "bias"}),
    _op("Attention", product="attention", factors=slots(0, 1), scores=slots(0), masks=slots(5),
        weights={1: "weight", 2: "bias"}),
    _attention("MultiHeadAttention", factors=slots(0, 1, 2), masks=slots(5), weights={3: "bias"}),
    _attention("GroupQueryAttention", factors=slots(0, 1, 2), masks=slots(10)),
    _attention("DecoderMaskedMultiHeadAttention", factors=slots(0, 1, 2), masks=slots(4), weights={10: "bias"}),
    _attention("PackedMultiHeadAttention", factors=slots(0, 1, 2), masks=slots(6), weights={3: "bias"}),
    _attention("SparseAttention", factors=slots(0, 1, 2)),
    _attention("PackedAttention", factors=slots(0, 1), scores=slots(0), masks=slots(5),
               weights={1: "weight", 2: "bias"}),
    _attention("DecoderMaskedSelfAttention", factors=slots(0, 1), scores=slots(0),
               weights={1: "weight", 2: "bias"}),
    _norm("SkipLayerNormalization", normalizes="layer", joint=slots(0, 1),
          weights={2: "scale", 3: "bias", 4: "bias"}),
    _norm("SkipSimplifiedLayerNormalization", normalizes="rms", joint=slots(0, 1), weights={2: "scale", 3: "bias"}),
    _norm("EmbedLayerNormalization", normalizes="layer", indices=slots(0, 1),
          weights={2: "table", 3: "table", 4: "table", 5: "scale", 6: "bias"}),
    _norm("GroupNorm", normalizes="group", weights={1: "scale", 2: "bias"}),
    _norm("SkipGroupNorm", normalizes="group", weights={1: "scale", 2: "bias"}),
    _op("RotaryEmbedding", indices=slots(1)),
    _op("Gelu", activation=True, pointwise=True, keeps_zero=True),
    _op("FastGelu", activation=True, pointwise=True, weights={1: "bias"}),
    _op("QuickGelu", activation=True, pointwise=True, keeps_zero=True),
    _op("BiasGelu", activation=True, weights={1: "bias"}),
    _op("BiasAdd", weights={1: "bias"}, joint=slots(0, 1, 2)),
    _op("BiasSoftmax", scores=slots(0), masks=slots(1)),
    _op("GridSample", linear=True, coordinates=slots(1)),
    _op("Trilu", moves=slots(0), movement="fill", exact=True, linear=True, keeps_zero=True, indices=slots(1)),
    _op("ExpandDims", moves=slots(0), movement="whole", exact=True, linear=True, keeps_zero=True, indices=slots(1)),
    _op("GatherND", moves=slots(0), movement="lookup", exact=True, linear=True, indices=slots(1),
        weights={0: "table"}),
    _op("Pad", moves=slots(0, 2), movement="merge", exact=True, joint=slots(0, 2), indices=slots(1),
        weights={2: "padding"}),
    _op("Unique", exact=True),
    _op("Range", indices=slots(0, 1, 2), weights={0: "scalar", 1: "scalar", 2: "scalar"}),
    _op("BeamSearch", bodies=True),
    _op("GreedySearch", bodies=True),
    _op("Sampling", bodies=True),
    _op("WhisperBeamSearch", bodies=True),
    _quantized("QuantizeLinear", weights={1: "quantization_scale"}),
    _quantized("DequantizeLinear", weights={1: "quantization_scale"}),
    _quantized("MatMulInteger16", product="integer", factors=slots(0, 1)),
    _quantized("MatMulIntegerToFloat", product="integer", factors=slots(0, 1)),
    _quantized("DynamicQuantizeMatMul", product="integer", factors=slots(0, 1)),
    _quantized("QLinearConv", product="quantized", factors=slots(0, 3)),
    _quantized("QGemm", product="quantized", factors=slots(0, 3)),
)  # fmt: skip
