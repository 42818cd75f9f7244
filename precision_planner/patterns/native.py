"""Normalizations that are one node already."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx
from onnx import TensorProto

from precision_planner.patterns.match import Match
from precision_planner.patterns.view import View, attribute_float, attribute_int

_MICROSOFT = "com.microsoft"
_ROLES: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("", "LayerNormalization"): ("layer_normalization", ("x", "scale", "bias")),
    ("", "RMSNormalization"): ("rms_normalization", ("x", "scale")),
    ("", "SimplifiedLayerNormalization"): ("rms_normalization", ("x", "scale")),
    ("", "GroupNormalization"): ("group_normalization", ("x", "scale", "bias")),
    ("", "InstanceNormalization"): ("instance_normalization", ("x", "scale", "bias")),
    ("", "BatchNormalization"): ("batch_normalization", ("x", "scale", "bias", "mean", "variance")),
    ("", "MeanVarianceNormalization"): ("mean_variance_normalization", ("x",)),
    (_MICROSOFT, "LayerNormalization"): ("layer_normalization", ("x", "scale", "bias")),
    (_MICROSOFT, "SimplifiedLayerNormalization"): ("rms_normalization", ("x", "scale")),
    (_MICROSOFT, "SkipLayerNormalization"): ("layer_normalization", ("x", "skip", "scale", "bias", "input_bias")),
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): ("rms_normalization", ("x", "skip", "scale", "input_bias")),
    (_MICROSOFT, "EmbedLayerNormalization"): (
        "layer_normalization",
        ("x", "segment_ids", "word_embedding", "position_embedding", "segment_embedding", "scale", "bias"),
    ),
    (_MICROSOFT, "GroupNorm"): ("group_normalization", ("x", "scale", "bias")),
    (_MICROSOFT, "SkipGroupNorm"): ("group_normalization", ("x", "scale", "bias", "skip")),
    ("com.nvidia", "LayerNormalization"): ("layer_normalization", ("x", "scale", "bias")),
}
_EPSILON = {"EmbedLayerNormalization": 1e-12, "SkipLayerNormalization": 1e-12}
_MVN_EPSILON = 1e-9


def find_native(view: View, used: Collection[int] = ()) -> list[Match]:
    """Every native normalization node of a scope, of the standard domain and of onnxruntime's.

    Args:
      view: the scope.
      used: positions of nodes that belong to another match.
    """
    matches = []
    for position, node in enumerate(view.scope.nodes):
        found = _ROLES.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        if found is None or position in used or not node.output or not node.output[0]:
            continue
        kind, roles = found
        inputs = {role: (node.input[at] if at < len(node.input) else "") for at, role in enumerate(roles)}
        inputs.setdefault("scale", "")
        inputs.setdefault("bias", "")
        matches.append(
            Match(
                kind,
                "native",
                view.scope.path,
                view.ids({position}),
                inputs,
                node.output[0],
                outputs=tuple(name for name in node.output if name),
                attributes=_attributes(view, node, kind, inputs["x"]),
            )
        )
    return matches


_MOST_AXES = -64
"""No tensor has as many: an axis before that is none, and is not counted from."""


def _attributes(view: View, node: onnx.NodeProto, kind: str, x: str) -> dict[str, Any]:
    rank = view.rank(x) if x else None
    out: dict[str, Any] = {"epsilon": attribute_float(node, "epsilon", _EPSILON.get(node.op_type, 1e-5))}
    match kind:
        case "layer_normalization" | "rms_normalization":
            axis = attribute_int(node, "axis", -1)
            if axis >= 0 and rank is not None:
                axis -= rank
            out["axes"] = tuple(range(axis, 0)) if _MOST_AXES < axis < 0 else (axis,)
            out["stash_type"] = attribute_int(node, "stash_type", TensorProto.FLOAT)
        case "group_normalization":
            out["groups"] = attribute_int(node, "num_groups", attribute_int(node, "groups", 0))
        case "instance_normalization":
            out["axes"] = tuple(range(2 - rank, 0)) if rank is not None else ()
        case "batch_normalization":
            out["training"] = attribute_int(node, "training_mode", 0) == 1
        case "mean_variance_normalization":
            axes = next((tuple(a.ints) for a in node.attribute if a.name == "axes"), (0, 2, 3))
            out["axes"] = axes
            out["epsilon"] = _MVN_EPSILON
            out["eps_after_root"] = True
    return out
