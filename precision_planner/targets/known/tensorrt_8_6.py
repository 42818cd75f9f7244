"""TensorRT 8.6: weakly typed, no BF16. Measured on an H200 and an H100 with 8.6.0."""

from precision_planner.targets.known import _defects, _refused
from precision_planner.targets.lowering import Lowering
from precision_planner.targets.target import Attention, Target, Warnings, Words

_IMPORTERS = "onnx-tensorrt, builtin_op_importers.cpp of 8.6-GA: written out in the type of the input"

TARGET = Target(
    name="tensorrt-8.6",
    runtime="tensorrt",
    release=(8, 6),
    typing="weak",
    words=Words("TensorRT", "trtexec", package="tensorrt==8.6.*"),
    bf16_opset=None,
    bf16_kernels=False,
    sums="fp16",
    tf32="truncated",
    chains="fp32",
    weights="saturate",
    attention=Attention(fused=False, fused_with_sandwiches=False),
    norm_beside_fp32=False,
    warnings=Warnings(subnormal=True, underflow=True, overflow=True, layernorm=True),
    margin=1.4,
    avoid=("rescale_stream",),
    lowering=(
        Lowering("ReduceL2", "squares_root", "low", _IMPORTERS),
        Lowering("ReduceSumSquare", "squares", "low", _IMPORTERS),
        Lowering("ReduceLogSum", "sum_log", "low", _IMPORTERS),
        Lowering("ReduceLogSumExp", "exp_sum_log", "low", _IMPORTERS),
        Lowering("LpNormalization", "lp_normalization", "low", _IMPORTERS),
        Lowering("GlobalLpPool", "powers_root", "low", _IMPORTERS),
        Lowering("LogSoftmax", "softmax_log", "low", f"{_IMPORTERS}; whether one kernel holds both is not known"),
        Lowering("CumSum", "running_sum", "low", f"{_IMPORTERS}, as a loop"),
    ),
    refused=_refused.TENSORRT_8_6,
    defects=_defects.TENSORRT,
    sources={
        "bf16_opset": "BF16 came with TensorRT 9.0",
        "bf16_kernels": "BF16 came with TensorRT 9.0",
        "sums": "evidence/tensorrt86/probes.json: kernels f16f16_f16f16_f16, errors of an FP16 accumulator",
        "tf32": "evidence/tensorrt86/predicted.py: some products of two computed values truncate; which, differs",
        "chains": "measured: x * 1e-4 * 1e-4 * 1e4 * 1e4 is right to 7e-4",
        "weights": "the builder's own log: converted to the closest finite value, to the smallest subnormal",
        "islands": "weakly typed: there are no Casts to take away; obey holds what is constrained",
        "sandwich": "weakly typed: there are no Casts to write",
        "attention": "evidence/tensorrt86/kernels.json: Q K^T, softmax and P V are three kernels with --fp16",
        "norm_beside_fp32": "docs/build.md: the FP16 form of a Myelin layer does not compile there",
        "warnings": "docs/census.md: TensorRT's own list, reproduced tensor by tensor",
        "margin": "evidence/tensorrt86/results.json: the worst row against its prediction",
        "avoid": "8.6.0 on an H100: no implementation with fused LayerNorms, too far off with decomposed ones",
        "lowering": "each says its own",
    },
)
