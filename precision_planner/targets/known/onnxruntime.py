"""ONNX Runtime, which runs typed graphs as they are. Measured with its CUDA provider on an H200."""

from precision_planner.targets.known import _defects, _refused
from precision_planner.targets.target import Attention, Sandwich, Target, Words

TARGET = Target(
    name="onnxruntime",
    runtime="onnxruntime",
    release=(),
    typing="strong",
    words=Words("ONNX Runtime", ""),
    bf16_opset=22,
    bf16_kernels=False,
    sums="fp32",
    tf32="nearest",
    chains="fp16",
    weights="inf",
    sandwich=Sandwich(fp32_sums=True),
    attention=Attention(),
    refused=_refused.ONNXRUNTIME,
    defects=_defects.ONNXRUNTIME,
    sources={
        "bf16_opset": "ONNX: Conv, pooling and InstanceNormalization take BF16 from opset 22",
        "bf16_kernels": "1.31.1 on an H200: 54 of 150 BF16 exports do not load for want of a kernel",
        "sums": "evidence/cuda/results.json: 1.000 of the prediction with FP32 sums, median of 520",
        "tf32": "taken to be so: CUDA's own conversion rounds to nearest",
        "chains": "each operator is a kernel of its own",
        "weights": "typed graphs are run as they are",
        "islands": "typed graphs are run as they are",
        "sandwich": "sums are FP32 anyway",
        "attention": "its attention fusions",
        "norm_beside_fp32": "each operator is a kernel of its own",
        "warnings": "its log has no such line",
        "margin": "evidence/cuda/results.json: the worst row against its prediction",
        "avoid": "none known",
        "lowering": "its operators are kernels of its own",
    },
)
