"""Run what was converted: onnxruntime's CUDA provider (`ort`), TensorRT 10.6 (`trt`); one JSON line a result."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from evidence.zoo.convert import TOOLS, relative

BIG = 16


def time_of(call: Any, synchronize: Any) -> float:
    """Milliseconds: the best of three means over ten calls, after two to warm up."""
    for _ in range(2):
        call()
    best = float("inf")
    for _ in range(3):
        synchronize()
        started = time.perf_counter()
        for _ in range(10):
            call()
        synchronize()
        best = min(best, (time.perf_counter() - started) * 100)
    return best


def ort_one(path: Path, inputs: dict[str, np.ndarray], reference: np.ndarray, tf32: bool) -> dict[str, Any]:
    """Loads, error, milliseconds at the example's batch and at 16 times it, nodes that fell back to the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    providers = [("CUDAExecutionProvider", {"use_tf32": "1" if tf32 else "0"}), "CPUExecutionProvider"]
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as failure:
        return {"loads": False, "failure": str(failure)[:300]}
    if "CUDAExecutionProvider" not in session.get_providers():
        return {"loads": False, "failure": "no CUDA provider"}
    said: dict[str, Any] = {"loads": True}
    try:
        said["rel_l2"] = relative(session.run(None, inputs)[0], reference)
        for label, times in (("ms", 1), ("ms_big", BIG)):
            feeds = {n: np.concatenate([v] * times) for n, v in inputs.items()}
            binding = session.io_binding()
            kept = [ort.OrtValue.ortvalue_from_numpy(v, "cuda", 0) for v in feeds.values()]
            for n, v in zip(feeds, kept, strict=True):
                binding.bind_ortvalue_input(n, v)
            binding.bind_output(session.get_outputs()[0].name, "cuda")
            try:
                said[label] = round(
                    time_of(lambda b=binding: session.run_with_iobinding(b), binding.synchronize_outputs), 4
                )
            except Exception as failure:
                said[f"{label}_failure"] = str(failure)[:200]
    except Exception as failure:
        said["failure"] = str(failure)[:300]
    return said


def ort_all(out: Path, deadline: float) -> None:
    """Every converted file, FP32 without and with TF32 first."""
    with open(out / "ort.jsonl", "a") as file:
        for folder in sorted(p.parent for p in out.glob("*/reference.npy")):
            if time.time() > deadline:
                break
            with np.load(folder / "inputs.npz") as stored:
                inputs = dict(stored)
            reference = np.load(folder / "reference.npy")
            found: dict[str, Any] = {"folder": folder.name}
            for label in ("fp32", "tf32", *TOOLS):
                path = folder / ("model.onnx" if label in ("fp32", "tf32") else f"{label}.onnx")
                if path.exists():
                    found[label] = ort_one(path, inputs, reference, tf32=label != "fp32")
            file.write(json.dumps(found) + "\n")
            file.flush()


def trt_all(out: Path, number: int, of: int, deadline: float) -> None:
    """TensorRT 10.6 on a share of the models: FP32, TF32, blind --fp16, our plans, our and AutoCast's typed graph."""
    import onnx
    import torch

    from evidence.tensorrt106.harness import Case, Machine
    from evidence.zoo.architectures import ON_TENSORRT

    machine = Machine()
    kinds: dict[str, tuple[str, bool, tuple[str, ...]]] = {
        "fp32": ("model.onnx", False, ()), "tf32": ("model.onnx", False, ("TF32",)), "blind": ("model.onnx", False, ("FP16", "TF32")),
        "strong": ("ours.onnx", True, ("TF32",)), "autocast": ("autocast.onnx", True, ("TF32",)),
    }  # fmt: skip
    folders = [
        f
        for name in ON_TENSORRT
        for f in (out / f"{name}.torchscript", out / f"{name}.dynamo")
        if (f / "reference.npy").exists()
    ]
    seen: set[str] = set()
    folders = [f for f in folders if not (f.name.split(".")[0] in seen or seen.add(f.name.split(".")[0]))]  # type: ignore[func-returns-value]
    with open(out / f"trt.{number}.jsonl", "a") as file:
        for folder in folders[number::of]:
            with np.load(folder / "inputs.npz") as stored:
                inputs = dict(stored)
            reference = torch.from_numpy(np.load(folder / "reference.npy"))
            found: dict[str, Any] = {"folder": folder.name}
            for label, (file_name, strong, flags) in kinds.items():
                if time.time() > deadline or not (folder / file_name).exists():
                    continue
                found[label] = _trt_one(machine, Case, onnx, folder / file_name, strong, flags, inputs, reference)
            for label in ("weak_plan", "strong_plan"):
                if (folder / label / "plan.json").exists() and time.time() < deadline:
                    found[label] = plan_engine(machine, folder / label, inputs, reference)
            file.write(json.dumps(found) + "\n")
            file.flush()


