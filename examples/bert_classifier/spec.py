"""What a sample BERT classifier is: sizes, weights, hard variant, exporter's style."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Weights = Literal["random", "fresh", "minilm"]
Variant = Literal["plain", "massive", "ffn"]
Style = Literal["torchscript", "dynamo"]

CLASSES = 11
EPSILON = 1e-12
"""Of every LayerNorm, as in BERT; float32 holds 9.999999960041972e-13, FP16 holds 0."""


@dataclass(frozen=True)
class BertSpec:
    """One sample model, completely: equal specs give equal models.

    Args:
      layers: encoder layers, at least 1.
      hidden: width of the residual stream, a multiple of ``heads``, at least 8.
      heads: attention heads.
      intermediate: width of the feed-forward layer, at least 8.
      vocabulary: rows of the word embedding, at least 8; 30522 takes the fixture's ids as they are.
      positions: rows of the position embedding, the longest sequence.
      weights: ``random`` (an ordinary scale, every bias and LayerNorm distinct), ``fresh`` (as torch
        initializes: biases 0, gamma 1, beta 0, so that the exporter shares equal initializers), or
        ``minilm`` (trained; the sizes must be MiniLM's).
      variant: ``plain``; ``massive`` (a few residual channels at 900 to 2,500 in front of every encoder
        LayerNorm, whose squares pass 65504); ``ffn`` (the same, and every second layer's FFN output
        passes 65504 before the residual Add).
      style: how the graph is written, ``torchscript`` or ``dynamo``.
      opset: 13 to 17 for torchscript (native LayerNormalization at 17), 18 to 20 for dynamo.
      seed: of the random weights.
      sequence: the length of the sample inputs unless said otherwise.

    Raises:
      ValueError: sizes that do not fit together, or an opset that the style cannot write.
    """

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    intermediate: int = 128
    vocabulary: int = 2048
    positions: int = 128
    weights: Weights = "random"
    variant: Variant = "plain"
    style: Style = "torchscript"
    opset: int = 13
    seed: int = 0
    sequence: int = 64

    def __post_init__(self) -> None:
        low, high = (13, 17) if self.style == "torchscript" else (18, 20)
        if not low <= self.opset <= high:
            raise ValueError(f"opset {self.opset}: the {self.style} style writes {low} to {high}")
        if min(self.layers, self.heads) < 1 or min(self.hidden, self.intermediate, self.vocabulary) < 8:
            raise ValueError("layers and heads must be at least 1; hidden, intermediate, vocabulary at least 8")
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        if not 2 <= self.sequence <= self.positions:
            raise ValueError(f"sequence {self.sequence} must be between 2 and positions {self.positions}")
        if self.weights == "minilm" and self.sizes != MINILM_SIZES:
            raise ValueError(f"MiniLM's sizes are {MINILM_SIZES}, the spec says {self.sizes}")

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int]:
        """Layers, hidden, heads, intermediate, vocabulary, positions."""
        return (self.layers, self.hidden, self.heads, self.intermediate, self.vocabulary, self.positions)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


MINILM_SIZES = (6, 384, 12, 1536, 30522, 512)

_TINY = BertSpec()
_MINILM = BertSpec(*MINILM_SIZES, weights="minilm", sequence=128)
_THREE = BertSpec(3, 768, 12, 3072, 30522, 512, sequence=300)

PRESETS: dict[str, BertSpec] = {
    "tiny": _TINY,
    "tiny-massive": replace(_TINY, variant="massive"),
    "tiny-ffn": replace(_TINY, variant="ffn"),
    "minilm": _MINILM,
    "minilm-massive": replace(_MINILM, variant="massive"),
    "minilm-ffn": replace(_MINILM, variant="ffn"),
    "massive": replace(_THREE, variant="massive"),
    "ffn": replace(_THREE, variant="ffn"),
    "base": BertSpec(12, 768, 12, 3072, 30522, 512, sequence=128),
}
"""By name: ``massive`` and ``ffn`` are 3 layers of hidden 768 at 300 tokens, ``base`` is BERT base."""
