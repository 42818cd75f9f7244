"""What the two targets of TensorRT 10 share. Measured on an H200 with 10.6."""

from precision_planner.targets.lowering import Lowering

BF16 = "TensorRT 10's support matrix; ONNX defines it for Conv, pooling and InstanceNormalization from opset 22"
SUMS = "10.6 on an H200: kernels f16f16_f16f16_f16, strongly and weakly typed; 4.4e-4 where FP32 sums give 2.2e-4"
TF32 = (
    "10.6 on an H200: 24 products of every kind equal those of operands rounded to nearest (evidence/tensorrt106, tf32)"
)
CHAINS = "10.6 on an H200: x * x / 1000 at 400 is 160, strongly typed half"
WARNINGS = (
    "10.6 on an H200: 'Detected layernorm nodes in FP16'; no line about weights for 36 networks of Conv, Gemm, MatMul "
    "and a transformer block, weights subnormal, flushed or overflowing, weak, obeying half and strong "
    "(evidence/tensorrt106, warnings)"
)

_IMPORTERS = "onnx-tensorrt, onnxOpImporters.cpp of 10.1-GA: written out in the type of the input"
_MEASURED = "10.6 on an H200, half, strongly typed"

LOWERING = (
    Lowering("ReduceL2", "squares_root", "fp32", f"{_MEASURED}: 6,228 from squares past 65504; half in 10.0 and 10.1"),
    Lowering("ReduceSumSquare", "squares", "fp32", f"{_MEASURED}: one Reduce kernel, as ReduceL2's"),
    Lowering("ReduceLogSum", "sum_log", "low", _IMPORTERS),
    Lowering(
        "ReduceLogSumExp", "exp_sum_log", "low", f"{_MEASURED}: inf at 200, in FP32 too; 10.16: NVIDIA/TensorRT#4772"
    ),
    Lowering("LpNormalization", "lp_normalization", "low", f"{_MEASURED}: 0"),
    Lowering("GlobalLpPool", "powers_root", "low", f"{_MEASURED}: inf"),
    Lowering("LogSoftmax", "softmax_log", "fp32", f"{_MEASURED}: right"),
    Lowering("CumSum", "running_sum", "low", f"{_MEASURED}: 0.35 past 2048"),
)
