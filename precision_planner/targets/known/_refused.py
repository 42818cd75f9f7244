"""What the parsers of TensorRT and the kernels of onnxruntime's CUDA provider lack."""

from precision_planner.targets.refusals import Refusal

_OUTSIDE = "compute it outside the engine, or by operators that it has, or bring a plugin for it (--plugins)"
_MATRIX = "onnx-tensorrt, docs/operators.md"


def _absent(source: str, *op_types: str) -> Refusal:
    return Refusal(op_types, "its parser has no such operator", _OUTSIDE, source=source)


_EVERYWHERE = (
    "Bernoulli", "BitShift", "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear",
    "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss",
    "Optional", "OptionalGetElement", "OptionalHasElement", "QLinearConv", "QLinearMatMul", "SequenceAt",
    "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap",
    "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringNormalizer", "TfIdfVectorizer", "Unique",
)  # fmt: skip
_FROM_18 = (
    "AffineGrid", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im", "ImageDecoder",
    "RegexFullMatch", "StringConcat", "StringSplit",
)  # fmt: skip
_WINDOWS = ("BlackmanWindow", "HammingWindow", "HannWindow", "STFT")

_STATISTICS = Refusal(
    ("LayerNormalization",),
    "its parser takes one output, and the mean or deviation is read too",
    "compute the mean beside it by ReduceMean",
    outputs_over=1,
    source="10.6 and TensorRT-RTX 1.7.1: 'more than 1 outputs'",
)
_SCATTER_ADD = Refusal(
    ("ScatterElements",),
    "its parser takes no reduction",
    "write it as ScatterND, or add the updates by OneHot and MatMul",
    attribute=("reduction", ("add", "mul", "max", "min")),
    source="TensorRT-RTX 1.7.1",
)
_SCATTER_ND = Refusal(
    ("ScatterND",),
    "its parser takes no reduction",
    "gather, add and scatter without one",
    attribute=("reduction", ("add", "mul", "max", "min")),
    source=f"{_MATRIX} of 10.1-GA: '`reduction` is not supported'",
)
_INT8_CONSTANT = Refusal(
    ("Cast",),
    "its parser takes no INT8 constant but under a DequantizeLinear",
    "store the constant in the type that it is cast to",
    reads=("int8", "uint8"),
    source="TensorRT-RTX 1.7.1",
)
_BF16_TRANSPOSED = Refusal(
    ("ConvTranspose",), "it has no kernel in BF16", "keep it in FP32 or FP16", precision="bf16",
    source="TensorRT-RTX 1.7.1",
)  # fmt: skip

TENSORRT_8_6 = (_absent(f"{_MATRIX} of 8.6-GA", *_EVERYWHERE, *_WINDOWS, "Hardmax"), _SCATTER_ND)
TENSORRT_10 = (
    _absent(f"{_MATRIX} of 10.1-GA", *_EVERYWHERE, *_FROM_18, *_WINDOWS),
    _STATISTICS,
    _SCATTER_ADD,
    _SCATTER_ND,
    _INT8_CONSTANT,
    Refusal(
        ("Attention", "RotaryEmbedding", "TensorScatter", "CumProd"),
        "it is of opset 23, and the parser reads up to 20",
        "export at opset 20 or below",
        source=f"{_MATRIX} of 10.1-GA: opset 9 to 20",
    ),
)
TENSORRT_11 = (
    _absent(
        "TensorRT-RTX 1.7.1's parser, supports_operator",
        *_EVERYWHERE, *_FROM_18, "BitCast", "CumProd", "DeformConv", "SwiGLU",
    ),
    Refusal(
        ("Attention",),
        "its parser takes Attention with one output, and the present keys or values are read too",
        "concatenate past and new keys and values before it, and give Attention all of them",
        outputs_over=1,
        source="TensorRT-RTX 1.7.1: 'only supports Attention nodes with one output'",
    ),
    Refusal(
        ("Attention",),
        "its parser takes no softcap",
        "write the attention out, or leave softcap out",
        over=("softcap", 0.0),
        source="TensorRT-RTX 1.7.1",
    ),
    _STATISTICS,
    _SCATTER_ADD,
    _INT8_CONSTANT,
    _BF16_TRANSPOSED,
)  # fmt: skip

_RUNS_IN_BF16 = (
    "Abs", "Add", "Attention", "AveragePool", "Cast", "Compress", "Concat", "Constant", "ConstantOfShape", "Conv",
    "DequantizeLinear", "Div", "Dropout", "Erf", "Exp", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
    "Gelu", "Gemm", "HardSigmoid", "HardSwish", "Identity", "If", "IsInf", "IsNaN", "LayerNormalization", "Loop",
    "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Pow", "QuantizeLinear", "RMSNormalization", "ReduceSum", "Relu",
    "Reshape", "ReverseSequence", "RotaryEmbedding", "Scan", "ScatterElements", "ScatterND", "SequenceAt",
    "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "Shape", "Sigmoid",
    "Sign", "Size", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "TensorScatter", "Tile",
    "Transpose", "Trilu", "Unsqueeze", "Where",
)  # fmt: skip
_KERNELS = "onnxruntime, docs/OperatorKernels.md, CUDAExecutionProvider; 1.31.1 on an H200: 54 of 150 exports"

ONNXRUNTIME = (
    Refusal(
        (), "onnxruntime's CUDA provider has no kernel for it in BF16", "it stays in FP32",
        but_for=_RUNS_IN_BF16, precision="bf16", source=_KERNELS,
    ),
    Refusal(
        ("Conv", "AveragePool", "HardSigmoid", "HardSwish"),
        "onnxruntime's CUDA provider has its BF16 kernel from opset 22",
        "it stays in FP32",
        precision="bf16",
        below_opset=22,
        source=_KERNELS,
    ),
)  # fmt: skip
