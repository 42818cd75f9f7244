"""The gates that every model we write must pass, used by the tests of all areas.

`assert_gates(model)` fails with the gate's name and the tool's own words. None of the gates is ours: the ONNX
checker, ONNX shape inference, onnxruntime and NVIDIA's TensorRT-RTX judge.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime as ort

from precision_planner.emitting.rtx import Profile, RtxResult, rtx_build

ModelOrPath = onnx.ModelProto | str | os.PathLike[str]

OPTIMIZATION_LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class GateError(AssertionError):
    """A model did not pass a gate."""

    def __init__(self, gate: str, reason: object) -> None:
        super().__init__(f"{gate}: {reason}")
        self.gate = gate


def assert_gates(
    model: ModelOrPath,
    *,
    rtx: bool = True,
    rtx_baseline: ModelOrPath | None = None,
    profiles: Mapping[str, Profile] | None = None,
    custom_domains: frozenset[str] = frozenset(),
) -> RtxResult | None:
    """Check a model by the checker, strict shape inference, onnxruntime and TensorRT-RTX.

    Args:
      model: the model; a path where it has external data.
      rtx: whether TensorRT-RTX must build it.
      rtx_baseline: the model it was made from. Where RTX refuses that one too, it may refuse this one; a refusal
        of the new model alone fails.
      profiles: shapes for RTX, as in `rtx_build`.
      custom_domains: domains whose operators onnxruntime does not have; a model that imports one is not
        loaded there.

    Returns:
      What RTX made of the model, or None with `rtx=False`.

    Raises:
      GateError: the first gate that the model did not pass.
    """
    check_onnx(model)
    check_shapes(model)
    domains = {entry.domain for entry in _structure(model).opset_import}
    if not domains & custom_domains:
        check_onnxruntime(model)
    return check_rtx(model, baseline=rtx_baseline, profiles=profiles) if rtx else None


def check_onnx(model: ModelOrPath) -> None:
    """onnx.checker, in full."""
    try:
        onnx.checker.check_model(_checkable(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError("onnx.checker", error) from error


def check_shapes(model: ModelOrPath) -> None:
    """Strict shape inference with data propagation: every declared type must agree with the inferred one."""
    try:
        if isinstance(model, onnx.ModelProto):
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        else:
            with tempfile.TemporaryDirectory() as folder:
                onnx.shape_inference.infer_shapes_path(
                    os.fspath(model), str(Path(folder) / "inferred.onnx"), True, True, True
                )
    except onnx.shape_inference.InferenceError as error:
        raise GateError("shape inference", error) from error


def check_onnxruntime(model: ModelOrPath) -> None:
    """onnxruntime loads the model at every optimization level: its own fusions may break a valid graph."""
    for name, level in OPTIMIZATION_LEVELS.items():
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            ort.InferenceSession(_loadable(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class but this one
            raise GateError(f"onnxruntime, optimizations {name}", error) from error


def check_rtx(
    model: ModelOrPath,
    *,
    baseline: ModelOrPath | None = None,
    profiles: Mapping[str, Profile] | None = None,
) -> RtxResult:
    """TensorRT-RTX parses and builds the model as a strongly typed network, or refuses its baseline too."""
    result = rtx_build(model, profiles)
    if result.ok:
        return result
    if baseline is not None and not rtx_build(baseline, profiles).ok:
        return result
    reasons = "; ".join(f"{error.node or '(no node)'} {error.op_type}: {error.message}" for error in result.errors)
    raise GateError(f"TensorRT-RTX, {result.stage}", reasons)


def _structure(model: ModelOrPath) -> onnx.ModelProto:
    return model if isinstance(model, onnx.ModelProto) else onnx.load(os.fspath(model), load_external_data=False)


def _checkable(model: ModelOrPath) -> onnx.ModelProto | str:
    return model if isinstance(model, onnx.ModelProto) else os.fspath(model)


def _loadable(model: ModelOrPath) -> bytes | str:
    return model.SerializeToString() if isinstance(model, onnx.ModelProto) else os.fspath(model)
