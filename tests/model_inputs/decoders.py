"""Decoders with a cache, as exporters write them: inputs as optimum, onnxruntime and torch name them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEADS, SIZE, WORDS, PLACES = 2, 8, 50, 128
WIDTH = HEADS * SIZE
_N, _VALUE = helper.make_node, helper.make_tensor_value_info


def decoder(
    past: Any = "past_sequence_length",
    new: Any = "sequence_length",
    total: Any = "past_sequence_length + sequence_length",
    batch: Any = "batch_size",
    *,
    encoder: Any = None,
) -> onnx.ModelProto:
    """One layer of masked attention over past and new keys; with `encoder`, the name of an axis, over its keys too.

    The arguments are what axes are called: a name, a size, or None.
    """
    rng = np.random.default_rng(0)
    sizes = {"words": WORDS, "places": PLACES, "wq": WIDTH, "wk": WIDTH, "wv": WIDTH}
    weights: dict[str, Any] = {n: (rng.standard_normal((s, WIDTH)) * 0.3).astype(np.float32) for n, s in sizes.items()}
    weights |= {"split": np.array([0, 0, HEADS, SIZE]), "join": np.array([0, 0, WIDTH]), "ax": np.array([1, 2])}
    weights |= {"one": np.float32(1), "low": np.float32(-1e4), "head": weights["words"].T.copy()}
    cache = "past_key_values.0.decoder" if encoder else "past_key_values.0"
    inputs = [
        _VALUE("input_ids", TensorProto.INT64, [batch, new]),
        _VALUE("attention_mask", TensorProto.INT64, [batch, total]),
        _VALUE("position_ids", TensorProto.INT64, [batch, new]),
        *(_VALUE(f"{cache}.{k}", TensorProto.FLOAT, [batch, HEADS, past, SIZE]) for k in ("key", "value")),
    ]
    nodes = [_N("Gather", ["words", "input_ids"], ["e"]), _N("Gather", ["places", "position_ids"], ["p"])]
    nodes.append(_N("Add", ["e", "p"], ["x"]))
    for which in "qkv":
        nodes += [
            _N("MatMul", ["x", f"w{which}"], [f"{which}0"]), _N("Reshape", [f"{which}0", "split"], [f"{which}1"]),
            _N("Transpose", [f"{which}1"], [which], perm=[0, 2, 1, 3]),
        ]  # fmt: skip
    nodes += [
        _N("Concat", [f"{cache}.key", "k"], ["present.0.key"], axis=2),
        _N("Concat", [f"{cache}.value", "v"], ["present.0.value"], axis=2),
        *_attend("attention_mask", "present.0.key", "present.0.value", "own"), _N("Add", ["own", "x"], ["y"]),
    ]  # fmt: skip
    last = "y"
    if encoder:
        inputs += [
            _VALUE("encoder_attention_mask", TensorProto.INT64, [batch, encoder]),
            *(_VALUE(f"past_key_values.0.encoder.{k}", TensorProto.FLOAT, [batch, HEADS, encoder, SIZE])
              for k in ("key", "value")),
        ]  # fmt: skip
        keys, values = "past_key_values.0.encoder.key", "past_key_values.0.encoder.value"
        nodes += [*_attend("encoder_attention_mask", keys, values, "cross"), _N("Add", ["cross", "y"], ["z"])]
        last = "z"
    nodes.append(_N("MatMul", [last, "head"], ["logits"]))
    cached = [batch, HEADS, total, SIZE]
    outputs = [_VALUE("logits", TensorProto.FLOAT, [batch, new, WORDS])]
    outputs += [_VALUE(name, TensorProto.FLOAT, cached) for name in ("present.0.key", "present.0.value")]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _attend(mask: str, keys: str, values: str, out: str) -> list[onnx.NodeProto]:
    o = out
    return [
        _N("Transpose", [keys], [f"{o}kt"], perm=[0, 1, 3, 2]), _N("MatMul", ["q", f"{o}kt"], [f"{o}s"]),
        _N("Cast", [mask], [f"{o}mf"], to=TensorProto.FLOAT), _N("Sub", ["one", f"{o}mf"], [f"{o}inv"]),
        _N("Mul", [f"{o}inv", "low"], [f"{o}m"]), _N("Unsqueeze", [f"{o}m", "ax"], [f"{o}m4"]),
        _N("Add", [f"{o}s", f"{o}m4"], [f"{o}sm"]), _N("Softmax", [f"{o}sm"], [f"{o}p"], axis=-1),
        _N("MatMul", [f"{o}p", values], [f"{o}c"]), _N("Transpose", [f"{o}c"], [f"{o}ct"], perm=[0, 2, 1, 3]),
        _N("Reshape", [f"{o}ct", "join"], [out]),
    ]  # fmt: skip


def merged() -> onnx.ModelProto:
    """optimum's merged decoder in small: an If whose branches name their values as the If names its own."""
    with_past = decoder(encoder="encoder_sequence_length")
    graph = with_past.graph
    bodies = []
    for at, name in enumerate(("then_branch", "else_branch")):
        body = onnx.GraphProto(name=name)
        body.CopyFrom(graph)
        body.name = name
        del body.input[:], body.initializer[:]
        for node in body.node:
            if at and node.op_type == "Concat":  # without a past
                node.op_type = "Identity"
                node.input[:] = node.input[1:]
                del node.attribute[:]
        bodies.append(helper.make_attribute(name, body))
    node = _N("If", ["use_cache_branch"], [out.name for out in graph.output], name="merged")
    node.attribute.extend(bodies)
    inputs = [*graph.input, _VALUE("use_cache_branch", TensorProto.BOOL, [1])]
    outer = helper.make_graph([node], "merged", inputs, list(graph.output), list(graph.initializer))
    return helper.make_model(outer, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
