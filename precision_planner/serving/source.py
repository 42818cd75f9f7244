"""What is served: read from a plan's folder, or, for a baseline, from a model or an engine of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ValueInfoProto, defs

from precision_planner.errors import OutputError, PlanError, TargetError
from precision_planner.model import GraphIndex, Model, type_name
from precision_planner.model.arrays import read_npz
from precision_planner.model.types import from_type_proto
from precision_planner.plans import PrecisionPlan
from precision_planner.serving.config import PLATFORMS
from precision_planner.serving.tensors import Interface, read_interface
from precision_planner.targets import get_target

ENGINE_SUFFIXES = frozenset({".engine", ".plan", ".trt"})

_TOKENS = re.compile(r"seq|tok|len|time|frames?$|steps?$|width|height|channel", re.IGNORECASE)
"""Names of free first axes that count something else than requests' rows."""


@dataclass(frozen=True)
class PlanFolder:
    """A plan's folder, read.

    Attributes:
      folder: where it is.
      plan: its decision.
      interface: what the planned model takes and gives.
      golden: case -> (inputs, outputs of the FP32 model).
    """

    folder: Path
    plan: PrecisionPlan
    interface: Interface
    golden: Mapping[str, tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]] = field(default_factory=dict)


def read_plan_folder(folder: Path) -> PlanFolder:
    """Read a plan's folder; PlanError where it is none."""
    file = folder / "plan.json"
    if not file.is_file():
        raise PlanError(f"{folder} holds no plan.json; give the folder that planner plan wrote")
    plan = PrecisionPlan.from_json(file.read_text(encoding="utf-8"))
    golden = {}
    for path in sorted((folder / "golden").glob("*.inputs.npz")):
        case = path.name.removesuffix(".inputs.npz")
        answer = path.with_name(f"{case}.outputs.npz")
        if answer.is_file():
            golden[case] = (read_npz(path), read_npz(answer))
    return PlanFolder(folder, plan, read_interface(plan.interface, str(file)), golden)


def choose_platform(plan: PrecisionPlan, asked: str | None) -> str:
    """The platform that serves a plan.

    Raises:
      TargetError: the target's engines are loaded by no backend of Triton's, or the platform asked for cannot run
        the model.
    """
    runtime = get_target(plan.target).runtime
    natural = "onnxruntime_onnx" if runtime == "onnxruntime" else "tensorrt_plan"
    chosen = asked or natural
    if chosen == "tensorrt_plan" and runtime == "tensorrt_rtx":
        raise TargetError(
            "Triton's TensorRT backend does not load engines of TensorRT-RTX; serve the graph with "
            "--platform onnxruntime_onnx, or plan again with --target tensorrt-11"
        )
    if chosen == "tensorrt_plan" and natural != chosen:
        raise TargetError("this plan is for onnxruntime and builds no engine; plan again with --target tensorrt-11")
    return chosen


def find_file(source: PlanFolder, platform: str, engine: Path | None) -> Path:
    """The file that the backend loads: the plan's engine, or its model; OutputError where it is missing."""
    if platform == "onnxruntime_onnx":
        if engine is not None:
            raise OutputError(f"--engine {engine} is not served by onnxruntime; leave it out")
        return source.folder / "model.onnx"
    path = engine or source.folder / "model.engine"
    if not path.is_file():
        raise OutputError(
            f"there is no engine {path}; run planner build {source.folder} on the machine with the GPU, or give "
            "--engine FILE, or serve the graph with --platform onnxruntime_onnx"
        )
    return path


def check_runnable(model: Model, path: Path) -> None:
    """Refuse a graph whose operators onnxruntime has not; TargetError with the first of them."""
    standard = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"}
    local = {(function.domain, function.name) for function in model.proto.functions}
    for scope, position, _ in GraphIndex(model.proto).nodes():
        node = scope.nodes[position]
        if node.domain not in standard and (node.domain, node.op_type) not in local:
            raise TargetError(
                f"{path}: operator {node.domain}.{node.op_type} is none of onnxruntime's (a TensorRT plugin?); build "
                "the engine and serve that"
            )
        if node.domain in ("", "ai.onnx") and not defs.has(node.op_type, ""):
            raise TargetError(f"{path}: ONNX has no operator {node.op_type}; build the engine and serve that")


