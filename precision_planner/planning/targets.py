"""The builds a plan can be for, and what each needs."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from precision_planner.errors import TargetError


@dataclass(frozen=True, slots=True)
class Target:
    """A build environment.

    Attributes:
      name: as on the command line.
      typing: 'strong' (precision is the types in the graph) or 'weak' (an FP32 graph plus layer constraints).
      runtime: 'tensorrt', 'tensorrt_rtx' or 'onnxruntime'.
      bf16_opset: the smallest opset from which its parser takes BF16 in every op ONNX defines it for; None: no BF16.
      default: whether a plan is for it when nothing is said.
      margin: how much smaller than the tolerance a prediction is to be for the device to keep it: by how much the worst
        row came out worse where typed graphs ran on a GPU (benchmarks/cuda), and where weakly typed engines of plans
        that the search chose did (benchmarks/tensorrt86).
      avoid: repairs that are right in the graph and that its builder was seen not to take.
      fused_attention: whether its builder makes one kernel of an attention in 16 bits.
    """

    name: str
    typing: str
    runtime: str
    bf16_opset: int | None
    default: bool = False
    margin: float = 1.4
    avoid: tuple[str, ...] = ()
    fused_attention: bool = True

    @property
    def strong(self) -> bool:
        """Whether the precision is said by the types in the graph."""
        return self.typing == "strong"

    @property
    def accumulation(self) -> Literal["fp32", "fp16"]:
        """How products in FP16 are simulated to add up.

        TensorRT 8.6 builds kernels with FP16 accumulators (`benchmarks/tensorrt86/probes.json`), and nothing says that
        a later weakly typed builder does not. Of strongly typed ones it is not known; they are taken at ONNX's word.
        """
        return "fp32" if self.strong else "fp16"

    @property
    def tf32(self) -> Literal["nearest", "truncated"]:
        """How products in FP32 are simulated to take their operands, where a build lets them use TF32.

        For some products of two computed values TensorRT 8.6 takes kernels that truncate
        (`python -m benchmarks.tensorrt86.predicted`); which ones differs from build to build.
        """
        return "nearest" if self.strong else "truncated"


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        # 8.6.0 on an H100: no engine for the rescaled `ffn` classifier with fused LayerNorms ("could not find any
        # implementation"), and one far beyond its tolerance with decomposed ones; and Q K^T, softmax and P V are
        # three kernels with --fp16 (benchmarks/tensorrt86/kernels.json)
        Target("tensorrt-8.6", "weak", "tensorrt", None, margin=2.0, avoid=("rescale_stream",), fused_attention=False),
        Target("tensorrt-10", "weak", "tensorrt", 22, margin=2.0),
        Target("tensorrt-10-strong", "strong", "tensorrt", 22),
        Target("tensorrt-11", "strong", "tensorrt", 22, default=True),
        Target("tensorrt-rtx", "strong", "tensorrt_rtx", 22),
        Target("onnxruntime", "strong", "onnxruntime", 22),
    )
}

DEFAULT_TARGET = next(target.name for target in TARGETS.values() if target.default)


def get_target(name: str) -> Target:
    """The target of that name; TargetError with the nearest names for any other."""
    if name in TARGETS:
        return TARGETS[name]
    near = difflib.get_close_matches(name, TARGETS, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"take one of {', '.join(TARGETS)}"
    raise TargetError(f"unknown target '{name}': {hint}")
