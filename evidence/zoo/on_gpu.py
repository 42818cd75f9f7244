"""Run what was converted: onnxruntime's CUDA provider (`ort`), TensorRT 10.6 (`trt`); one JSON line a result."""

from __future__ import annotations

import json
import os
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


def fallbacks(session: Any) -> list[str]:
    """Operators that onnxruntime placed on its CPU provider; those of shape arithmetic are placed there on purpose."""
    try:
        subgraphs = session.get_provider_graph_assignment_info()
    except Exception as failure:  # an older onnxruntime
        return [f"unknown: {failure}"[:80]]
    return sorted({n.op_type for g in subgraphs if g.ep_name == "CPUExecutionProvider" for n in g.get_nodes()})


def ort_one(path: Path, inputs: dict[str, np.ndarray], reference: np.ndarray, tf32: bool) -> dict[str, Any]:
    """Loads, error, milliseconds at the example's batch and at 16 times it, nodes that fell back to the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [("CUDAExecutionProvider", {"use_tf32": "1" if tf32 else "0"}), "CPUExecutionProvider"]
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as failure:
        return {"loads": False, "failure": str(failure)[:300]}
    if "CUDAExecutionProvider" not in session.get_providers():
        return {"loads": False, "failure": "no CUDA provider"}
    said: dict[str, Any] = {"loads": True, "on_cpu": fallbacks(session)}
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
        for folder in sorted(p.parent for p in out.glob("*/whole")):
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


KINDS: dict[str, tuple[str, bool, tuple[str, ...]]] = {
    "fp32": ("model.onnx", False, ()), "tf32": ("model.onnx", False, ("TF32",)),
    "blind": ("model.onnx", False, ("FP16", "TF32")), "strong": ("ours.onnx", True, ("TF32",)),
    "strong_plan": ("strong_plan/model.onnx", True, ("TF32",)), "autocast": ("autocast.onnx", True, ("TF32",)),
}  # fmt: skip


def big(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs and answers of a batch that fills the GPU: the example's, BIG times."""
    with np.load(folder / "inputs.npz") as stored:
        inputs = {name: np.concatenate([value] * BIG) for name, value in stored.items()}
    return inputs, np.concatenate([np.load(folder / "reference.npy")] * BIG)


def trt_all(out: Path, number: int, of: int, deadline: float) -> None:
    """TensorRT 10.6 on a share of the models: FP32, TF32, blind --fp16, our plans, our and AutoCast's typed graph."""
    from evidence.tensorrt106.harness import Machine
    from evidence.zoo.architectures import ON_TENSORRT

    machine = Machine()
    folders = [out / f"{name}.torchscript" for name in ON_TENSORRT if (out / f"{name}.torchscript/whole").exists()]
    with open(out / f"trt.{number}.jsonl", "a") as file:
        for folder in folders[number::of]:
            inputs, reference = big(folder)
            for label in ("tf32", "strong", "blind", "strong_plan", "weak_plan", "autocast", "fp32"):
                if time.time() > deadline:
                    return
                if label == "weak_plan":
                    said = plan_engine(machine, folder / label, inputs, reference)
                elif (folder / KINDS[label][0]).exists():
                    said = _trt_one(machine, folder, label, inputs, reference)
                else:
                    continue
                file.write(json.dumps({"folder": folder.name, "engine": label, **said}) + "\n")
                file.flush()


def trt_times(out: Path, deadline: float) -> None:
    """Milliseconds of every engine built, nothing else running."""
    from evidence.tensorrt106.harness import Machine

    machine = Machine()
    with open(out / "trt_times.jsonl", "a") as file:
        for path in sorted(out.glob("*/*.plan")):
            if time.time() > deadline:
                return
            inputs, reference = big(path.parent)
            record: dict[str, Any] = {"folder": path.parent.name, "engine": path.stem}
            try:
                engine = machine.runtime.deserialize_cuda_engine(path.read_bytes())
                record["ms"] = machine.run(_case(path.parent, path.stem, inputs, reference), engine, timed=True)["ms"]
            except Exception as failure:
                record["failure"] = f"{type(failure).__name__}: {failure}"[:300]
            file.write(json.dumps(record) + "\n")
            file.flush()


