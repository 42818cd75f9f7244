"""TensorRT's warnings about weights and normalizations in FP16: its own sentences, what they mean, what to do."""

from __future__ import annotations

from dataclasses import dataclass

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
