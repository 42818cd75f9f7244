"""Export one architecture and convert it with every tool, in a process of its own: `convert.py NAME EXPORTER OUT`."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx


def export(name: str, exporter: str, folder: Path) -> dict[str, np.ndarray]:
    """Write model.onnx with a batch that may vary where the exporter can, and inputs.npz."""
    import torch

    from evidence.zoo.architectures import ARCHITECTURES

    torch.manual_seed(0)
    module, x = ARCHITECTURES[name]()
    module = module.eval()
    path = str(folder / "model.onnx")
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    with torch.no_grad():
        if exporter == "torchscript":
            torch.onnx.export(
                module,
                (x,),
                path,
                opset_version=17,
                dynamo=False,
                dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
                **names,
            )
        else:
            torch.onnx.export(module, (x,), path, opset_version=18, dynamo=True, external_data=False, **names)
    inputs = {"x": x.numpy()}
    np.savez(folder / "inputs.npz", **inputs)
    return inputs


def inputs_of(model: Path) -> dict[str, np.ndarray]:
    """The example input that the reference was computed on; every tool that calibrates is given the same."""
    with np.load(model.parent / "inputs.npz") as stored:
        return dict(stored)


def ours(model: Path, out: Path) -> dict[str, Any]:
    """`planner rewrite`, FP16."""
    import precision_planner as pp

    result = pp.rewrite(str(model), inputs=inputs_of(model), verify=False)
    result.save(str(out), force=True)
    return {"casts": result.report["casts"], "kept": len(result.report["kept_fp32"])}


def _planned(model: Path, out: Path, **options: Any) -> dict[str, Any]:
    import precision_planner as pp

    planned = pp.plan(str(model), inputs=inputs_of(model), **options)
    folder = out.with_suffix("")
    planned.save(str(folder), force=True)
    if (folder / "model.onnx").exists():
        out.write_bytes((folder / "model.onnx").read_bytes())
    plan = planned.plan
    return {"counts": plan.counts, "predicted": plan.predicted, "passed": plan.passed, "tf32": plan.build.get("tf32")}


def ours_bf16(model: Path, out: Path) -> dict[str, Any]:
    """`planner plan --precision bf16 --target onnxruntime`: what has no kernel there stays FP32."""
    return _planned(model, out, target="onnxruntime", precision="bf16", policy="rules")


def ours_planned(model: Path, out: Path) -> dict[str, Any]:
    """`planner plan --target onnxruntime --tolerance rel_l2=1e-3`."""
    return _planned(model, out, target="onnxruntime", tolerance="rel_l2=1e-3", budget="40s")


def weak_plan(model: Path, out: Path) -> dict[str, Any]:
    """`planner plan --target tensorrt-10`, by rules."""
    return _planned(model, out, target="tensorrt-10", policy="rules")


def strong_plan(model: Path, out: Path) -> dict[str, Any]:
    """`planner plan --target tensorrt-10-strong --tolerance rel_l2=2e-3`."""
    return _planned(model, out, target="tensorrt-10-strong", tolerance="rel_l2=2e-3", budget="50s")


def ort_float16(model: Path, out: Path) -> dict[str, Any]:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(model)), keep_io_types=True), str(out))
    return {}


def converter_common(model: Path, out: Path) -> dict[str, Any]:
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(str(model)), keep_io_types=True), str(out))
    return {}


def autocast(model: Path, out: Path) -> dict[str, Any]:
    from modelopt.onnx.autocast import convert_to_mixed_precision

    inputs = str(model.parent / "inputs.npz")
    onnx.save(convert_to_mixed_precision(str(model), keep_io_types=True, calibration_data=inputs), str(out))
    return {}


def onnxsim(model: Path, out: Path) -> dict[str, Any]:
    """Simplified by onnxsim, then onnxruntime's float16."""
    import onnxsim as tool
    from onnxruntime.transformers.float16 import convert_float_to_float16

    simplified, _ = tool.simplify(onnx.load(str(model)))
    onnx.save(convert_float_to_float16(simplified, keep_io_types=True), str(out))
    return {}


def onnxslim(model: Path, out: Path) -> dict[str, Any]:
    """Slimmed by onnxslim, then onnxruntime's float16."""
    import onnxslim as tool
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(tool.slim(onnx.load(str(model))), keep_io_types=True), str(out))
    return {}