def _case(folder: Path, label: str, inputs: Any, reference: Any) -> Any:
    import torch

    from evidence.tensorrt106.harness import Case

    _, strong, flags = KINDS.get(label, ("", False, ()))
    right = torch.from_numpy(reference)
    return Case(
        "zoo",
        f"{folder.name} {label}",
        lambda: None,
        lambda: [inputs],
        lambda _: [right],
        strong=strong,
        flags=flags,
        level=2,
    )  # type: ignore[arg-type,return-value]


def _trt_one(machine: Any, folder: Path, label: str, inputs: Any, reference: Any) -> dict[str, Any]:
    import onnx

    model = onnx.load(str(folder / KINDS[label][0]))
    for value in model.graph.input:  # one shape: no profile is needed
        if value.name in inputs:
            for dim, size in zip(value.type.tensor_type.shape.dim, inputs[value.name].shape, strict=False):
                dim.dim_value = size
    case = _case(folder, label, inputs, reference)
    started = time.monotonic()
    machine.log.lines.clear()
    try:
        plan, _ = machine.build(case, model)
        lines = machine.log.lines
        said: dict[str, Any] = {
            "seconds": round(time.monotonic() - started, 1),
            "weight_warnings": sum(
                "eight" in m and ("FP16" in m or "ubnormal" in m) for s, m in lines if s == "WARNING"
            ),
        }
        if plan is None:
            return {**said, "failure": str([m for s, m in lines if s == "ERROR"][:1])[:300]}
        (folder / f"{label}.plan").write_bytes(plan)
        return {**said, **measure(machine, case, plan)}
    except Exception as failure:
        return {"failure": f"{type(failure).__name__}: {failure}"[:300]}


def measure(machine: Any, case: Any, plan: bytes) -> dict[str, Any]:
    """Error of an engine, and what its kernels read and sum in."""
    from evidence.tensorrt106.harness import summary

    engine = machine.runtime.deserialize_cuda_engine(plan)
    found = machine.run(case, engine)["errors"][0]
    tactics = [str(layer.get("TacticName", "")) for layer in summary(machine.inspect(engine))]
    words = ("f16f16_f16f16_f16", "f16f16_f16f32_f32", "f32f32_f32f32", "f32f32_tf32f32", "tf32", "mha_v1", "mha_v2")
    return {
        "rel_l2": found["rel_l2"], "nonfinite": found["nonfinite"],
        "kernels": {word: n for word in words if (n := sum(word in t for t in tactics))}, "layers": len(tactics),
    }  # fmt: skip


def plan_engine(machine: Any, folder: Path, inputs: Any, reference: Any) -> dict[str, Any]:
    """A plan's engine by its own build.py (a process of its own), run here."""
    if not (folder / "plan.json").exists():
        return {"failure": "no plan"}
    started = time.monotonic()
    engine = folder.with_suffix(".plan")
    command = [sys.executable, "build.py", "-o", str(engine), "--allow-fp32"]
    environment = dict(os.environ, PLAN_OVERRIDES=json.dumps({"build": {"optimization_level": 2}}))
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=environment)
    except subprocess.TimeoutExpired:
        return {"failure": "build.py took over 240 s"}
    said: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1), "build_rc": done.returncode}
    if not engine.exists():
        return {**said, "failure": (done.stderr or done.stdout)[-400:]}
    try:
        return {**said, **measure(machine, _case(folder.parent, "weak_plan", inputs, reference), engine.read_bytes())}
    except Exception as failure:
        return {**said, "failure": f"{type(failure).__name__}: {failure}"[:300]}


def main() -> None:
    """One stage, one process: ort OUT UNTIL, trt OUT UNTIL NUMBER OF, times OUT UNTIL, bert OUT UNTIL."""
    what, where, until = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    if what == "ort":
        ort_all(where, until)
    elif what == "trt":
        trt_all(where, int(sys.argv[4]), int(sys.argv[5]), until)
    elif what == "times":
        trt_times(where, until)
    else:
        from evidence.zoo.bert import measure_all

        measure_all(where, until)


if __name__ == "__main__":
    main()
