"""What an operator's schema allows and a runtime refuses all the same.

Found by converting the one-node models of ONNX's own backend test suite (1,067 of which go low) and giving each to
onnxruntime 1.32 (CPU provider: loaded at every optimization level, and run) and to TensorRT-RTX 1.7.1's parser and
builder, where the FP32 original passes. onnxruntime casts around most operators for which it has no float16 kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto

from precision_planner.targets.refusals import Refusal

_BOTH = frozenset({int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16)})
_BRAIN = frozenset({int(TensorProto.BFLOAT16)})
_TYPES = {"fp16": int(TensorProto.FLOAT16), "bf16": int(TensorProto.BFLOAT16)}

_REFUSED: Mapping[str, tuple[frozenset[int], str]] = {
    "BlackmanWindow": (_BOTH, "TensorRT's parser makes float alone"),
    "Celu": (_BOTH, "TensorRT's parser adds FP32 operands to it"),
    "ConvTranspose": (_BRAIN, "TensorRT has no bfloat16 kernel for it"),
    "EyeLike": (_BOTH, "onnxruntime has no 16-bit kernel for it"),
    "GRU": (_BRAIN, "TensorRT's parser adds FP32 operands to it"),
    "GlobalLpPool": (_BRAIN, "TensorRT's parser takes float and float16 only"),
    "HammingWindow": (_BOTH, "TensorRT's parser makes float alone"),
    "HannWindow": (_BOTH, "TensorRT's parser makes float alone"),
    "HardSwish": (_BRAIN, "TensorRT's parser takes float and float16 only"),
    "LpNormalization": (_BRAIN, "TensorRT's parser takes float and float16 only"),
    "LpPool": (_BRAIN, "TensorRT's parser takes float and float16 only"),
    "MeanVarianceNormalization": (_BOTH, "TensorRT's parser adds FP32 operands to it"),
    "MelWeightMatrix": (_BOTH, "onnxruntime has no 16-bit kernel for it"),
    "Mish": (_BRAIN, "TensorRT's parser takes float and float16 only"),
    "RandomNormal": (_BOTH, "onnxruntime has no 16-bit kernel for it"),
    "RandomNormalLike": (_BRAIN, "TensorRT's parser takes float and float16 only"),
    "RandomUniform": (_BOTH, "onnxruntime has no 16-bit kernel for it"),
    "RandomUniformLike": (_BRAIN, "TensorRT's parser takes float and float16 only"),
}

_REDUCTIONS: Mapping[str, frozenset[bytes]] = {
    "ScatterElements": frozenset({b"add", b"mul"}),
    "ScatterND": frozenset({b"add", b"max", b"min", b"mul"}),
}
"""Reductions that onnxruntime loads in float16 and stops at when it runs them."""

_RANDOM_LIKE = frozenset({"RandomNormalLike", "RandomUniformLike"})

_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_SEQUENCE_LENS = 4


def lacks(node: onnx.NodeProto, refused: Iterable[Refusal] = (), opset: int = 0) -> Mapping[int, str]:
    """The 16-bit element types that a node cannot have, each with the reason.

    Args:
      node: of the default domain or any other; only the default domain has an answer.
      refused: what the build target lacks besides.
      opset: of the model, once it is converted.
    """
    if node.domain not in ("", "ai.onnx"):
        return {}
    targets = {
        _TYPES[refusal.precision]: f"{node.op_type}: {refusal.reason}"
        for refusal in refused
        if refusal.precision in _TYPES and refusal.is_about(node, opset)
    }
    return {**_lacks_everywhere(node), **targets}


def _lacks_everywhere(node: onnx.NodeProto) -> Mapping[int, str]:
    if node.op_type in _RECURRENT and len(node.input) > _SEQUENCE_LENS and node.input[_SEQUENCE_LENS]:
        return dict.fromkeys(_BOTH, f"{node.op_type} with sequence_lens: TensorRT's parser mixes FP32 into it")
    reduction = next((given.s for given in node.attribute if given.name == "reduction"), b"none")
    if reduction in _REDUCTIONS.get(node.op_type, ()):
        reason = f"{node.op_type}: onnxruntime has no float16 kernel with reduction {reduction.decode()}"
        return {int(TensorProto.FLOAT16): reason}
    if node.op_type in _RANDOM_LIKE and any(given.name == "dtype" for given in node.attribute):
        return dict.fromkeys(_BOTH, f"{node.op_type} with dtype: onnxruntime has no kernel whose two types differ")
    found = _REFUSED.get(node.op_type)
    return {} if found is None else dict.fromkeys(found[0], f"{node.op_type}: {found[1]}")
