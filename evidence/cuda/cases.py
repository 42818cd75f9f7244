"""One classifier on the device against its simulation: what is made, run and compared."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

import precision_planner as pp
from evidence.cuda.evaluator import Evaluator
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.judging.metrics import json_number, max_abs, rel_l2
from precision_planner.model import Model, infer_types
from precision_planner.model.session import Session

Arrays = dict[str, np.ndarray]

TOLERANCE = {"probability:sad": 1e-3}

REPLAYED_ROWS = 2
"""Rows whose every intermediate value is compared, node by node."""

PLANNED_TOKENS = 5120
"""Plans are made from as many rows as have so many tokens; all rows are compared."""


def _few(inputs: Arrays) -> Arrays:
    length = max(array.shape[1] for array in inputs.values())
    return {name: array[: max(1, PLANNED_TOKENS // length)] for name, array in inputs.items()}


KINDS: dict[str, Callable[[onnx.ModelProto, Arrays], onnx.ModelProto]] = {
    "plain": lambda model, _: pp.rewrite(model, fuse=(), verify=False).model,
    "ieee": lambda model, _: pp.rewrite(model, fuse=(), weights="ieee", verify=False).model,
    "fused": lambda model, _: pp.rewrite(model, verify=False).model,
    "plan": lambda model, inputs: pp.plan(model, inputs=_few(inputs), tolerance=TOLERANCE).model.to_proto(),
    "bf16": lambda model, _: pp.rewrite(model, precision="bf16", verify=False).model,
}
"""How a classifier becomes a typed graph: everything in FP16 as exported; the same with constants as ONNX Cast rounds
them (the mask becomes minus infinity); LayerNorms fused; as planned; everything in BF16, LayerNorms fused."""


def environment(device: str) -> dict[str, Any]:
    """What this runs on."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "device": device,
    }
    if device != "cpu":
        found["device"] = torch.cuda.get_device_name(device)
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        found["cuda"] = str(torch.version.cuda)
    return found


@contextmanager
def accumulation(kind: str) -> Iterator[None]:
    """How products of 16-bit matrices are summed: in "fp32", with partial sums "reduced" to 16 bits, or in "fp16"."""
    flags = torch.backends.cuda.matmul
    names = ["allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"]
    before = {name: getattr(flags, name) for name in names}
    for name in names:
        setattr(flags, name, kind != "fp32")
    if kind == "fp16":
        flags.allow_fp16_accumulation = True
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(flags, name, value)
        if kind == "fp16":
            flags.allow_fp16_accumulation = False


def modes(kind: str, device: str) -> tuple[str, ...]:
    """The accumulations worth trying: those that the device and the type have."""
    if device == "cpu" or kind == "fp32":
        return ("fp32",)
    return ("fp32", "reduced") if kind == "bf16" else ("fp32", "reduced", "fp16")


def compared(expected: Arrays, found: Arrays) -> dict[str, Any]:
    """Verdict and metrics of the probabilities."""
    diff = pp.diff(expected, found)
    output = diff.outputs["probability"]
    metrics = {name: json_number(output.get(name)) for name in ("sad", "sad_mean", "max_abs", "rel_l2", "top1")}
    return {"grade": diff.grade, "verdict": diff.verdict, **metrics, "nonfinite": output.nonfinite}


@lru_cache(maxsize=1)
def case(preset: str, rows: int) -> tuple[onnx.ModelProto, Arrays, Arrays]:
    """(the classifier as exported, its inputs, its FP32 answers by onnxruntime with its optimizations off)."""
    spec = PRESETS[preset]
    model = build_bert_classifier(spec)
    inputs = dict(sample_inputs(spec, rows=rows, sequence=spec.sequence))
    with Session(Model.load(model)) as session:
        return model, inputs, session.run(inputs)


