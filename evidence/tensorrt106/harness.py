"""Build, inspect and run one small network with TensorRT 10.6; everything about TensorRT's interface is here.

One Builder a process, reused: it loads 4.7 GB of kernels. `TRT_MODULE=tensorrt_rtx` builds the strongly typed cases on a
machine without a GPU (nothing runs there), which is how these scripts are tested.
"""

from __future__ import annotations

import gzip
import importlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One network and how it is built.

    Attributes:
      section: the experiment it belongs to; with `name` its identity.
      name: what is special about it.
      model: makes the ONNX model.
      feeds: makes the inputs, one dictionary a run; float32 arrays are cast to what the engine takes.
      reference: the outputs in float64 from float64 inputs (torch tensors); None where only the build matters.
      measure: what to say of (outputs, references) of all runs; `errors` when None.
      strong: strongly typed, or weakly.
      flags: builder flags by name.
      constrain: sets layer precisions and output types of a weakly typed network.
      timed: whether milliseconds matter.
      keep_log: whether the whole log is kept; keep_engine: whether model and engine are.
      level: the builder's optimization level.
    """

    section: str
    name: str
    model: Callable[[], onnx.ModelProto]
    feeds: Callable[[], Sequence[Feeds]] = lambda: ()
    reference: Callable[[dict[str, Any]], Sequence[Any]] | None = None
    measure: Callable[[Any, Any], dict[str, Any]] | None = None
    strong: bool = True
    flags: tuple[str, ...] = ()
    constrain: Callable[[Any, Any], list[str]] | None = None
    timed: bool = False
    keep_log: bool = False
    keep_engine: bool = False
    level: int = 3


def errors(outputs: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> dict[str, Any]:
    """Relative L2 and largest absolute error of the first output, and how many values are not finite."""
    out, ref = outputs[0].reshape(-1), references[0].reshape(-1)
    finite = np.isfinite(out)
    diff = np.where(finite, out - ref, ref)
    norm = float(np.linalg.norm(ref)) or 1.0
    return {
        "rel_l2": float(np.linalg.norm(diff)) / norm,
        "max_abs": float(np.abs(diff).max()),
        "nonfinite": int((~finite).sum()),
        "first": [float(v) for v in out[:3]],
        "right": [float(v) for v in ref[:3]],
    }


def make_logger(trt: Any) -> Any:
    """A logger that keeps everything: TensorRT honours only the first one of a process."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append((str(severity).rsplit(".", 1)[-1], message))

    return Log()


class Machine:
    """One process's Builder, Runtime and log."""

    def __init__(self) -> None:
        self.trt = importlib.import_module(os.environ.get("TRT_MODULE", "tensorrt"))
        self.log = make_logger(self.trt)
        self._builder: Any = None
        self.rtx = "rtx" in self.trt.__name__
        self.runtime = None if self.rtx else self.trt.Runtime(self.log)
        self.cache: Any = None

    @property
    def builder(self) -> Any:
        """Loaded when first asked for: a process that only runs engines needs none."""
        if self._builder is None:
            self._builder = self.trt.Builder(self.log)
        return self._builder

    def build(self, case: Case, model: onnx.ModelProto) -> tuple[bytes | None, list[str]]:
        """The engine, or None with the errors in the log; and what the constraints did."""
        trt = self.trt
        flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if case.strong and not self.rtx else 0
        network = self.builder.create_network(flag)
        parser = trt.OnnxParser(network, self.log)
        if not parser.parse(model.SerializeToString()):
            raise RuntimeError(f"parser: {[parser.get_error(i).desc() for i in range(parser.num_errors)]}")
        config = self.builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if self.rtx:
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        else:
            config.builder_optimization_level = case.level
            config.clear_flag(trt.BuilderFlag.TF32)
            for name in case.flags:
                config.set_flag(getattr(trt.BuilderFlag, name))
            if self.cache is None:
                self.cache = config.create_timing_cache(b"")
            config.set_timing_cache(self.cache, False)
        said = case.constrain(network, trt) if case.constrain is not None and not self.rtx else []
        engine = self.builder.build_serialized_network(network, config)
        return (None if engine is None else bytes(engine)), said

    def inspect(self, engine: Any) -> str:
        """The inspector's JSON."""
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))

    def run(self, case: Case, engine: Any, timed: bool = False) -> dict[str, Any]:
        """Errors of every run; or, where `timed`, the best milliseconds of the first."""
        import torch

        trt = self.trt
        types = {
            trt.float32: torch.float32,
            trt.float16: torch.float16,
            trt.bfloat16: torch.bfloat16,
            trt.int32: torch.int32,
            trt.int64: torch.int64,
            trt.bool: torch.bool,
        }
        context = engine.create_execution_context()
        stream = torch.cuda.Stream()
        results, references = [], []
        for feed in case.feeds():
            tensors: dict[str, Any] = {}
            doubles: dict[str, Any] = {}
            for index in range(engine.num_io_tensors):
                name = engine.get_tensor_name(index)
                dtype = types[engine.get_tensor_dtype(name)]
                if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                    tensors[name] = torch.from_numpy(np.ascontiguousarray(feed[name])).cuda().to(dtype).contiguous()
                    doubles[name] = tensors[name] if dtype == torch.bool else tensors[name].double()
                    context.set_input_shape(name, tuple(tensors[name].shape))
                else:
                    tensors[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device="cuda")
                context.set_tensor_address(name, tensors[name].data_ptr())
            torch.cuda.synchronize()
            if not context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError("the engine did not run")
            stream.synchronize()
            if timed:
                return {"ms": self.time(context, stream)}
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
            results.append([tensors[n].double().cpu().numpy() for n in outputs])
            if case.reference is not None:
                references.append([r.cpu().numpy() for r in case.reference(doubles)])
        said: dict[str, Any] = {}
        if references:
            if case.measure is not None:
                said["measured"] = case.measure(results, references)
            else:
                said["errors"] = [errors(o, r) for o, r in zip(results, references, strict=True)]
        return said

    def time(self, context: Any, stream: Any, repeat: int = 50) -> float:
        """The best of five means over `repeat` calls, in milliseconds."""
        import torch

        best = float("inf")
        for _ in range(5):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            for _ in range(repeat):
                context.execute_async_v3(stream.cuda_stream)
            end.record(stream)
            stream.synchronize()
            best = min(best, start.elapsed_time(end) / repeat)
        return best


