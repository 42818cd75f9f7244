"""The tables of typing that no schema says."""

from __future__ import annotations

from collections.abc import Mapping

from precision_planner.operators.signatures import OpTypes, Slot, make_slot, op_types

__all__ = [
    "DATA_MOVEMENT",
    "INDIFFERENT",
    "NORM_WITH_STASH",
    "TYPE_ATTRIBUTES",
    "OpTypes",
    "Slot",
    "make_slot",
    "op_types",
]

DATA_MOVEMENT = frozenset(
    {
        "CenterCropPad", "Compress", "Concat", "ConcatFromSequence", "DepthToSpace", "Dropout", "Expand", "Flatten",
        "Gather", "GatherElements", "GatherND", "Identity", "OneHot", "Optional", "OptionalGetElement",
        "OptionalHasElement", "Pad", "Reshape", "ReverseSequence", "Scatter", "ScatterElements", "ScatterND",
        "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
        "Slice", "SpaceToDepth", "Split", "SplitToSequence", "Squeeze", "TensorScatter", "Tile", "Transpose", "Trilu",
        "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Operators that move values without computing with them: they take the type of what stands around them."""

COMPARISONS = frozenset(["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
"""Exact in whatever type their operands already have."""

GENERATORS = frozenset(
    {
        "BlackmanWindow", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow", "RandomNormal", "RandomUniform",
    }
)  # fmt: skip
"""Operators that make floats from no float: the readers choose the type."""

INDIFFERENT: Mapping[str, frozenset[int]] = {
    "ArgMax": frozenset({0}),
    "ArgMin": frozenset({0}),
    "Cast": frozenset({0}),
    "CastLike": frozenset({0}),
    "EyeLike": frozenset({0}),
    "IsInf": frozenset({0}),
    "IsNaN": frozenset({0}),
    "NonZero": frozenset({0}),
    "Shape": frozenset({0}),
    "Size": frozenset({0}),
}
"""Input slots that read any type as it is stored, so that no Cast is placed before them."""

VALUE_BLIND = frozenset({"Shape", "Size", "EyeLike", "SequenceLength", "OptionalHasElement"})
"""Indifferent operators that look at the shape alone."""

FIXED_SLOTS: Mapping[str, frozenset[int]] = {
    "Dropout": frozenset({1}),
    "OneHot": frozenset({0, 1}),
    "Resize": frozenset({1, 2}),
    "Upsample": frozenset({1}),
    "MelWeightMatrix": frozenset({0, 1, 2, 3, 4}),
    "Multinomial": frozenset(),
}
"""Float inputs that stay FLOAT although the schema would take less: ratios, indices, regions and scales."""

TYPE_ATTRIBUTES: Mapping[str, str] = {
    "Bernoulli": "dtype",
    "BlackmanWindow": "output_datatype",
    "Cast": "to",
    "EyeLike": "dtype",
    "HammingWindow": "output_datatype",
    "HannWindow": "output_datatype",
    "MelWeightMatrix": "output_datatype",
    "RandomNormal": "dtype",
    "RandomNormalLike": "dtype",
    "RandomUniform": "dtype",
    "RandomUniformLike": "dtype",
    "SequenceEmpty": "dtype",
}
"""Attributes that name the element type of output 0."""

NORM_WITH_STASH = frozenset({"LayerNormalization", "RMSNormalization", "GroupNormalization"})
"""Normalizations whose `stash_type` says the type of the statistics apart from the type of the data."""

QUANTIZATION = frozenset(
    {
        "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul",
        "QuantizeLinear",
    }
)  # fmt: skip
"""The quantized part of a model: never touched."""
