"""Operators with weights: products, convolutions, recurrences, attention and normalizations.

Source: the operators' definitions in onnx.defs; each column is run by tests/operators.
"""

from __future__ import annotations

from functools import partial

from precision_planner.operators.row import Operator, every, slots

_conv = partial(Operator, product="convolution", factors=slots(0, 1), linear=False)
_recurrent = partial(
    Operator, product="recurrent", factors=slots(0, 1, 2), recurrent=True, indices=slots(4),
    weights={1: "weight", 2: "weight", 3: "bias"},
)  # fmt: skip
_norm = partial(Operator, weights={1: "scale", 2: "bias"})

ROWS = (
    Operator("MatMul", product="matmul", factors=slots(0, 1), weights={0: "weight", 1: "weight"}),
    Operator("Gemm", product="matmul", factors=slots(0, 1), weights={0: "weight", 1: "weight", 2: "bias"}),
    Operator("Einsum", product="einsum", factors=every(), weights={0: "weight", 1: "weight"}),
    _conv("Conv", weights={1: "weight", 2: "bias"}),
    _conv("ConvTranspose", weights={1: "weight", 2: "bias"}),
    _conv("DeformConv", weights={1: "weight", 3: "bias"}, coordinates=slots(2)),
    _conv("CausalConvWithState", weights={1: "weight", 2: "bias"}, recurrent=True),
    _recurrent("LSTM"),
    _recurrent("GRU"),
    _recurrent("RNN"),
    Operator("Attention", product="attention", factors=slots(0, 1, 2), scores=slots(0, 1), masks=slots(3),
             indices=slots(6)),
    Operator("LinearAttention", product="attention", factors=slots(0, 1, 2), recurrent=True),
    Operator("RotaryEmbedding", indices=slots(3)),
    _norm("LayerNormalization", normalizes="layer", statistics_type=True),
    _norm("RMSNormalization", normalizes="rms", statistics_type=True, weights={1: "scale"}),
    _norm("GroupNormalization", normalizes="group", statistics_type=True),
    _norm("InstanceNormalization", normalizes="instance"),
    _norm("BatchNormalization", normalizes="batch", weights={1: "scale", 2: "bias", 3: "mean", 4: "variance"}),
    Operator("MeanVarianceNormalization", normalizes="mean_variance"),
    Operator("LpNormalization", normalizes="lp"),
    Operator("LRN", normalizes="local"),
    Operator("ConvInteger", product="integer", factors=slots(0, 1), quantizes=True),
    Operator("MatMulInteger", product="integer", factors=slots(0, 1), quantizes=True),
    Operator("QLinearConv", product="quantized", factors=slots(0, 3), quantizes=True),
    Operator("QLinearMatMul", product="quantized", factors=slots(0, 3), quantizes=True),
    Operator("QuantizeLinear", quantizes=True, type_attribute="output_dtype", weights={1: "quantization_scale"}),
    Operator("DequantizeLinear", quantizes=True, type_attribute="output_dtype", weights={1: "quantization_scale"}),
    Operator("DynamicQuantizeLinear", quantizes=True),
    # written into ONNX's own domain by onnxruntime's optimizer
    _norm("SimplifiedLayerNormalization", normalizes="rms", statistics_type=True, weights={1: "scale"}),
)  # fmt: skip
