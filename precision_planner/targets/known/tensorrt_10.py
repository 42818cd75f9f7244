"""TensorRT 10, weakly typed. Measured on an H200 with 10.6."""

from precision_planner.targets.known import _defects, _refused
from precision_planner.targets.known import _tensorrt_10 as family
from precision_planner.targets.target import Attention, Islands, Sandwich, Target, Warnings, Words

TARGET = Target(
    name="tensorrt-10",
    runtime="tensorrt",
    release=(10,),
    typing="weak",
    words=Words("TensorRT", "trtexec"),
    bf16_opset=22,
    sums="fp16",
    tf32="nearest",
    chains="fp32",
    weights="saturate",
    islands=Islands(taken=("MatMul", "Gemm"), despite_bias=("Gemm",)),
    sandwich=Sandwich(fp32_sums=True, convolutions=False, weights_cost=1.01, attention_cost=1.02),
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
        "weights": "taken from 8.6, whose conversion weak typing shares",
        "islands": "10.6 on an H200: a MatMul or Gemm obeying FP32, its output too, between half layers is a half "
        "kernel f16f16_f16f32_f32 of half weights, whatever else is FP32 beside it (a bias, an Add of zero); a Conv is "
        "an FP32 kernel (evidence/tensorrt106, weak and weak_islands)",
        "sandwich": "10.6 on an H200: a MatMul or Gemm obeying FP32 with half outputs takes f16f16_f16f32_f32 (2e-4) "
        "at 1.002 of the time, attention stays mha_v2 at 1.02; a Conv so held finds no engine (evidence/tensorrt106)",
        "attention": "10.6 on an H200: kernels mha_v1 and mha_v2",
        "norm_beside_fp32": "taken to be so: 8.6's trouble was not seen on 10.6",
        "warnings": family.WARNINGS,
        "margin": "taken from 8.6; on 10.6 the rules' plan came out at 0.7 of its prediction",
        "avoid": "none known",
        "lowering": "each says its own",
    },
)
