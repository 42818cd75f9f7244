"""An analysis or a plan as node data of Model Explorer: a JSON file that colors the nodes of the model it shows.

The file has an entry a graph, by the graph's name, with a value a node, by the node's name (the output's for a node
without one). Of an analysis the value is the largest magnitude over the largest finite number of the format, of a plan
the bits that the node computes in.
Source: google-ai-edge/model-explorer, src/server/package/src/model_explorer/node_data_builder.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["node_data", "node_data_text"]

COLORS = {"tiny": "#cc79a7", "fine": "#bbd7f4", "near": "#e6a54a", "over": "#d55e00"}
"""Told apart by the color-blind, too (after Okabe and Ito); text is black on all of them."""

BITS = {"fp16": 16, "fp16+": 17, "bf16": 18, "fp32": 32}
"""What a plan's node is drawn by; 17 is FP16 with FP32 sums, 18 BF16."""

NEAR = 0.25
_NO_LIMIT = 1e300


def node_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """The node data of an analysis or a plan.

    Args:
      data: as saved in JSON.

    Raises:
      ValueError: a report of another kind, or one without values.
    """
    graph = str(data.get("model", {}).get("graph") or "main_graph")
    if data.get("values") and data.get("format"):
        return {graph: _ranges(data)}
    if "target" in data and data.get("nodes"):
        return {graph: _precisions(data)}
    raise ValueError("neither an analysis with values nor a plan")


def node_data_text(data: Mapping[str, Any]) -> str:
    """The same as text."""
    return json.dumps(node_data(data), indent=1, allow_nan=False) + "\n"


def _ranges(data: Mapping[str, Any]) -> dict[str, Any]:
    ceiling, normal = data["format"]["max_finite"], data["format"]["smallest_normal"]
    results: dict[str, dict[str, float]] = {}
    for value in data["values"]:
        seen = [found for found in (value["amax"], value.get("inside_amax")) if found is not None]
        if seen and not value["scope"]:
            results.setdefault(_key(value["node"], value["value"]), {"value": max(seen) / ceiling})
    limits = (
        (0.0, "fine"),
        (normal / ceiling * (1 - 2**-20), "tiny"),
        (NEAR, "fine"),
        (1.0, "near"),
        (_NO_LIMIT, "over"),
    )
    return {"results": results, "thresholds": [_threshold(limit, COLORS[kind]) for limit, kind in limits]}


def _precisions(data: Mapping[str, Any]) -> dict[str, Any]:
    results = {
        _key(node["node"], node["output"]): {"value": BITS[node["precision"]]}
        for node in data["nodes"]
        if node["precision"] in BITS and not node["scope"]
    }
    limits = ((16, "fine"), (17, "tiny"), (18, "tiny"), (32, "near"))
    return {"results": results, "thresholds": [_threshold(limit, COLORS[kind]) for limit, kind in limits]}


def _threshold(limit: float, color: str) -> dict[str, Any]:
    return {"value": limit, "bgColor": color, "textColor": "#000000"}


def _key(node: str, value: str) -> str:
    if not node:
        return f"[value] {value}"  # as Model Explorer's ONNX adapter calls an input
    return value if node.endswith(f"({value})") else node
