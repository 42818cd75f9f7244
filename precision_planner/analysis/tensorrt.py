"""What TensorRT 8.5 to 10.x warns about when it converts weights to FP16, said without TensorRT.

The raw rule is TensorRT's own, as measured on TensorRT 8.6 (docs/census.md): a float32 or float64 tensor that the
network reads is listed once for each category of which it holds any value. Weights into which TensorRT folds an
attention scale first are listed apart. TensorRT-RTX and TensorRT 11 warn about none of this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from precision_planner.analysis.scales import FoldedScale
from precision_planner.analysis.weights import WeightCensus, Weights
from precision_planner.model import GraphIndex
from precision_planner.numerics import FP16
from precision_planner.patterns import Match

__all__ = ["CATEGORIES", "HEADER", "Category", "FoldedWeight", "TensorRTWarnings", "tensorrt_warnings"]

HEADER = "TensorRT encountered issues when converting weights between types and that could affect accuracy."


@dataclass(frozen=True, slots=True)
class Category:
    """One of TensorRT's three weight warnings.

    Attributes:
      name: subnormal, underflow or overflow.
      wording: TensorRT's sentence, for those who search for it.
      rule: what it counts.
      explanation: what it means.
      cure: what to do.
    """

    name: str
    wording: str
    rule: str
    explanation: str
    cure: str


CATEGORIES = (
    Category(
        "subnormal",
        "Detected subnormal FP16 values.",
        "any value with 2^-24 <= |w| < 2^-14",
        "These values keep fewer than 11 significant bits. TensorRT does not flush them, and in weights of ordinary "
        "size they are noise: 0.16 % of N(0, 0.03) are subnormal and cost less than rounding the others does.",
        "Look at the relative error beside the tensor. Only where it is far above 5e-4 (all weights tiny, a gamma of "
        "1e-7) keep the consumer in FP32 or rescale the weights by a power of two.",
    ),
    Category(
        "underflow",
        "Detected values less than smallest positive FP16 subnormal value and converted them to the FP16 minimum "
        "subnormalized value.",
        "any value with 0 < |w| < 2^-24",
        "Weak typing raises these values to 5.96e-8; an ONNX Cast makes those up to 2.98e-8 zero. In a weight matrix "
        "that is noise. In an epsilon it is the end of the guard against division by zero.",
        "Keep a normalization's epsilon inside a LayerNormalization node, raise it to 1e-5 or keep its Add and Sqrt in "
        "FP32; leave scattered tiny weights alone.",
    ),
    Category(
        "overflow",
        "Detected finite FP32 values which would overflow in FP16 and converted them to the closest finite FP16 value.",
        "any finite value with |w| > 65504",
        "Weak typing clips these values to 65504; an ONNX Cast makes those from 65520 on infinite. A mask of -3.4e38 "
        "survives clipping but becomes -inf in a typed model, where 0 * -inf and a fully masked row are NaN.",
        "Write masks as a finite FP16 value with headroom (-1e4), keep a weight or bias of that size in FP32, or "
        "use BF16, which has float32's range.",
    ),
)
"""TensorRT's categories, in the order of its log."""

LAYERNORM_WORDING = (
    "Detected layernorm nodes in FP16: {names}",
    "Running layernorm after self-attention in FP16 may cause overflow. Forcing layernorm layers to run in FP32 "
    "precision can help with preserving accuracy.",
)
LAYERNORM_EXPLANATION = (
    "A LayerNorm written out in elementary nodes squares x - mean in FP16: from |x - mean| = 256 on the square is "
    "infinite, and an epsilon below 2.98e-8 is zero."
)
LAYERNORM_CURE = (
    "Fuse it into an opset-17 LayerNormalization (planner rewrite does), whose statistics TensorRT computes in FP32, "
    "or keep the nodes from Pow to Sqrt in FP32."
)


