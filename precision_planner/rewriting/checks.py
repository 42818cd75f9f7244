"""Checks of a rewritten model by onnxruntime, timed apart from the conversion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import onnx

from precision_planner._extras import require
from precision_planner.errors import MissingExtraError
from precision_planner.model import GraphIndex, Model
from precision_planner.operators import operators
from precision_planner.rewriting.loading import check_file, load_file
from precision_planner.writing import scratch_folder

_LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
_NO_BFLOAT16 = "onnxruntime's CPU provider has no bfloat16 kernels; checked by structure only"
_TYPE_NAMES = frozenset(row.type_attribute for row in operators() if row.type_attribute)


def verify_typed(original: Model, typed: Model) -> dict[str, Any]:
    """Check a typed model with the ONNX checker and strict shape inference, and load it in onnxruntime at every level.

    A model whose original onnxruntime cannot load either (custom operators) is not judged, nor is bfloat16, for which
    its CPU provider has no kernels.

    Returns:
      {"passed": True, False or None, "reason": ..., "seconds": ...}.
    """
    started = time.perf_counter()
    passed, reason = _judge(original, typed)
    return {"passed": passed, "reason": reason, "seconds": round(time.perf_counter() - started, 3)}


def _judge(original: Model, typed: Model) -> tuple[bool | None, str]:
    try:
        ort = require("onnxruntime", extra="cpu", purpose="verifying the typed model")
    except MissingExtraError as error:
        return None, str(error)
    has_bfloat16 = _uses(typed, onnx.TensorProto.BFLOAT16)
    error_text = ""
    with scratch_folder() as folder:
        path = folder / "typed.onnx"
        typed.save(path)
        broken = check_file(path)
        if broken:
            original.save(folder / "original.onnx")
            before = check_file(folder / "original.onnx")
            return (None, f"the input model is refused, too: {before}") if before else (False, broken)
        if has_bfloat16 and not _uses(original, onnx.TensorProto.BFLOAT16):
            return None, _NO_BFLOAT16
        for level in _LEVELS:
            error_text = load_file(ort, path, level)
            if error_text:
                break
        if not error_text:
            return True, ""
        if has_bfloat16 and "NOT_IMPLEMENTED" in error_text:
            return None, _NO_BFLOAT16
        whole = folder / "original.onnx"
        original.save(whole)
        refused = load_file(ort, whole, "ORT_DISABLE_ALL")
    if refused:
        return None, f"onnxruntime cannot load the input model either: {refused}"
    return False, f"onnxruntime ({level}): {error_text}"


def _uses(model: Model, element: int) -> bool:
    """Whether anything in the model, bodies and local functions included, names an element type."""
    index = GraphIndex(model.proto)
    if any(tensor.data_type == element for scope in index.scopes for tensor in scope.initializers.values()):
        return True
    for _, _, node in index.nodes():
        for attribute in node.attribute:
            if attribute.name in _TYPE_NAMES and attribute.i == element:
                return True
            if attribute.HasField("t") and attribute.t.data_type == element:
                return True
    return any(
        info.type.tensor_type.elem_type == element for info in (*model.proto.graph.input, *model.proto.graph.output)
    )


def summarize(fusion: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """The `verification` of the report: both checks, and whether everything that was checked passed.

    Args:
      fusion: of the transforms: {passed, max_abs, reason}, empty where nothing was fused.
      typed: of `verify_typed`, empty where it was not run.
    """
    verdicts = [part["passed"] for part in (fusion, typed) if part.get("passed") is not None]
    passed: bool | None = all(verdicts) if verdicts else None
    if passed and typed and typed.get("passed") is None:
        passed = None  # that the fusions hold says nothing of the types
    reasons = [str(part["reason"]) for part in (fusion, typed) if part.get("reason")]
    return {
        "max_abs": fusion.get("max_abs"),
        "passed": passed,
        "reason": "; ".join(reasons),
        "fusion": dict(fusion),
        "typed": dict(typed),
    }
