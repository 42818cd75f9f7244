"""TensorRT 10 with its strongly typed flag. Measured on an H200 with 10.6."""

from precision_planner.targets.known import _defects, _refused
from precision_planner.targets.known import _tensorrt_10 as family
from precision_planner.targets.target import Attention, Islands, Sandwich, Target, Warnings, Words

TARGET = Target(
    name="tensorrt-10-strong",
    runtime="tensorrt",
    release=(10,),
    typing="strong",
    words=Words("TensorRT", "trtexec", strong=("--stronglyTyped",)),
    bf16_opset=22,
    sums="fp16",
    tf32="nearest",
    chains="fp32",
    weights="inf",
    islands=Islands(taken=("MatMul", "Gemm")),
    sandwich=Sandwich(fp32_sums=True, convolutions=False, weights_cost=1.07, attention_cost=1.30),
    attention=Attention(),
    warnings=Warnings(layernorm=True),
    lowering=family.LOWERING,
    refused=_refused.TENSORRT_10,
    defects=_defects.TENSORRT,
    sources={
        "bf16_opset": family.BF16,
        "bf16_kernels": "TensorRT 10's support matrix; refused has what lacks them",
        "sums": family.SUMS,
        "tf32": family.TF32,
        "chains": family.CHAINS,
        "weights": "strongly typed: constants are in the graph as its Casts made them",
        "islands": "10.6 on an H200: a MatMul alone between Casts (Reshape, Transpose beside it) is a half kernel of "
        "half weights; kept with a bias, a Relu, a Mul, a second product or reader, and for Gemm with bias and Conv; "
        "an Add of zero before the product keeps it (evidence/tensorrt106, islands)",
        "sandwich": "10.6 on an H200: kernels f16f16_f16f32_f32, error 2.2e-4; 18 weight products of a BERT 1.07 times "
        "the time, attention's too 1.30 times; "
        "convolutions become FP32 kernels, 3 to 9 times slower; with the bias inside so do MatMul and Gemm, 14 times",
        "attention": "10.6 on an H200: mha_v2, mha_v1 with sandwiches; Q, K and V upcast lose the fused kernel",
        "norm_beside_fp32": "taken to be so: 8.6's trouble was not seen on 10.6",
        "warnings": family.WARNINGS,
        "margin": "the worst row of 520 small graphs on 10.6: 1.34 of its prediction, median 1.08",
        "avoid": "none known",
        "lowering": "each says its own",
    },
)