@dataclass(frozen=True, slots=True)
class FoldedWeight:
    """A weight that underflows only after TensorRT has folded an attention scale into it.

    Attributes:
      name: the tensor.
      scale: the factor.
      node: display name of the node that applies the factor in the graph.
      side: where that node stands: "scores", "query" or "key".
      smallest: the smallest magnitude above zero, times the factor.
      count: how many values fall below 2^-24 by the factor, where it is a power of two; None otherwise.
    """

    name: str
    scale: float
    node: str
    side: str
    smallest: float
    count: int | None

    @property
    def message(self) -> str:
        """One line."""
        return f"{self.name} underflows after TensorRT folds the scale {self.scale:.6g} into it"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "tensor": self.name,
            "scale": self.scale,
            "node": self.node,
            "side": self.side,
            "smallest": self.smallest,
            "count": self.count,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class TensorRTWarnings:
    """TensorRT's warnings for one model.

    Attributes:
      tensors: category -> names of the tensors, in the order of the graphs, by the raw rule.
      folded: weights that join the underflow list once a scale is folded into them.
      layernorm_in_fp16: for each decomposed LayerNorm what to call it: the node that makes its output.
    """

    tensors: Mapping[str, tuple[str, ...]]
    folded: tuple[FoldedWeight, ...] = ()
    layernorm_in_fp16: tuple[str, ...] = ()

    @property
    def subnormal(self) -> tuple[str, ...]:
        """Tensors with any 2^-24 <= |w| < 2^-14."""
        return self.tensors["subnormal"]

    @property
    def underflow(self) -> tuple[str, ...]:
        """Tensors with any 0 < |w| < 2^-24, before any folding."""
        return self.tensors["underflow"]

    @property
    def overflow(self) -> tuple[str, ...]:
        """Tensors with any finite |w| > 65504."""
        return self.tensors["overflow"]

    def _repr_html_(self) -> str:
        from precision_planner.analysis.html import warnings_html

        return warnings_html(self)

    def lines(self) -> list[str]:
        """The warnings as TensorRT's log has them, without its prefixes."""
        out = []
        if any(self.tensors.values()):
            out.append(HEADER)
        for category in CATEGORIES:
            count = len(self.tensors[category.name])
            if count:
                out.append(f"- {count} weights are affected by this issue: {category.wording}")
        if self.layernorm_in_fp16:
            out.append(LAYERNORM_WORDING[0].format(names=", ".join(self.layernorm_in_fp16)))
            out.append(LAYERNORM_WORDING[1])
        return out

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        out: dict[str, Any] = {}
        for category in CATEGORIES:
            names = self.tensors[category.name]
            out[category.name] = {
                "count": len(names),
                "tensors": list(names),
                "message": f"{len(names)} weights are affected by this issue: {category.wording}",
                "rule": category.rule,
                "explanation": category.explanation,
                "cure": category.cure,
            }
        out["underflow"]["folded"] = [weight.to_dict() for weight in self.folded]
        out["layernorm_in_fp16"] = list(self.layernorm_in_fp16)
        out["lines"] = self.lines()
        return out


def tensorrt_warnings(
    weights: Weights, index: GraphIndex, matches: Sequence[Match] = (), scales: Sequence[FoldedScale] = ()
) -> TensorRTWarnings:
    """What TensorRT would warn about, were the model built with FP16 enabled.

    Args:
      weights: the census.
      index: of the model.
      matches: the patterns found in it: its decomposed LayerNorms.
      scales: the attention scales found in it.
    """
    listed = [tensor for tensor in weights if _is_converted(tensor)]
    names = {
        category.name: tuple(tensor.name for tensor in listed if getattr(tensor.stats.fp16.classes, category.name))
        for category in CATEGORIES
    }
    decomposed = [
        match
        for match in matches
        if match.kind == "layer_normalization" and match.form == "decomposed" and match.proven
    ]
    return TensorRTWarnings(
        tensors=names,
        folded=tuple(_folded({tensor.key: tensor for tensor in listed}, scales)),
        layernorm_in_fp16=tuple(index.display(match.anchor) for match in decomposed),
    )


def _is_converted(tensor: WeightCensus) -> bool:
    """Whether TensorRT converts a tensor: a float32 or float64 weight that something reads."""
    return (
        tensor.stats.dtype in ("float32", "float64")
        and tensor.kind not in ("fill", "attribute")
        and tensor.roles != ("unused",)
    )


def _folded(
    tensors: Mapping[tuple[tuple[str, ...], str], WeightCensus], scales: Sequence[FoldedScale]
) -> list[FoldedWeight]:
    """The weights that have no underflow by themselves and some after a scale, each once, with its smallest scale."""
    found: dict[tuple[tuple[str, ...], str], FoldedWeight] = {}
    for scale in sorted(scales, key=lambda scale: scale.scale):
        for key in scale.tensors:
            tensor = tensors.get(key)
            if tensor is None or key in found or tensor.stats.min_abs is None:
                continue
            smallest = tensor.stats.min_abs * scale.scale
            if smallest < FP16.smallest_subnormal <= tensor.stats.min_abs:
                count = _count_below(tensor, scale.scale)
                found[key] = FoldedWeight(tensor.name, scale.scale, scale.node, scale.side, smallest, count)
    return list(found.values())


def _count_below(tensor: WeightCensus, scale: float) -> int | None:
    """How many values a power of two brings below 2^-24: whole binades, so the exponents tell."""
    fraction, exponent = math.frexp(scale)
    if fraction != 0.5:
        return None
    limit = FP16.min_subnormal_exponent - (exponent - 1)
    return sum(count for at, count in tensor.stats.exponents.items() if at < limit)
