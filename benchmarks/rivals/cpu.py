"""ModelOpt AutoCast and the planner on a CPU; the planner's simulation of a typed graph judges both.

AutoCast runs in an environment of its own (made as `benchmarks.conversion` makes them), on the same inputs as its
calibration data. It knows no tolerance: it keeps the nodes whose values pass its bound. So the evaluations it makes are
the one FP32 run, and only the error it arrives at can be compared.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.conversion import PEERS, ROOT, interpreter
from benchmarks.rivals.cases import GEMMS, make_model, timed_plan
from precision_planner.simulation import open_simulation, prepare

JUDGE = "simulation"
PEER = ROOT / "benchmarks" / "_peers.py"
MOVING = {
    *("Cast", "Concat", "Constant", "ConstantOfShape", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Pad"),
    *("Reshape", "Shape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
}
"""Operators that compute nothing: in which type they move a value costs no accuracy."""


def wide_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of a typed graph that compute in FP32: those with a FLOAT result, moves and Casts left out."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=False).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    return [
        node
        for node in inferred.node
        if node.op_type not in MOVING and any(types.get(name) == TensorProto.FLOAT for name in node.output)
    ]


def sad(folder: Path, outputs: dict[str, np.ndarray]) -> float:
    """The worst row's sum of absolute differences of the probabilities from the FP32 model's."""
    with np.load(folder / "expected.npz") as file:
        error = np.abs(outputs["probability"].astype(np.float64) - file["probability"])
    return float(error.sum(axis=1).max())


def judge(folder: Path, typed: onnx.ModelProto, tf32: bool = False) -> dict[str, Any]:
    """Error and FP32 nodes of a typed model; with `tf32` its FP32 products use it, as a plan may say."""
    simulation = prepare(typed, tf32=tf32)
    with np.load(folder / "inputs.npz") as file, open_simulation(simulation) as session:
        outputs = session.run(simulation.feeds(dict(file)))
    wide = wide_nodes(typed)
    return {
        "judge": JUDGE,
        "sad": sad(folder, outputs),
        "fp32": len(wide),
        "fp32_gemms": sum(node.op_type in GEMMS for node in wide),
    }


def autocast(folder: Path) -> dict[str, Any]:
    """AutoCast with its defaults, the interface left in FP32."""
    found: dict[str, Any] = {"case": folder.name, "tool": f"AutoCast ({PEERS['modelopt_autocast'][0]})"}
    python, problem = interpreter("modelopt_autocast")
    if python is None:
        return {**found, "judge": JUDGE, "note": problem}
    source, typed = folder / "model.onnx", folder / "autocast.onnx"
    command = [python, PEER, "modelopt_autocast_calibrated", source, typed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {**found, "judge": JUDGE, "note": (done.stderr.strip().splitlines() or ["failed"])[-1]}
    seconds = json.loads(done.stdout.strip().splitlines()[-1])["wall_s"]
    return {**found, **judge(folder, onnx.load(typed)), "evaluations": 1, "seconds": round(seconds, 1)}


def planner(folder: Path) -> dict[str, Any]:
    """The planner for a strongly typed target."""
    planned, facts = timed_plan(folder, "tensorrt-11")
    took = {name: facts[name] for name in ("evaluations", "seconds")}
    found = judge(folder, planned.model.to_proto(), bool(planned.plan.build["tf32"]))
    return {"case": folder.name, "tool": "planner", **found, **took}


def measure(folder: Path, preset: str) -> list[dict[str, Any]]:
    """Both on one preset."""
    make_model(folder, preset)
    return [autocast(folder), planner(folder)]
