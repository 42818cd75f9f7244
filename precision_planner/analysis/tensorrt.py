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
from precision_planner.analysis.tensorrt_words import (
    CATEGORIES,
    HEADER,
    LAYERNORM_WORDING,
    Category,
)
from precision_planner.analysis.weights import WeightCensus, Weights
from precision_planner.model import GraphIndex
from precision_planner.numerics import FP16
from precision_planner.patterns import Match

__all__ = ["CATEGORIES", "HEADER", "Category", "FoldedWeight", "TensorRTWarnings", "tensorrt_warnings"]


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


@dataclass(frozen=True, slots=True, repr=False)
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

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(names)} {category}" for category, names in self.tensors.items())
        return f"<TensorRTWarnings: weights {counts}; {len(self.layernorm_in_fp16)} layernorm nodes>"

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
