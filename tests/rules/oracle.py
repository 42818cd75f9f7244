"""An independent FP16: onnx.reference node by node, in float64, rounded where a value is stored.

Nothing of the project's simulation or calibration is used here, so that the rules' cures are judged by something that
knows only ONNX's own definition of each op, numpy, and ml_dtypes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from precision_planner.model import Model, NodeId

Arrays = Mapping[str, np.ndarray]
FLOATS = (np.float32, np.float64, np.float16)


@dataclass(frozen=True)
class Range:
    amax: float
    amin: float | None
    minimum: float
    maximum: float


def measure(model: Model, batches: Sequence[Arrays]) -> dict[tuple[tuple[str, ...], str], Range]:
    """Ranges of every float value of the main graph, in float64."""
    found: dict[tuple[tuple[str, ...], str], Range] = {}
    for batch in batches:
        for name, array in run(model, batch).items():
            if array.dtype in FLOATS and array.size:
                finite = array[np.isfinite(array)]
                if not finite.size:
                    continue
                magnitude = np.abs(finite)
                some = magnitude[magnitude > 0]
                amin = float(some.min()) if some.size else None
                found[(), name] = Range(float(magnitude.max()), amin, float(finite.min()), float(finite.max()))
    return found


def run(
    model: Model,
    inputs: Arrays,
    *,
    low: str | None = None,
    fp32: Collection[NodeId] = (),
    bf16: Collection[NodeId] = (),
    io_low: bool = True,
) -> dict[str, np.ndarray]:
    """Every value of the main graph.

    Args:
      model: the graph.
      inputs: by name.
      low: None computes in float64 throughout; "fp16" or "bf16" rounds the output of every node that is not kept,
        and every input and constant where a low node reads it.
      fp32: nodes kept in FP32 (their output is rounded to float32).
      bf16: nodes kept in BF16.
      io_low: whether graph inputs are rounded too.
    """
    proto = model.to_proto()
    kept = {node.output for node in fp32}
    brain = {node.output for node in bf16}
    exact: dict[str, np.ndarray] = {t.name: _wide(numpy_helper.to_array(t)) for t in proto.graph.initializer}
    constants = set(exact)
    exact.update({name: _wide(np.asarray(array)) for name, array in inputs.items()})
    free = set(constants) | (set() if io_low else set(inputs))
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    for node in proto.graph.node:
        output = node.output[0]
        kind = None if low is None else "fp32" if output in kept else "bf16" if output in brain else low
        if node.op_type == "Constant":
            kind = None
            free.add(output)
        if node.op_type == "Cast" and _target(node) not in (1, 10, 11, 16):
            kind = None  # to an integer: it reads whatever type is stored
        feeds = {}
        for name in node.input:
            if name:
                value = exact[name]
                # a constant or a stored input takes the type of whoever reads it; a kept reader of a stored low value
                # cannot get back what the store lost
                feeds[name] = (
                    rounded(value, kind) if kind and (name in free or name in inputs or kind != "fp32") else value
                )
        with np.errstate(all="ignore"):
            results = _evaluate(node, feeds, opsets)
        for name, result in zip(node.output, results, strict=False):
            if name:
                exact[name] = _wide(rounded(np.asarray(result), kind))
    return exact


def _evaluate(node: onnx.NodeProto, feeds: Arrays, opsets: Mapping[str, int]) -> list[np.ndarray]:
    """One node in float64 (a Cast between floats changes nothing: types are what is studied)."""
    if node.op_type == "Cast" and _target(node) in (1, 10, 11, 16):
        return [feeds[node.input[0]].astype(np.float64)]
    if node.op_type == "GlobalLpPool":
        p = next((a.i for a in node.attribute if a.name == "p"), 2)
        x = np.abs(feeds[node.input[0]].astype(np.float64)) ** p
        return [x.sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)]
    if node.op_type == "LayerNormalization":
        return [_layer_normalization(node, feeds)]
    if node.op_type == "BatchNormalization":
        x, scale, bias, mean, variance = (feeds[name] for name in node.input)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        eps = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        return [
            (x - mean.reshape(shape)) / np.sqrt(variance + eps).reshape(shape) * scale.reshape(shape)
            + bias.reshape(shape)
        ]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), None) for name, a in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "one", inputs, outputs)
    ids = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    single = helper.make_model(graph, opset_imports=ids)
    return list(ReferenceEvaluator(single).run(None, dict(feeds)))


def _target(node: onnx.NodeProto) -> int:
    return next(attribute.i for attribute in node.attribute if attribute.name == "to")


def _layer_normalization(node: onnx.NodeProto, feeds: Arrays) -> np.ndarray:
    attributes = {a.name: a for a in node.attribute}
    axis = attributes["axis"].i if "axis" in attributes else -1
    eps = attributes["epsilon"].f if "epsilon" in attributes else 1e-5
    x = feeds[node.input[0]]
    axes = tuple(range(axis % x.ndim, x.ndim))
    centered = x - x.mean(axes, keepdims=True)
    y = centered / np.sqrt((centered**2).mean(axes, keepdims=True) + eps) * feeds[node.input[1]]
    return y + feeds[node.input[2]] if len(node.input) > 2 and node.input[2] else y


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype in FLOATS or array.dtype == ml_dtypes.bfloat16 else array


def rounded(array: np.ndarray, kind: str | None) -> np.ndarray:
    """Round to a storage type and back to float64; integers and None pass."""
    if kind is None or array.dtype not in FLOATS:
        return array
    storage = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32}[kind]
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32).astype(storage).astype(np.float64)


def error(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Relative L2 error, inf where the candidate is not finite and the reference is."""
    if not np.isfinite(candidate[np.isfinite(reference)]).all():
        return float("inf")
    both = np.isfinite(reference) & np.isfinite(candidate)
    norm = float(np.linalg.norm(reference[both]))
    return float(np.linalg.norm((candidate - reference)[both])) / (norm or 1.0)


def outputs(model: Model, values: Arrays) -> dict[str, Any]:
    return {value.name: values[value.name] for value in model.proto.graph.output}
