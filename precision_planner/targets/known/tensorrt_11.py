"""TensorRT 11: strongly typed only."""

from precision_planner.targets.known import _defects, _refused
from precision_planner.targets.known import _tensorrt_rtx as family
from precision_planner.targets.target import Target, Words

TARGET = Target(
    name="tensorrt-11",
    runtime="tensorrt",
    release=(11,),
    typing="strong",
    words=Words("TensorRT", "trtexec"),
    default=True,
    bf16_opset=22,
    sums="fp16",
    tf32="nearest",
    chains="fp16",
    weights="inf",
    islands=family.ISLANDS,
    sandwich=family.SANDWICH,
    attention=family.ATTENTION,
    lowering=family.LOWERING,
    refused=_refused.TENSORRT_11,
    defects=_defects.TENSORRT,
    sources=family.SOURCES,
)