IMPORTS = {
    "ort_float16": ("onnxruntime.transformers.float16",), "converter_common": ("onnxconverter_common.float16",),
    "autocast": ("modelopt.onnx.autocast",), "onnxsim": ("onnxsim", "onnxruntime.transformers.float16"),
    "onnxslim": ("onnxslim", "onnxruntime.transformers.float16"),
}  # fmt: skip
Tool = Callable[[Path, Path], dict[str, Any]]
TOOLS: dict[str, Tool] = {
    "ours": ours, "ours_bf16": ours_bf16, "ours_planned": ours_planned, "ort_float16": ort_float16,
    "converter_common": converter_common, "autocast": autocast, "onnxsim": onnxsim, "onnxslim": onnxslim,
}  # fmt: skip
ENGINE_PLANS: dict[str, Tool] = {"weak_plan": weak_plan, "strong_plan": strong_plan}


def predictions(folder: Path) -> dict[str, Any]:
    """What the simulation says of our typed files' relative L2 error, with sums in FP32 and in FP16."""
    import precision_planner as pp

    inputs, reference = inputs_of(folder / "model.onnx"), np.load(folder / "reference.npy")
    found: dict[str, Any] = {}
    for label, file, accumulation in (
        ("ours", "ours", "fp32"), ("ours_bf16", "ours_bf16", "fp32"), ("ours_planned", "ours_planned", "fp32"),
        ("ours_fp16_sums", "ours", "fp16"), ("autocast", "autocast", "fp32"),
    ):  # fmt: skip
        path = folder / f"{file}.onnx"
        if not path.exists():
            continue
        try:
            value = next(iter(pp.simulate(str(path), inputs, accumulation=accumulation).values()))
            found[label] = relative(np.asarray(value), reference)
        except Exception as failure:
            found[f"{label}_failure"] = f"{type(failure).__name__}: {failure}"[:200]
        print(json.dumps(found), flush=True)
    return found


def relative(found: np.ndarray, right: np.ndarray) -> float:
    """Relative L2 error; infinite where anything is not finite."""
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - right) / (np.linalg.norm(right) or 1.0))


def peak_mb() -> int | None:
    """This process's peak of resident memory; getrusage's figure is inherited from the parent through exec."""
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) // 1024


def one_tool(tool: str, folder: Path) -> dict[str, Any]:
    """One conversion in this process: its seconds without imports, and the process's peak of memory in MB."""
    said: dict[str, Any] = {}
    model, out = folder / "model.onnx", folder / f"{tool}.onnx"
    convert = {**TOOLS, **ENGINE_PLANS}[tool]
    with contextlib.suppress(Exception):  # imports are not what is timed; a missing tool is recorded below
        for name in IMPORTS.get(tool, ("precision_planner.planning.plan",)):
            importlib.import_module(name)
    said["imported_mb"] = peak_mb()
    started = time.perf_counter()
    try:
        said |= convert(model, out)
    except BaseException as failure:
        said["failure"] = f"{type(failure).__name__}: {failure}"[:300]
    said["seconds"] = round(time.perf_counter() - started, 2)
    said["peak_mb"] = peak_mb()
    return said


def in_a_process(seconds: float, *words: str) -> dict[str, Any]:
    """The last JSON line that a process of this module prints; a failure's words where there is none."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "evidence.zoo.convert", *words], capture_output=True, text=True, timeout=seconds
        )
        printed, why = done.stdout, done.stderr[-300:]
    except subprocess.TimeoutExpired as late:
        printed, why = (
            str(late.stdout or b"", "utf-8") if isinstance(late.stdout, bytes) else "",
            f"over {seconds:.0f} s",
        )
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1])) if lines else {"failure": why}


def main() -> None:
    """Everything that needs no GPU, for one export; prints one JSON line at the end."""
    warnings.simplefilter("ignore")
    if sys.argv[1] == "--tool":
        print(json.dumps(one_tool(sys.argv[2], Path(sys.argv[3]))))
        return
    if sys.argv[1] == "--predict":
        predictions(Path(sys.argv[2]))
        return
    name, exporter, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    wanted = sys.argv[4].split(",") if len(sys.argv) > 4 else list(TOOLS)
    folder = out / f"{name}.{exporter}"
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"model": name, "exporter": exporter, "tools": {}}
    try:
        import onnxruntime as ort

        inputs = export(name, exporter, folder)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        reference = session.run(None, inputs)[0].astype(np.float64)
        np.save(folder / "reference.npy", reference)
        record["nodes"] = len(onnx.load(str(folder / "model.onnx"), load_external_data=False).graph.node)
    except Exception as failure:
        record["failure"] = f"{type(failure).__name__}: {failure}"[:300]
        print(json.dumps(record))
        return
    for tool in wanted:
        record["tools"][tool] = in_a_process(100, "--tool", tool, str(folder))
    record["predicted"] = in_a_process(60, "--predict", str(folder))
    (folder / "whole").touch()  # last: what has one can be run
    print(json.dumps(record))


if __name__ == "__main__":
    main()
