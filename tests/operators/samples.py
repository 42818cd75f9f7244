"""A small node for every operator whose row claims anything, and how it is run.

onnx.reference runs ONNX's own; onnxruntime runs what it alone defines (com.microsoft) or the reference lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

F = np.float32


def grid(*shape: int, seed: int = 0, low: float = 0.25, high: float = 4.0) -> np.ndarray:
    """Distinct float32 values of both signs, none zero, their magnitudes in [low, high)."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    magnitudes = low + (high - low) * (rng.permutation(count) + rng.uniform(0.1, 0.9, count)) / count
    return (magnitudes * rng.choice([-1, 1], count)).astype(F).reshape(shape)


def positive(*shape: int, seed: int = 0, high: float = 4.0) -> np.ndarray:
    return np.abs(grid(*shape, seed=seed, high=high))


def ints(*values: Any) -> np.ndarray:
    return np.asarray(values, np.int64)


def bools(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, shape).astype(bool)


@dataclass(frozen=True)
class Sample:
    """One node and its inputs; None where an optional input is missing."""

    op: str
    inputs: tuple[np.ndarray | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    outputs: int = 1
    opset: int = 0
    runner: str = "reference"

    def node(self) -> onnx.NodeProto:
        names = ["" if array is None else f"x{at}" for at, array in enumerate(self.inputs)]
        while names and not names[-1]:
            names.pop()
        made = helper.make_node(
            self.op, names, [f"y{at}" for at in range(self.outputs)], domain=self.domain, **self.attributes
        )
        return made

    def model(self) -> onnx.ModelProto:
        def info(name: str, array: Any) -> onnx.ValueInfoProto:
            if isinstance(array, list):
                element = helper.np_dtype_to_tensor_dtype(array[0].dtype)
                return helper.make_tensor_sequence_value_info(name, element, None)
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

        given = [info(f"x{at}", array) for at, array in enumerate(self.inputs) if array is not None]
        graph = helper.make_graph(
            [self.node()], "sample", given, [onnx.ValueInfoProto(name=f"y{at}") for at in range(self.outputs)]
        )
        opset = self.opset or min(onnx.defs.onnx_opset_version(), 23 if self.runner != "reference" else 99)
        imports = [helper.make_opsetid("", opset)]
        if self.domain:
            imports.append(helper.make_opsetid(self.domain, 3 if self.domain == "ai.onnx.ml" else 1))
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def run(self, inputs: Sequence[Any] | None = None) -> list[Any]:
        """The outputs, for other inputs of the same types where some are given."""
        sample = self if inputs is None else replace(self, inputs=tuple(inputs))
        feeds = {f"x{at}": array for at, array in enumerate(sample.inputs) if array is not None}
        if self.runner == "onnxruntime":
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(
                sample.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return list(session.run(None, feeds))
        return list(ReferenceEvaluator(sample.model()).run(None, feeds))


def s(op: str, *inputs: Any, domain: str = "", outputs: int = 1, opset: int = 0, ort: bool = False, **attrs: Any):
    return Sample(
        op, inputs, attrs, domain, outputs, opset, "onnxruntime" if ort or domain == "com.microsoft" else "reference"
    )


def ms(op: str, *inputs: Any, outputs: int = 1, **attrs: Any) -> Sample:
    return s(op, *inputs, domain="com.microsoft", outputs=outputs, **attrs)


_IMAGE = grid(1, 2, 4, 4)
_ROWS = grid(3, 4)
_BOXES = np.array([[0, 0, 0, 2, 2], [0, 1, 1, 3, 3]], F)
_SEQUENCE = [grid(2, 3), grid(2, 3, seed=1)]


def _constant_tensor(value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([value], F))


MOVEMENT = [
    s("Identity", _ROWS),
    s("Cast", _ROWS, to=onnx.TensorProto.FLOAT),
    s("CastLike", _ROWS, grid(1)),
    s("Reshape", _ROWS, ints(2, 6)),
    s("Flatten", grid(2, 3, 2), axis=1),
    s("Squeeze", grid(1, 4), ints(0)),
    s("Unsqueeze", _ROWS, ints(1)),
    s("Transpose", _ROWS, perm=[1, 0]),
    s("DepthToSpace", grid(1, 8, 2, 2), blocksize=2),
    s("SpaceToDepth", grid(1, 2, 4, 4), blocksize=2),
    s("ReverseSequence", grid(4, 2), ints(4, 3), batch_axis=1, time_axis=0),
    s("Dropout", _ROWS),
    s("Slice", _ROWS, ints(0), ints(2), ints(1), ints(1)),
    s("Split", grid(4, 3), ints(1, 3), outputs=2),
    s("Compress", _ROWS, np.array([True, False, True]), axis=0),
    s("Expand", grid(1, 4), ints(3, 4)),
    s("Tile", _ROWS, ints(2, 1)),
    s("Resize", _IMAGE, None, np.array([1, 1, 2, 2], F), mode="nearest"),
    s("Upsample", _IMAGE, np.array([1, 1, 2, 2], F), opset=9, ort=True, mode="nearest"),
    s("CenterCropPad", _ROWS, ints(5, 2)),
    s("Trilu", _ROWS, np.array(0, np.int64)),
    s("MaxUnpool", grid(1, 1, 2, 2), ints(5, 7, 13, 15).reshape(1, 1, 2, 2), kernel_shape=[2, 2], strides=[2, 2]),
    s("Pad", _ROWS, ints(1, 1, 0, 0), np.array(7.5, F)),
    s("Concat", _ROWS, grid(2, 4, seed=1), axis=0),
    s("Where", bools(3, 4), _ROWS, grid(3, 4, seed=1)),
    s("OneHot", ints(0, 2, 1), np.array(3, np.int64), np.array([0.5, 2.5], F)),
    s("TensorScatter", grid(1, 4, 2), grid(1, 1, 2, seed=1), ints(2), axis=1),
    s("ScatterElements", _ROWS, ints(1, 0, 2, 1).reshape(1, 4), grid(1, 4, seed=1)),
    s("ScatterND", _ROWS, ints([1], [0]), grid(2, 4, seed=1)),
    s("Scatter", _ROWS, ints(1, 0, 2, 1).reshape(1, 4), grid(1, 4, seed=1), opset=10, ort=True),
    s("Gather", _ROWS, ints(2, 0)),
    s("GatherElements", _ROWS, ints(1, 0, 2, 1).reshape(1, 4)),
    s("GatherND", _ROWS, ints([1, 1], [2, 0])),
    s("SequenceConstruct", *_SEQUENCE),
    s("SequenceInsert", _SEQUENCE, grid(2, 3, seed=2), np.array(0, np.int64), ort=True),
    s("SequenceErase", _SEQUENCE, np.array(0, np.int64), ort=True),
    s("SequenceAt", _SEQUENCE, np.array(1, np.int64), ort=True),
    s("SequenceLength", _SEQUENCE, ort=True),
    s("SplitToSequence", _ROWS, ints(1, 2)),
    s("ConcatFromSequence", _SEQUENCE, axis=0),
    s("Optional", _ROWS),
    s("OptionalGetElement", _ROWS),
    s("OptionalHasElement", _ROWS),
    s("SequenceEmpty", dtype=1),
    s("ArrayFeatureExtractor", _ROWS, ints(2, 0), domain="ai.onnx.ml"),
    ms("Trilu", _ROWS, np.array(0, np.int64), upper=1),
    ms("ExpandDims", _ROWS, np.array(0, np.int32)),
    ms("GatherND", _ROWS, ints([1, 1], [2, 0])),
    ms("Pad", _ROWS, ints(1, 1, 0, 0), np.array([7.5], F)),
]

_SMALL = grid(3, 4, high=0.95)
_PAIR = (_ROWS, grid(3, 4, seed=1))
_NUMBERS = np.arange(12, dtype=np.uint8).reshape(3, 4)

POINTWISE = [
    *(
        s(op, _ROWS)
        for op in [
            "Abs",
            "Neg",
            "Relu",
            "Sign",
            "Ceil",
            "Floor",
            "Round",
            "LeakyRelu",
            "Exp",
            "Sin",
            "Cos",
            "Tan",
            "Sinh",
            "Cosh",
            "Tanh",
            "Atan",
            "Asinh",
            "Erf",
            "Sigmoid",
            "HardSigmoid",
            "HardSwish",
            "Softplus",
            "Softsign",
            "Elu",
            "Selu",
            "Celu",
            "Gelu",
            "Mish",
            "Swish",
            "Shrink",
            "ThresholdedRelu",
            "IsInf",
            "IsNaN",
            "Reciprocal",
        ]
    ),
    *(s(op, positive(3, 4)) for op in ("Sqrt", "Log")),
    s("Acosh", positive(3, 4) + 1),
    *(s(op, _SMALL) for op in ("Asin", "Acos", "Atanh")),
    *(
        s(op, *_PAIR)
        for op in [
            "Max",
            "Min",
            "PRelu",
            "Add",
            "Sub",
            "Sum",
            "Mean",
            "Mul",
            "Div",
            "Equal",
            "Less",
            "LessOrEqual",
            "Greater",
            "GreaterOrEqual",
        ]
    ),
    s("Mod", *_PAIR, fmod=1),
    s("SwiGLU", *_PAIR),
    s("Pow", positive(3, 4), grid(3, 4, seed=1)),
    s("Clip", _ROWS, np.array(-1, F), np.array(2, F)),
    s("Not", bools(3, 4)),
    *(s(op, bools(3, 4), bools(3, 4, seed=1)) for op in ("And", "Or", "Xor")),
    *(s(op, _NUMBERS, _NUMBERS[::-1].copy()) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    s("BitwiseNot", _NUMBERS),
    s("BitShift", _NUMBERS, np.full((3, 4), 1, np.uint8), direction="LEFT"),
    s("Bernoulli", np.full((3, 4), 0.5, F)),
    s("Binarizer", _ROWS, domain="ai.onnx.ml", threshold=0.5),
    s("Imputer", _ROWS, domain="ai.onnx.ml", imputed_value_floats=[1.5], replaced_value_float=2.0),
    *(ms(op, _ROWS) for op in ("Gelu", "FastGelu", "QuickGelu")),
]

REDUCTIONS = [
    *(
        s(op, _ROWS, ints(1))
        for op in [
            "ReduceSum",
            "ReduceMean",
            "ReduceProd",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        ]
    ),
    s("ReduceLogSum", positive(3, 4), ints(1)),
    *(s(op, _ROWS, axis=1) for op in ("ArgMax", "ArgMin")),
    s("TopK", _ROWS, ints(2), outputs=2),
    s("Unique", np.array([2.5, 1.5, 2.5], F)),
    s("NonZero", np.array([[0, 1.5], [2.5, 0]], F)),
    s("CumSum", _ROWS, np.array(1, np.int64)),
    s("CumProd", _ROWS, np.array(1, np.int64)),
    s("AveragePool", _IMAGE, kernel_shape=[2, 2]),
    s("GlobalAveragePool", _IMAGE),
    s("MaxPool", _IMAGE, kernel_shape=[2, 2]),
    s("GlobalMaxPool", _IMAGE),
    s("LpPool", _IMAGE, kernel_shape=[2, 2]),
    s("GlobalLpPool", _IMAGE, opset=21, ort=True),
    s("MaxRoiPool", _IMAGE, _BOXES, pooled_shape=[1, 1], opset=21, ort=True),
    s("Col2Im", grid(1, 4, 4), ints(3, 3), ints(2, 2)),
    s("Softmax", _ROWS),
    s("LogSoftmax", _ROWS),
    s("Hardmax", _ROWS),
    s("SoftmaxCrossEntropyLoss", _ROWS, ints(0, 1, 3)),
    s("NegativeLogLikelihoodLoss", _ROWS, ints(0, 1, 3)),
    ms("Unique", np.array([2.5, 1.5, 2.5], F), outputs=3),
]

_W = grid(1, 8, 3, seed=2)  # LSTM: 4 gates of 2
_QKV = tuple(grid(1, 2, 3, 4, seed=seed) for seed in (0, 1, 2))
_LONG = tuple(grid(1, 3, 8, seed=seed) for seed in (0, 1, 2))
_NORM = (grid(2, 4, 6), positive(6, seed=1), grid(6, seed=2))
_CHANNELS = (grid(2, 4, 6), positive(4, seed=1), grid(4, seed=2))

LAYERS = [
    s("MatMul", _ROWS, grid(4, 2, seed=1)),
    s("Gemm", _ROWS, grid(4, 2, seed=1), grid(2, seed=2)),
    s("Einsum", _ROWS, grid(4, 2, seed=1), equation="ij,jk->ik"),
    s("Conv", _IMAGE, grid(3, 2, 2, 2, seed=1), grid(3, seed=2)),
    s("ConvTranspose", _IMAGE, grid(2, 3, 2, 2, seed=1), grid(3, seed=2)),
    s("DeformConv", _IMAGE, grid(3, 2, 2, 2, seed=1), np.zeros((1, 8, 3, 3), F), grid(3, seed=2), kernel_shape=[2, 2]),
    s("CausalConvWithState", grid(1, 2, 5), grid(2, 1, 3, seed=1), grid(2, seed=2), outputs=2),
    s("LSTM", grid(2, 1, 3), _W, grid(1, 8, 2, seed=3), grid(1, 16, seed=4), hidden_size=2),
    s(
        "GRU",
        grid(2, 1, 3),
        F(0.1) * grid(1, 6, 3, seed=2),
        grid(1, 6, 2, seed=3),
        F(0.1) * grid(1, 12, seed=4),
        hidden_size=2,
        ort=True,
        opset=14,
    ),
    s("RNN", grid(2, 1, 3), grid(1, 2, 3, seed=2), grid(1, 2, 2, seed=3), grid(1, 4, seed=4), hidden_size=2),
    s("Attention", *_QKV, np.zeros((3, 3), F)),
    s("LinearAttention", *_LONG, q_num_heads=2, kv_num_heads=2, outputs=2, update_rule="linear"),
    s("LayerNormalization", *_NORM, epsilon=1e-12),
    s("RMSNormalization", *_NORM[:2], epsilon=1e-12),
    s("GroupNormalization", *_CHANNELS, num_groups=2, epsilon=1e-12),
    s("InstanceNormalization", *_CHANNELS, epsilon=1e-12),
    s("BatchNormalization", *_CHANNELS, grid(4, seed=3), positive(4, seed=4), epsilon=1e-12),
    s("MeanVarianceNormalization", _IMAGE),
    s("LpNormalization", _ROWS),
    s("LRN", _IMAGE, ort=True, size=3, alpha=1e6, beta=0.5, bias=1e-9),
    s("SimplifiedLayerNormalization", *_NORM[:2], epsilon=1e-12, ort=True, opset=17),
    s("RotaryEmbedding", grid(1, 2, 3, 4), grid(5, 2, seed=1), grid(5, 2, seed=2), ints([0, 1, 2])),
    s("QuantizeLinear", _ROWS, np.array(0.1, F)),
    s("DequantizeLinear", np.arange(4, dtype=np.uint8), np.array(0.1, F)),
    ms("FusedMatMul", _ROWS, grid(4, 2, seed=1)),
    ms("TransposeMatMul", _ROWS, grid(4, 2, seed=1)),
    ms("FusedGemm", _ROWS, grid(4, 2, seed=1), grid(2, seed=2), activation="LeakyRelu", activation_alpha=1.0),
    ms("FusedConv", _IMAGE, grid(3, 2, 2, 2, seed=1), grid(3, seed=2)),
    ms("MultiHeadAttention", *_LONG, grid(24, seed=3), None, np.zeros((1, 2, 3, 3), F), num_heads=2),
    ms(
        "Attention", _LONG[0], grid(8, 24, seed=1), grid(24, seed=2), None, None, np.zeros((1, 2, 3, 3), F), num_heads=2
    ),
    ms("SkipLayerNormalization", grid(2, 4, 6), grid(2, 4, 6, seed=9), *(_NORM[1:]), epsilon=1e-12),
    ms("SkipSimplifiedLayerNormalization", grid(2, 4, 6), grid(2, 4, 6, seed=9), _NORM[1], epsilon=1e-12),
    ms("BiasGelu", _ROWS, grid(4, seed=1)),
]

OTHERS = [
    s("Shape", _ROWS),
    s("Size", _ROWS),
    s("EyeLike", grid(3, 3)),
    s("Constant", value=_constant_tensor(2.0)),
    s("ConstantOfShape", ints(2, 3), value=_constant_tensor(0.5)),
    s("Range", np.array(0, F), np.array(4, F), np.array(0.5, F)),
    s("RandomNormal", shape=[2, 2]),
    s("RandomUniform", shape=[2, 2]),
    s("RandomNormalLike", _ROWS),
    s("RandomUniformLike", _ROWS),
    *(s(op, np.array(8, np.int64)) for op in ("BlackmanWindow", "HammingWindow", "HannWindow")),
    s("DFT", grid(1, 8, 1)),
    s("STFT", grid(1, 16, 1), np.array(4, np.int64), positive(8), np.array(8, np.int64)),
    s("GridSample", _IMAGE, grid(1, 3, 3, 2, high=0.9)),
    s("AffineGrid", grid(1, 2, 3), ints(1, 1, 3, 3)),
    s("RoiAlign", _IMAGE, _BOXES[:, 1:], ints(0, 0)),
    ms("GridSample", _IMAGE, grid(1, 3, 3, 2, high=0.9)),
    ms("Range", np.array(0, F), np.array(4, F), np.array(0.5, F)),
]

SAMPLES = (*MOVEMENT, *POINTWISE, *REDUCTIONS, *LAYERS, *OTHERS)


def sample_of(name: str, domain: str = "") -> Sample | None:
    """The sample of an operator."""
    return next((sample for sample in SAMPLES if (sample.op, sample.domain) == (name, domain)), None)
