"""TensorRT-RTX: strongly typed, the parser of TensorRT 11, and a builder that needs no GPU."""

from precision_planner.targets.known import _defects, _refused
from precision_planner.targets.known import _tensorrt_rtx as family
from precision_planner.targets.target import Target, Words

TARGET = Target(
    name="tensorrt-rtx",
    runtime="tensorrt_rtx",
    release=(11,),
    typing="strong",
    words=Words("TensorRT-RTX", "tensorrt_rtx", extra="rtx", timing_cache=False),
    bf16_opset=22,
    sums="fp16",
    tf32="nearest",
    chains="fp16",
    weights="inf",
    islands=family.ISLANDS,
    sandwich=family.SANDWICH,
    attention=family.ATTENTION,
    margin=1.4,
    lowering=family.LOWERING,
    refused=_refused.TENSORRT_11,
    defects=_defects.TENSORRT,
    sources=family.SOURCES,
)
