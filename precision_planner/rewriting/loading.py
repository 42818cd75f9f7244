"""Whether a model loads as it is: the checker, strict inference, the runtime. What is refused is never simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from precision_planner._extras import require
from precision_planner.errors import MissingExtraError
from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.typing.elements import opset_of
from precision_planner.writing import scratch_folder

__all__ = ["check_file", "find_mixed", "load_file", "refusal"]


def refusal(model: Model) -> str:
    """What checker or onnxruntime say against a model; "" where they take it, or where there is no kernel to ask."""
    mixed = find_mixed(model)
    if mixed:
        return mixed
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        model.save(path)
        broken = check_file(path)
        if broken:
            return broken
        try:
            ort = require("onnxruntime", extra="cpu", purpose="loading the candidate as it is")
        except MissingExtraError:
            return ""
        text = load_file(ort, path, "ORT_DISABLE_ALL")
    # kernels and operators that this onnxruntime lacks say nothing against the graph
    lacks = ("NOT_IMPLEMENTED", "is not a registered function/op", "No opset import for domain")
    return "" if not text or any(word in text for word in lacks) else f"onnxruntime: {text}"


def find_mixed(model: Model) -> str:
    """The first node whose inputs of one type parameter have two element types, in a sentence; "" for none.

    ONNX converts nothing by itself: FP16 plus FP32 is no graph.
    """
    index = GraphIndex(model.proto)
    types = infer_types(model, index)
    for scope, position, node in index.nodes():
        domain = node.domain if node.domain != "ai.onnx" else ""
        try:
            schema = onnx.defs.get_schema(node.op_type, opset_of(model.proto, scope, domain), domain)
        except onnx.defs.SchemaError:
            continue
        seen: dict[str, tuple[int, str]] = {}
        for slot, name in enumerate(node.input):
            formal = schema.inputs[min(slot, len(schema.inputs) - 1)] if schema.inputs else None
            holder = index.resolve(scope, name) if name else None
            if formal is None or holder is None or not formal.is_homogeneous:
                continue
            kind = types.get((holder.path, name))
            if kind is None or not kind.elem_type or kind.container != "tensor" or "(" in formal.type_str:
                continue
            before = seen.setdefault(formal.type_str, (kind.elem_type, name))
            if before[0] != kind.elem_type:
                first, second = (onnx.TensorProto.DataType.Name(t).lower() for t in (before[0], kind.elem_type))
                shown = index.display(index.node_id(scope, position))
                return (
                    f"node {shown} ({node.op_type}) reads {first} '{before[1]}' "
                    f"and {second} '{name}'; ONNX converts neither: put a Cast between"
                )
    return ""


def check_file(path: Path) -> str:
    """What the ONNX checker, with strict shape inference, says against a file; "" for nothing."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return "the ONNX checker: " + " ".join(str(error).split())
    return ""


_CRASHES = ("NchwcTransformer",)
"""Optimizers left out: onnxruntime 1.32's blocks channels of FP32, and takes the process down (SIGSEGV) where an FP16
MatMul by a constant reads a Transpose by [1, 0, 2], as torch's attention does."""

_LOOK_ALIKES = ("LayerNormFusionL1", "LayerNormFusionL2")
"""Left out where they fail: they take (mean - x) and other exponents for a LayerNormalization, of two types then."""


def load_file(ort: Any, path: Path, level: str) -> str:
    """What onnxruntime says against a file at an optimization level; "" for nothing.

    Where it fails over a node that its own fusion made, it is asked again without that fusion: `find_defects` names it.
    """
    said = _load(ort, path, level, _CRASHES)
    return _load(ort, path, level, (*_CRASHES, *_LOOK_ALIKES)) if "LayerNormFusion" in said else said


def _load(ort: Any, path: Path, level: str, disabled: tuple[str, ...]) -> str:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled))
    except Exception as error:  # onnxruntime's errors share no base class but this one
        return " ".join(str(error).split())
    return ""