def measure(preset: str, kind: str, device: str, rows: int) -> dict[str, Any]:
    """One typed graph on the device, in every accumulation that it has.

    Args:
      preset: of `examples.bert_classifier`.
      kind: of `KINDS`, or "fp32": the model as exported, which shows how exact the evaluator is by itself.
      device: torch's name.
      rows: sentences.

    Returns:
      {"case", "kind", "rows", "seconds", "simulated": metrics against FP32, "device": {accumulation: metrics against
      FP32, and against the simulation}, "nodes": see `replayed`}.
    """
    start = time.perf_counter()
    model, inputs, expected = case(preset, rows)
    typed = model if kind == "fp32" else KINDS[kind](model, inputs)
    result: dict[str, Any] = {"case": preset, "kind": kind, "rows": rows, "device": {}}
    simulated = expected
    if kind != "fp32":
        simulated = pp.simulate(typed, inputs)
        result["simulated"] = compared(expected, simulated)
    evaluator = Evaluator(typed, device)
    for mode in modes(kind, device):
        with accumulation(mode):
            found = evaluator.run(inputs)
        result["device"][mode] = {**compared(expected, found), "against_simulation": compared(simulated, found)}
    if kind != "fp32":
        few = {name: value[:REPLAYED_ROWS] for name, value in inputs.items()}
        with accumulation("fp32"):
            result["nodes"] = replayed(typed, few, evaluator)
    result["seconds"] = round(time.perf_counter() - start, 1)
    return result


def replayed(typed: onnx.ModelProto, inputs: Arrays, evaluator: Evaluator) -> dict[str, dict[str, Any]]:
    """Every node that computes, alone, fed with the simulation's values: how its result differs from the simulation's.

    Errors do not add up this way, so what differs is the operator itself: a rounding that falls to the other side
    because a sum was taken in another order, or one that the simulation does not make where the device does.

    Args:
      typed: the typed graph.
      inputs: few rows, as all values are held.
      evaluator: of that graph.

    Returns:
      Operator -> {"elements", "equal", "within_1ulp", "nonfinite": how many are finite on one side only, "max_of_amax":
      the largest difference, in parts of the value's amax, "rel_l2": of the worst node, "worst": that node}; of
      results in 16 bits.
    """
    types = infer_types(Model.load(typed))
    made = [node.output[0] for node in typed.graph.node if node.op_type != "Constant"]
    values = {**inputs, **pp.simulate(typed, inputs, outputs=made)}
    values = {name: _typed(value, types, name) for name, value in values.items()}
    found: dict[str, dict[str, Any]] = {}
    for node, result in evaluator.replay(values, skip=MOVERS):
        expected = values[node.output[0]]
        if expected.dtype.name not in ("float16", "bfloat16"):
            continue
        entry = found.setdefault(node.op_type, {**dict.fromkeys(COUNTS, 0), **dict.fromkeys(LARGEST, 0.0), "worst": ""})
        apart = steps_apart(expected, result.astype(expected.dtype))
        wide = expected.astype(np.float32)
        finite = np.isfinite(result) & np.isfinite(wide)
        a, b = np.where(finite, wide, 0), np.where(finite, result, 0)
        entry["elements"] += apart.size
        entry["equal"] += int((apart == 0).sum())
        entry["within_1ulp"] += int((apart <= 1).sum())
        entry["nonfinite"] += int((~finite & (apart > 0)).sum())
        largest = max_abs(a, b) / (float(np.abs(a).max(initial=0.0)) or 1.0)
        entry["max_of_amax"] = max(entry["max_of_amax"], largest)
        error = rel_l2(a, b)
        if error > entry["rel_l2"]:
            entry.update(rel_l2=error, worst=node.name)
    return found


MOVERS = frozenset(["Expand", "Gather", "Identity", "Reshape", "Slice", "Transpose", "Unsqueeze"])
COUNTS = ("elements", "equal", "within_1ulp", "nonfinite")
LARGEST = ("max_of_amax", "rel_l2")


def steps_apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many steps from value to value of their 16-bit type lie between each two; 0 for two NaN.

    Infinity is one step past the largest finite value; a NaN is 65536 steps from anything else.
    """

    def place(x: np.ndarray) -> np.ndarray:
        bits = x.view(np.int16).astype(np.int32)
        return np.where(bits < 0, -(bits & 0x7FFF), bits)

    nan_a, nan_b = np.isnan(a), np.isnan(b)
    apart = np.where(nan_a | nan_b, 1 << 16, np.abs(place(a) - place(b)))
    return np.where(nan_a & nan_b, 0, apart)


def _typed(value: np.ndarray, types: Mapping[Any, Any], name: str) -> np.ndarray:
    """A value of the simulation, which holds 16-bit values as float32, in the type that the graph gives it."""
    known = types.get(((), name))
    if known is None or value.dtype != np.float32:
        return value
    return value.astype(onnx.helper.tensor_dtype_to_np_dtype(known.elem_type))
