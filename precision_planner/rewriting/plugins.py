"""Types of plugin nodes, as a user says them, and LayerNormalization written as a plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from precision_planner.errors import ConversionError
from precision_planner.model import Model
from precision_planner.typing import PluginTypes

_WORDS = ("low", "fp16", "bf16", "fp32", "-")
PLUGIN_DOMAIN = "trt.plugins"


def parse_plugins(texts: Iterable[str]) -> dict[str, PluginTypes]:
    """Read ``OP=IN,IN->OUT,OUT`` declarations; ``OP=low`` means low everywhere.

    A path to a plugin library (``.so``, ``.dll``) says nothing about types and is passed over.

    Raises:
      ConversionError: a declaration cannot be read.
    """
    found: dict[str, PluginTypes] = {}
    for text in texts:
        if text.endswith((".so", ".dll")):
            continue
        name, equals, types = text.partition("=")
        inputs, arrow, outputs = types.partition("->")
        words = [tuple(word.strip() for word in part.split(",")) for part in (inputs, outputs if arrow else inputs)]
        if not equals or not name or any(word not in _WORDS for part in words for word in part):
            raise ConversionError(
                f"plugin types {text!r} cannot be read; write OP=IN,IN->OUT with low, fp16, bf16, fp32 or - a slot"
            )
        found[name.strip()] = PluginTypes(words[0], words[1])
    return found


def layernorm_as_plugin(model: Model, name: str) -> tuple[Model, Mapping[str, int]]:
    """Write every LayerNormalization of the model as the plugin `name`, attributes and inputs as they are.

    For builders older than TensorRT 8.6, which have no such layer.

    Returns:
      (the model, {"replaced": count}).
    """
    proto = model.edit()
    count = 0
    graphs: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            if node.op_type == "LayerNormalization" and node.domain in ("", "ai.onnx"):
                node.op_type, node.domain = name, PLUGIN_DOMAIN
                count += 1
    if not count:
        return model, {"replaced": 0}
    if not any(entry.domain == PLUGIN_DOMAIN for entry in proto.opset_import):
        proto.opset_import.add(domain=PLUGIN_DOMAIN, version=1)
    return model.with_proto(proto), {"replaced": count}