def _trt_one(
    machine: Any,
    case_type: Any,
    onnx: Any,
    path: Path,
    strong: bool,
    flags: tuple[str, ...],
    inputs: Any,
    reference: Any,
) -> dict[str, Any]:
    model = onnx.load(str(path))
    for value in model.graph.input:  # one shape: no profile is needed
        if value.name in inputs:
            for dim, size in zip(value.type.tensor_type.shape.dim, inputs[value.name].shape, strict=False):
                dim.dim_value = size
    case = case_type(
        "zoo",
        path.parent.name,
        lambda: model,
        lambda: [inputs],
        lambda _: [reference],
        strong=strong,
        flags=flags,
        level=2,
    )
    started = time.monotonic()
    machine.log.lines.clear()
    try:
        plan, _ = machine.build(case, model)
        said: dict[str, Any] = {
            "seconds": round(time.monotonic() - started, 1),
            "warnings": sum(s == "WARNING" for s, _ in machine.log.lines),
        }
        if plan is None:
            return {**said, "failure": str([m for s, m in machine.log.lines if s == "ERROR"][:1])[:300]}
        return {**said, **measure(machine, case, plan)}
    except Exception as failure:
        return {"failure": f"{type(failure).__name__}: {failure}"[:300]}


def measure(machine: Any, case: Any, plan: bytes) -> dict[str, Any]:
    """Error and milliseconds of an engine."""
    engine = machine.runtime.deserialize_cuda_engine(plan)
    said = machine.run(case, engine)
    return {
        "rel_l2": said["errors"][0]["rel_l2"],
        "nonfinite": said["errors"][0]["nonfinite"],
        "ms": machine.run(case, engine, timed=True)["ms"],
    }


def plan_engine(machine: Any, folder: Path, inputs: Any, reference: Any) -> dict[str, Any]:
    """A plan's engine by its own build.py (a process of its own), measured here."""
    from evidence.tensorrt106.harness import Case

    started = time.monotonic()
    command = [sys.executable, "build.py", "-o", "model.engine", "--allow-fp32"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        return {"failure": "build.py took over 240 s"}
    said: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1), "build_rc": done.returncode}
    if not (folder / "model.engine").exists():
        return {**said, "failure": (done.stderr or done.stdout)[-400:]}
    case = Case("zoo", folder.name, lambda: None, lambda: [inputs], lambda _: [reference])  # type: ignore[arg-type,return-value]
    try:
        return {**said, **measure(machine, case, (folder / "model.engine").read_bytes())}
    except Exception as failure:
        return {**said, "failure": f"{type(failure).__name__}: {failure}"[:300]}


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    until = float(sys.argv[3])
    if what == "ort":
        ort_all(where, until)
    elif what == "trt":
        trt_all(where, int(sys.argv[4]), int(sys.argv[5]), until)
    else:
        from evidence.zoo.bert import measure_all

        measure_all(where, until)