def largest_batch(source: PlanFolder) -> int:
    """How many rows a request may have: the profile's largest first axis; 0 where the model has no batch axis.

    A batch axis is a free first axis that every input and output has, under one name, or (outputs are often left
    with names of the exporter's) with as many rows out as in in every golden case. What counts tokens is none.
    Without a profile, as in a plan for onnxruntime, it is the largest golden case's.
    """
    inputs, outputs = source.interface.inputs, source.interface.outputs
    first = [tensor.shape[0] if tensor.shape else 0 for tensor in (*inputs, *outputs)]
    if not inputs or any(isinstance(size, int) for size in first):
        return 0
    names = {size for size in first[: len(inputs)] if size is not None}
    if len(names) > 1 or any(_TOKENS.search(str(name)) for name in names):
        return 0
    same_name = len({size for size in first if size is not None}) <= 1 and None not in first
    counted = [
        {np.shape(array)[0] for arrays in case for array in arrays.values() if np.ndim(array)}
        for case in source.golden.values()
    ]
    seen = {next(iter(rows)) for rows in counted if len(rows) == 1}
    if any(len(rows) != 1 for rows in counted) or not (same_name or len(seen) > 1):
        return 0
    profiles = [source.plan.profiles[tensor.name] for tensor in inputs if tensor.name in source.plan.profiles]
    if profiles:
        return min(profile.max[0] for profile in profiles)
    return max(seen, default=1)


def usual_batch(source: PlanFolder) -> int:
    """The batch that the engine is tuned for, 0 where no profile says it."""
    return min((profile.opt[0] for profile in source.plan.profiles.values() if profile.opt), default=0)


def engine_interface(source: PlanFolder, interface: Interface) -> Interface:
    """What the plan's engine takes and gives: before TensorRT 10, INT32 where the model has INT64."""
    return interface if get_target(source.plan.target).at_least(10) else interface.with_int32()


def baseline_of(path: Path, plan: PlanFolder) -> tuple[str, Interface]:
    """Platform and interface of a baseline: an ONNX model's own, or, for an engine, the plan's with 16 bits as FP32."""
    if path.suffix in ENGINE_SUFFIXES:
        if not path.is_file():
            raise OutputError(f"the baseline {path} does not exist; give an ONNX model or an engine")
        return "tensorrt_plan", plan.interface.with_fp32()
    model = Model.load(path)
    check_runnable(model, path)
    return "onnxruntime_onnx", interface_of(model, str(path))


def interface_of(model: Model, source: str) -> Interface:
    """What a model takes and gives."""
    graph = model.proto.graph
    given = {tensor.name for tensor in graph.initializer}

    def facts(info: ValueInfoProto) -> dict[str, object]:
        value = from_type_proto(info.type)
        return {"dtype": type_name(value.elem_type), "shape": None if value.shape is None else list(value.shape)}

    data = {
        "inputs": {info.name: facts(info) for info in graph.input if info.name not in given},
        "outputs": {info.name: facts(info) for info in graph.output},
    }
    return read_interface(data, source)


def files_of(path: Path, platform: str) -> dict[str, Path]:
    """Name in the version's folder -> file: the model under the name that its backend looks for, and its data."""
    name = PLATFORMS[platform]
    if platform == "tensorrt_plan":
        return {name: path}
    model = Model.load(path)
    return {
        name if file == path.resolve() or file == path else str(_inside(file, path)): file
        for file in sorted(model.files)
    }


def _inside(file: Path, model: Path) -> Path:
    return file.resolve().relative_to(model.parent.resolve())


def model_name(text: str) -> str:
    """A name that is one folder: letters, digits, `_`, `-` and `.`."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._-") or "model"
