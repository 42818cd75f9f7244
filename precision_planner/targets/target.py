"""What is known of a build target, as values. The facts themselves stand in `known/`, one file a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from precision_planner.targets.defects import Defect
from precision_planner.targets.lowering import Lowering
from precision_planner.targets.refusals import Refusal

Runtime = Literal["tensorrt", "tensorrt_rtx", "onnxruntime"]
RUNTIMES: tuple[Runtime, ...] = ("tensorrt", "tensorrt_rtx", "onnxruntime")
"""In the order in which targets are listed; the names are those of the Python modules."""


@dataclass(frozen=True, slots=True)
class Words:
    """How the target's own command line is spoken to.

    Attributes:
      title: what its documentation calls the runtime.
      program: its command-line builder; '' where nothing is built.
      strong: the flags that make a build strongly typed; none where it is so anyway.
      package: what `pip install` takes for its Python module; '' for what one of our extras brings.
      extra: the extra of this package that brings the module.
      timing_cache: whether it keeps a timing cache.
    """

    title: str
    program: str
    strong: tuple[str, ...] = ()
    package: str = ""
    extra: str = "tensorrt"
    timing_cache: bool = True


@dataclass(frozen=True, slots=True)
class Islands:
    """Which FP32 islands between Casts a strongly typed builder takes away (the engine then holds half weights).

    Attributes:
      taken: operators with constant weights that lose an island in which they stand alone, Reshape and Transpose beside
        them not counted; () where every island stays.
      despite_bias: those that lose it although they have a bias of their own, as their third input.
    """

    taken: tuple[str, ...] = ()
    despite_bias: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sandwich:
    """What Cast(FP32) -> product -> Cast(half), the bias outside, is made of: NVIDIA's way to ask for FP32 sums.

    Attributes:
      fp32_sums: whether the kernel that takes its place sums in FP32. Of a weakly typed target: whether that of a layer
        held to FP32 with half outputs, between half layers, does.
      convolutions: whether a convolution's is a half kernel, too; else it is one in FP32.
      weights_cost: time of a model whose weight products are all written so, as a factor of the plain one.
      attention_cost: the same with the products of attention written so, too.
    """

    fp32_sums: bool
    convolutions: bool = True
    weights_cost: float = 1.0
    attention_cost: float = 1.0


@dataclass(frozen=True, slots=True)
class Attention:
    """What becomes of attention.

    Attributes:
      fused: whether an attention in 16 bits is one kernel.
      fused_with_sandwiches: whether it still is with Q K^T and P V in Cast sandwiches.
      operator: whether ONNX's Attention operator is taken, and is one kernel.
      operator_upcast: whether that operator stays one kernel where Q, K and V are upcast to FP32.
      head_sizes: the smallest and largest head size of that kernel.
    """

    fused: bool = True
    fused_with_sandwiches: bool = True
    operator: bool = False
    operator_upcast: bool = False
    head_sizes: tuple[int, int] = (1, 256)


@dataclass(frozen=True, slots=True)
class Warnings:
    """What the builder's log says of weights that its low type does not hold.

    Attributes:
      subnormal: tensors with values in [2^-24, 2^-14).
      underflow: tensors with values in (0, 2^-24).
      overflow: tensors with finite values past 65504.
      layernorm: decomposed LayerNorms computed in FP16.
    """

    subnormal: bool = False
    underflow: bool = False
    overflow: bool = False
    layernorm: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A build environment, and what is known of it. Code asks for a fact, or `at_least`; never for the name.

    Attributes:
      name: as on the command line.
      runtime: whose builder it is.
      release: the version of TensorRT whose parser and builder it has; () for another runtime.
      typing: 'strong' (precision is the types in the graph) or 'weak' (an FP32 graph plus layer constraints).
      words: how its command line is spoken to.
      default: whether a plan is for it when nothing is said.
      platform: 'any', or what it runs on, for defects of one platform.
      bf16_opset: the smallest opset from which its parser takes BF16 in every op ONNX defines it for; None: no BF16.
      bf16_kernels: whether it has kernels for what ONNX allows in BF16, so that a rule may put single nodes into it.
      sums: what products of half values are summed in, unless the graph says otherwise.
      tf32: how products in FP32 take their operands where the build lets them use TF32.
      chains: what a chain of pointwise operators is held in inside one kernel.
      weights: what becomes of constants that its low type does not hold: 'saturate' or 'inf' (ONNX's Cast).
      islands: which FP32 islands its builder takes away.
      sandwich: what is made of a product between Casts.
      attention: what becomes of attention.
      norm_beside_fp32: whether 16-bit kernels are still compiled around an FP32 region that a LayerNormalization reads,
        or is in.
      warnings: what its log says of weights.
      margin: how much smaller than the tolerance the quantile of a plan's draws is to be for the device to keep it; 1
        where the quantile covers what was measured.
      avoid: repairs that are right in the graph and that its builder was seen not to take.
      lowering: what its parser makes of operators, where that is not what the operator says.
      refused: what its parser or its kernels do not take though ONNX allows it.
      defects: what its builder is known to do wrong.
      sources: field -> where the fact is from.
    """

    name: str
    runtime: Runtime
    release: tuple[int, ...]
    typing: Literal["strong", "weak"]
    words: Words
    default: bool = False
    platform: str = "any"
    bf16_opset: int | None = None
    bf16_kernels: bool = True
    sums: Literal["fp16", "fp32"] = "fp16"
    tf32: Literal["nearest", "truncated"] = "nearest"
    chains: Literal["fp16", "fp32"] = "fp16"
    weights: Literal["saturate", "inf"] = "inf"
    islands: Islands = Islands()
    sandwich: Sandwich = Sandwich(fp32_sums=False)
    attention: Attention = Attention()
    norm_beside_fp32: bool = True
    warnings: Warnings = Warnings()
    margin: float = 1.0
    avoid: tuple[str, ...] = ()
    lowering: tuple[Lowering, ...] = ()
    refused: tuple[Refusal, ...] = ()
    defects: tuple[Defect, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def strong(self) -> bool:
        """Whether the precision is said by the types in the graph."""
        return self.typing == "strong"

    @property
    def has_builder(self) -> bool:
        """Whether an engine is built for it."""
        return bool(self.words.program)

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT-RTX, whose module, switches and settings are its own."""
        return self.runtime == "tensorrt_rtx"

    @property
    def has_bf16(self) -> bool:
        """Whether BF16 can be planned for it."""
        return self.bf16_opset is not None

    @property
    def described(self) -> str:
        """The target in a few words, as help lists it."""
        version = ".".join(map(str, self.release))
        kind = f"{self.typing}ly typed" if self.has_builder else "typed graphs"
        return f"{self.words.title}{' ' + version if version and not self.is_rtx else ''}, {kind}"

    def at_least(self, *release: int) -> bool:
        """Whether its parser and builder are of that TensorRT release or a later one; never for other runtimes."""
        return bool(self.release) and self.release >= release


IDENTITY = ("name", "runtime", "release", "typing", "words", "default", "platform", "sources")
"""Fields that say what a target is; every other one is a fact and has a source."""
