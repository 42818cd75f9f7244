"""What onnxruntime's CPU provider cannot load in float16: found by loading one-node models of every operator.

onnxruntime casts around most operators for which it has no float16 kernel; these it refuses.
"""

from __future__ import annotations

import onnx

_REFUSED: frozenset[str] = frozenset()


def onnxruntime_lacks(node: onnx.NodeProto, opset: int) -> str:
    """Why a node must stay FP32 for onnxruntime to load the model; '' where nothing speaks against float16."""
    if node.domain in ("", "ai.onnx") and node.op_type in _REFUSED:
        return f"onnxruntime has no float16 {node.op_type} at opset {opset}"
    return ""