def summary(listing: str) -> list[dict[str, Any]]:
    """Name, kind, tactic, inputs and outputs with their types, of each layer that the inspector lists."""

    def tensors(items: Any) -> list[str]:
        return [
            f"{i.get('Name', '?')}:{i.get('Format/Datatype', i.get('Datatype', '?'))}{i.get('Dimensions')}"
            for i in items or ()
        ]

    layers = json.loads(listing).get("Layers", [])
    keep = ("Name", "LayerType", "TacticName", "TacticValue", "ParameterType", "ParameterSubType")
    return [
        {"Name": layer}
        if isinstance(layer, str)
        else {k: layer[k] for k in keep if k in layer}
        | {"in": tensors(layer.get("Inputs")), "out": tensors(layer.get("Outputs"))}
        | ({"Weights": layer["Weights"]} if "Weights" in layer else {})
        for layer in layers
    ]


def stem(case: Case) -> str:
    """A file name for the case."""
    return "".join(c if c.isalnum() else "_" for c in f"{case.section}.{case.name}")


WORDS = ("weight", "ubnormal", "FP16", "layernorm", "overflow", "precision", "half", "trongly", "ype")


def perform(machine: Machine, case: Case, out: Path) -> dict[str, Any]:
    """Build, inspect and run one case; what fails is part of the record."""
    started = time.monotonic()
    machine.log.lines.clear()
    record: dict[str, Any] = {"section": case.section, "case": case.name, "strong": case.strong, "flags": case.flags}
    try:
        model = case.model()
        plan, said = machine.build(case, model)
        if said:
            record["constraints"] = said
        if plan is not None:
            record["engine_bytes"] = len(plan)
            if case.keep_engine:
                (out / f"{stem(case)}.engine").write_bytes(plan)
                (out / f"{stem(case)}.onnx").write_bytes(model.SerializeToString())
            if case.timed:
                (out / f"{stem(case)}.plan").write_bytes(plan)
            record["weights_found"] = weights_found(plan, model)
            if machine.runtime is not None:
                engine = machine.runtime.deserialize_cuda_engine(plan)
                listing = machine.inspect(engine)
                record["layers"] = summary(listing)
                if case.keep_engine or case.keep_log:
                    (out / f"{stem(case)}.layers.json").write_text(listing)
                record["seconds_built"] = round(time.monotonic() - started, 2)
                if case.feeds():
                    record |= machine.run(case, engine)
    except Exception as failure:  # recorded, and the next case goes on
        record["failure"] = f"{type(failure).__name__}: {failure}"[:400]
    lines = machine.log.lines
    record["log"] = sorted({f"[{s}] {m[:300]}" for s, m in lines if s in ("WARNING", "ERROR", "INTERNAL_ERROR")})[:20]
    if case.keep_log:
        record["log_matching"] = [
            f"[{s}] {m[:1500]}" for s, m in lines if any(w in m for w in WORDS) and "Tactic" not in m
        ][:120]
        with gzip.open(out / f"{stem(case)}.log.gz", "wt") as file:
            file.writelines(f"[{s}] {m}\n" for s, m in lines)
    record["seconds"] = round(time.monotonic() - started, 2)
    return record


def measure_time(machine: Machine, case: Case, out: Path) -> float | str:
    """Milliseconds of a case's engine, nothing else running; a failure's words."""
    path = out / f"{stem(case)}.plan"
    if not path.exists():
        return "no engine"
    try:
        return float(machine.run(case, machine.runtime.deserialize_cuda_engine(path.read_bytes()), timed=True)["ms"])
    except Exception as failure:  # recorded
        return f"{type(failure).__name__}: {failure}"[:200]


def weights_found(engine: bytes, model: onnx.ModelProto) -> dict[str, dict[str, float]]:
    """For each float32 initializer over 256 values: the share of 400 single values found in the engine's bytes.

    As float32 words at any of four offsets and as half words (saturating): a first look, layouts aside.
    """
    found: dict[str, dict[str, float]] = {}
    words = [
        np.unique(np.frombuffer(engine[o : o + (len(engine) - o) // 4 * 4], np.uint32))
        for o in (range(4) if len(engine) % 4 else (0,))
    ]
    halves = np.unique(np.frombuffer(engine[: len(engine) // 2 * 2], np.uint16))
    for initializer in model.graph.initializer:
        values = onnx.numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size < 256:
            continue
        some = np.random.default_rng(2).choice(values.reshape(-1), 400)
        with np.errstate(over="ignore"):
            half = np.clip(some, -65504, 65504).astype(np.float16).view(np.uint16)
        found[initializer.name] = {
            "float32": max(float(np.isin(some.view(np.uint32), w).mean()) for w in words),
            "half": float(np.isin(half, halves).mean()),
        }
    return found
