"""Export one architecture and convert it with every tool, in a process of its own: `convert.py NAME EXPORTER OUT`."""

from __future__ import annotations

import json
import resource
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


def ours(model: Path, out: Path) -> dict[str, Any]:
    import precision_planner as pp

    result = pp.rewrite(str(model))
    result.save(str(out), force=True)
    return {"casts": result.report["casts"], "kept": len(result.report["kept_fp32"])}


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


TOOLS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "ours": ours, "ort_float16": ort_float16, "converter_common": converter_common, "autocast": autocast,
    "onnxsim": onnxsim, "onnxslim": onnxslim,
}  # fmt: skip


def plans(folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Plans for TensorRT 10.6, weak and strong, each a folder; what they predict."""
    import precision_planner as pp

    found: dict[str, Any] = {}
    for label, target in (("weak_plan", "tensorrt-10"), ("strong_plan", "tensorrt-10-strong")):
        started = time.perf_counter()
        try:
            planned = pp.plan(str(folder / "model.onnx"), target=target, inputs=inputs, policy="rules")
            planned.save(str(folder / label), force=True)
            found[label] = {"predicted": planned.plan.predicted}
        except Exception as failure:
            found[label] = {"failure": f"{type(failure).__name__}: {failure}"[:300]}
        found[label]["seconds"] = round(time.perf_counter() - started, 2)
    return found


def predict(path: Path, inputs: dict[str, np.ndarray], reference: np.ndarray, accumulation: str) -> float:
    """What our simulation says the typed file's relative L2 error is."""
    import precision_planner as pp

    value = next(iter(pp.simulate(str(path), inputs, accumulation=accumulation).values()))  # type: ignore[arg-type]
    return relative(np.asarray(value), reference)


def relative(found: np.ndarray, right: np.ndarray) -> float:
    """Relative L2 error; infinite where anything is not finite."""
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - right) / (np.linalg.norm(right) or 1.0))


def main() -> None:
    """Everything that needs no GPU, for one export; prints one JSON line at the end."""
    warnings.simplefilter("ignore")
    name, exporter, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    with_plans = "--plans" in sys.argv
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
    for tool, convert in TOOLS.items():
        started = time.perf_counter()
        said: dict[str, Any] = {}
        try:
            said = convert(folder / "model.onnx", folder / f"{tool}.onnx")
        except BaseException as failure:
            said["failure"] = f"{type(failure).__name__}: {failure}"[:300]
        said["seconds"] = round(time.perf_counter() - started, 2)
        said["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        record["tools"][tool] = said
        (folder / "record.json").write_text(json.dumps(record))
    try:
        for accumulation in ("fp32", "fp16"):
            record[f"predicted_{accumulation}"] = predict(folder / "ours.onnx", inputs, reference, accumulation)
    except Exception as failure:
        record["prediction_failure"] = f"{type(failure).__name__}: {failure}"[:300]
    if with_plans:
        record["plans"] = plans(folder, inputs)
    (folder / "record.json").write_text(json.dumps(record))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
