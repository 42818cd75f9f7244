"""The BERT classifiers (massive activations; overflowing feed-forward) by searched plans on TensorRT 10.6.

`bert.py PRESET TARGET LABEL OUT` makes one plan (no GPU needed); `measure_all` builds and measures all of them beside FP32,
TF32 and blind FP16: SAD of the probability, the worst of 40 rows of 300 tokens, and milliseconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

PRESETS = ("massive", "ffn")
TARGETS = ("tensorrt-10", "tensorrt-10-strong")
TOLERANCE = {"probability:sad": 1e-3}
PLANS: dict[str, dict[str, Any]] = {
    "rules": {"policy": "rules"},
    "searched": {"tolerance": TOLERANCE, "budget": "200s"},
    "sum32": {"tolerance": TOLERANCE, "budget": "200s", "keep_sum32": ["MatMul,Gemm"]},
}
SEARCHED_TOKENS = 5120


def make(preset: str, target: str, label: str, out: Path) -> dict[str, Any]:
    """One plan's folder and what it predicts."""
    import precision_planner as pp

    folder = out / preset
    with np.load(folder / "inputs.npz") as file:
        inputs = dict(file)
    shapes = {key: array.shape for key, array in inputs.items()}
    rows = {key: array[: SEARCHED_TOKENS // array.shape[1]] for key, array in inputs.items()}
    started = time.perf_counter()
    planned = pp.plan(
        str(folder / "model.onnx"), target=target, inputs=rows, opt_shapes=shapes, max_shapes=shapes, **PLANS[label]
    )
    planned.save(str(folder / f"{target}.{label}"))
    plan = planned.plan
    return {
        "preset": preset, "target": target, "plan": label, "seconds": round(time.perf_counter() - started, 1),
        "predicted": dict(plan.predicted.get("probability", {})), "passed": plan.passed, "nodes": plan.counts,
        "tf32": plan.build.get("tf32"), "search": {k: v for k, v in plan.search.items() if k != "regions"},
    }  # fmt: skip


def prepare(out: Path) -> None:
    """Models, inputs and FP32 answers."""
    import onnx
    import onnxruntime

    from examples.bert_classifier import PRESETS as SPECS
    from examples.bert_classifier import build_bert_classifier, sample_inputs

    for preset in PRESETS:
        folder = out / preset
        folder.mkdir(parents=True, exist_ok=True)
        spec = SPECS[preset]
        onnx.save(build_bert_classifier(spec), str(folder / "model.onnx"))
        inputs = dict(sample_inputs(spec, rows=40, sequence=spec.sequence))
        np.savez(folder / "inputs.npz", **inputs)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        np.savez(folder / "expected.npz", **dict(zip(names, session.run(names, inputs), strict=True)))


def worst_sad(results: Any, references: Any) -> dict[str, Any]:
    """The summed absolute difference of the worst row."""
    right = references[0][0]
    found = next(
        o for o in results[0] if o.shape == right.shape and np.allclose(o.sum(-1)[np.isfinite(o).all(-1)], 1, atol=0.05)
    )
    finite = bool(np.isfinite(found).all())
    return {"sad": float(np.abs(found - right).sum(-1).max()) if finite else float("inf"), "finite": finite}


def measure_all(out: Path, deadline: float) -> None:
    """FP32, TF32, blind FP16 and every plan of every preset, plans first."""
    import subprocess

    import onnx
    import torch

    from evidence.tensorrt106.harness import Case, Machine, summary

    machine = Machine()
    with open(out / "bert.jsonl", "a") as file:

        def write(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        def measure(plan: bytes, preset: str) -> dict[str, Any]:
            with np.load(out / preset / "inputs.npz") as stored:
                inputs = dict(stored)
            with np.load(out / preset / "expected.npz") as stored:
                right = torch.from_numpy(stored["probability"].astype(np.float64))
            case = Case("bert", preset, lambda: None, lambda: [inputs], lambda _: [right], worst_sad)  # type: ignore[arg-type,return-value]
            engine = machine.runtime.deserialize_cuda_engine(plan)
            said = machine.run(case, engine)["measured"]
            said["ms"] = machine.run(case, engine, timed=True)["ms"]
            tactics = [str(layer.get("TacticName", "")) for layer in summary(machine.inspect(engine))]
            said["kernels"] = {
                key: sum(key in t for t in tactics)
                for key in (
                    "f16f16_f16f16_f16",
                    "f16f16_f16f32_f32",
                    "f32f32_f32f32",
                    "f32f32_tf32f32",
                    "mha_v1",
                    "mha_v2",
                )
            }
            return said  # type: ignore[no-any-return]

        for preset in PRESETS:
            for folder in sorted((out / preset).glob("tensorrt-10*"), key=lambda p: "rules" in p.name):
                if time.time() > deadline or not (folder / "plan.json").exists():
                    continue
                started = time.monotonic()
                record: dict[str, Any] = {"preset": preset, "engine": folder.name}
                try:
                    command = [sys.executable, "build.py", "-o", "model.engine", "--allow-fp32"]
                    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
                    record |= {"build_rc": done.returncode, "build_seconds": round(time.monotonic() - started, 1)}
                    if done.returncode:
                        record["said"] = (done.stderr or done.stdout)[-400:]
                    record |= measure((folder / "model.engine").read_bytes(), preset)
                except Exception as failure:
                    record["failure"] = f"{type(failure).__name__}: {failure}"[:300]
                write(record)
        for preset in PRESETS:
            with np.load(out / preset / "inputs.npz") as stored:
                shapes = {k: v.shape for k, v in stored.items()}
            for label, flags in {"blind": ("FP16", "TF32"), "tf32": ("TF32",), "fp32": ()}.items():
                if time.time() > deadline:
                    return
                try:
                    model = onnx.load(str(out / preset / "model.onnx"))
                    for value in model.graph.input:
                        for dim, size in zip(
                            value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False
                        ):
                            dim.dim_value = size
                    case = Case("bert", label, lambda: None, strong=False, flags=flags, level=3)  # type: ignore[arg-type,return-value]
                    plan, _ = machine.build(case, model)
                    write({"preset": preset, "engine": label, **measure(plan or b"", preset)})
                except Exception as failure:
                    write({"preset": preset, "engine": label, "failure": f"{type(failure).__name__}: {failure}"[:300]})


if __name__ == "__main__":
    print(json.dumps(make(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))))
