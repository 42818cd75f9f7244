"""One exported model, planned for every target in both precisions: what the plan says, and what it is by itself."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

import precision_planner as pp
from evidence.exporters.evaluator import CannotEvaluateError, answers, evaluate, verdict
from evidence.exporters.export import Inputs, NotExportedError, export
from precision_planner.errors import PlannerError
from precision_planner.targets import get_target

Row = dict[str, Any]
ASKED = (
    ("fp16", "tensorrt-8.6"), ("fp16", "tensorrt-10-strong"), ("fp16", "tensorrt-11"), ("fp16", "onnxruntime"),
    ("bf16", "tensorrt-8.6"), ("bf16", "tensorrt-11"), ("bf16", "onnxruntime"),
)  # fmt: skip
"""A weakly typed target, one that sums in FP16, the default, and one that runs typed graphs as they are."""

_KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def rows_of(name: str, exporter: str, folder: Path) -> Iterator[Row]:
    """A row for each precision and target, or one that says why there is no model."""
    warnings.simplefilter("ignore")
    path = folder / f"{name}.{exporter}.onnx"
    base: Row = {"model": name, "exporter": exporter}
    try:
        inputs = export(name, exporter, path)
    except NotExportedError as failure:
        yield {**base, "not_exported": str(failure)}
        return
    model = onnx.load(str(path))
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    base |= {"opset": opset, "nodes": len(model.graph.node)}
    expected = answers(model, inputs)
    np.savez(folder / f"{name}.{exporter}.inputs.npz", **inputs)
    np.savez(folder / f"{name}.{exporter}.expected.npz", **expected)
    for precision, target in ASKED:
        yield {**base, "precision": precision, "target": target, **row(path, inputs, expected, precision, target)}


def row(path: Path, inputs: Inputs, expected: Mapping[str, Any], precision: str, target: str) -> Row:
    """What one plan decides and predicts, and what the evaluation of every node by itself says of it."""
    started = time.perf_counter()
    try:
        planned = pp.plan(str(path), target=target, precision=precision, inputs=inputs, policy="rules")
    except PlannerError as refused:
        return {"refused": str(refused)}
    plan = planned.plan
    predicted = [float(metrics["rel_l2"]) for metrics in plan.predicted.values() if "rel_l2" in metrics]
    said: Row = {
        "seconds": round(time.perf_counter() - started, 2),
        "rules": sorted({finding["rule"] for finding in plan.findings}),
        "low": plan.counts.get(precision, 0),
        "kept": len(plan.kept),
        "predicted": max(predicted, default=None),
        "grade": (plan.verdict or {}).get("grade"),
        "nodes_refused": sorted({entry["op_type"] for entry in plan.refused}),
    }
    built = planned.model.to_proto()
    if not get_target(target).has_builder:  # for on_cuda.py
        onnx.save(built, str(path).removesuffix(".onnx") + f".{precision}.planned.onnx")
    try:
        found = evaluate(built, inputs, {} if get_target(target).strong else held(built, plan))
    except CannotEvaluateError as limit:
        return {**said, "not_evaluated": str(limit)}
    return {**said, "evaluated": _error(expected, found), "verdict": verdict(expected, found)}


def held(model: onnx.ModelProto, plan: Any) -> dict[str, int]:
    """Of a weakly typed plan: the values and constants that are stored in the low type, by name."""
    low = {node.output: _KINDS[node.precision] for node in plan.nodes if node.precision in _KINDS and not node.scope}
    readers: dict[str, set[int]] = {}
    stored: dict[str, int] = {}
    for node in model.graph.node:
        kind = low.get(next((name for name in node.output if name), ""), 0)
        stored |= {name: kind for name in node.output if kind and name}
        for name in node.input:
            readers.setdefault(name, set()).add(kind)
    for tensor in model.graph.initializer:
        kinds = readers.get(tensor.name, set())
        if tensor.data_type == TensorProto.FLOAT and len(kinds) == 1 and 0 not in kinds:
            stored[tensor.name] = kinds.pop()
    return stored


def _error(expected: Mapping[str, Any], found: Mapping[str, Any]) -> float | None:
    """The largest relative L2 error of an output of floats."""
    worst = None
    for name, array in expected.items():
        right, got = np.asarray(array), np.asarray(found[name])
        if right.dtype.kind != "f" or not right.size:
            continue
        a, b = right.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(a)
        if not np.isfinite(b[finite]).all():
            return float("inf")
        error = float(np.linalg.norm((a - b)[finite]) / (np.linalg.norm(a[finite]) or 1.0))
        worst = max(worst or 0.0, error)
    return worst
