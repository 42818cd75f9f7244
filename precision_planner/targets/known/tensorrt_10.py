"""TensorRT 10, weakly typed. Measured on an H200 with 10.6."""

from precision_planner.targets.known import _tensorrt_10 as family
from precision_planner.targets.target import Attention, Target, Warnings, Words

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
    attention=Attention(),
    warnings=Warnings(layernorm=True),
    margin=2.0,
    lowering=family.LOWERING,
    sources={
        "bf16_opset": family.BF16,
        "bf16_kernels": "TensorRT 10's support matrix; refused has what lacks them",
        "sums": family.SUMS,
        "tf32": family.TF32,
        "chains": family.CHAINS,
        "weights": "taken from 8.6, whose conversion weak typing shares",
        "islands": "weakly typed: there are no Casts to take away; obey holds what is constrained",
        "sandwich": "weakly typed: there are no Casts to write",
        "attention": "10.6 on an H200: kernels mha_v1 and mha_v2",
        "norm_beside_fp32": "taken to be so: 8.6's trouble was not seen on 10.6",
        "warnings": family.WARNINGS,
        "margin": "taken from 8.6; on 10.6 the rules' plan came out at 0.7 of its prediction",
        "avoid": "none known",
        "lowering": "each says its own",
    },
)
