"""In what an engine's kernels add up, by their tactic's name and the types of what they read and write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from precision_planner.engines.layers import EngineInfo, EngineLayer

__all__ = ["NodeSum", "accumulator", "node_sums"]

Sum = Literal["fp32", "fp16", ""]

# xmma: gemm_f16f16_f16f32_f32 (operands, output and scale, accumulator); CUTLASS and older: h884, s884, h16816gemm
_XMMA = re.compile(
    r"_(?:bf16|f16|f32|tf32|e4m3|i8){1,2}_(?:bf16|f16|f32|tf32|e4m3|i8|i32){1,2}_(?P<sum>f16|f32)(?:_|$)"
)
_WINOGRAD = re.compile(r"_f32f32_f32_f32(?:_|$)")
_HMMA = re.compile(r"(?:^|_)(?P<sum>[hs])(?:884|1688|16816|161616)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NodeSum:
    """What one product's sum is in.

    Attributes:
      node: the ONNX node's name.
      sums: 'fp32', 'fp16', or '' where nothing tells.
      kernel: the tactic, or the layer's name.
    """

    node: str
    sums: Sum
    kernel: str


def accumulator(layer: EngineLayer) -> Sum:
    """What a kernel adds up in; '' where neither its tactic nor its types tell.

    A kernel that reads and writes FP32 alone adds up in FP32; a half one may do either.
    """
    if (found := _XMMA.search(layer.tactic)) is not None:
        return "fp16" if found["sum"] == "f16" else "fp32"
    if _WINOGRAD.search(layer.tactic):
        return "fp32"
    if (found := _HMMA.search(layer.tactic)) is not None:
        return "fp16" if found["sum"].lower() == "h" else "fp32"
    types = {tensor.dtype for tensor in (*layer.inputs, *layer.outputs)} - {"int", ""}
    return "fp32" if types and types <= {"fp32", "bf16"} else ""


def node_sums(info: EngineInfo, nodes: Iterable[str]) -> tuple[NodeSum, ...]:
    """The sum of each node, by the layer that computes it: the one that lists it, or whose name begins with it."""
    found = []
    for node in nodes:
        layers = [
            layer
            for layer in info.layers
            if node in layer.nodes or re.match(rf"{re.escape(node)}(?:_myl|$| \+)", layer.name)
        ]
        told = [(accumulator(layer), layer.tactic or layer.name) for layer in layers if layer.computes]
        known = [one for one in told if one[0]]
        # of several kernels the worst counts
        best = next((one for one in known if one[0] == "fp16"), known[0] if known else ("", told[0][1] if told else ""))
        found.append(NodeSum(node, best[0], best[1]))
    return tuple(found)
