"""New runs: exported architectures, typed for a target, drawn on a CPU, measured on a GPU.

`fresh.py make NAME OUT` exports, rewrites and draws one architecture, and prints a JSON line; `ort OUT UNTIL` and
`trt OUT UNTIL NUMBER OF` run all that was made, one JSON line a run.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

RUNTIMES = {"ort": "onnxruntime", "trt": "tensorrt-10-strong"}
"""What runs it -> the target that it is typed and simulated for."""

CLASSIFIERS = ("massive", "minilm", "base")
"""Presets of examples.bert_classifier, with 8 rows."""
ROWS = 8
TF32 = "tf32"
"""A third kind of run: the FP32 model with products in TF32, on both runtimes."""


def make(name: str, out: Path) -> dict[str, Any]:
    """Model, inputs, FP32 answers, typed models and what is predicted of them."""
    import precision_planner as pp
    from evidence.spread.drawing import predicted
    from evidence.spread.remade import strong
    from precision_planner.model import Model
    from precision_planner.model.session import Session

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    inputs, output = _export(name, folder)
    model = Model.load(folder / "model.onnx")
    with Session(model, [output]) as session:
        right = session.run(inputs)
    np.save(folder / "reference.npy", right[output])
    record: dict[str, Any] = {"model": name, "predicted": {}}
    for label, target in RUNTIMES.items():
        result = pp.rewrite(str(folder / "model.onnx"), target=target, inputs=inputs, verify=False)
        result.save(str(folder / f"{label}.onnx"), force=True)
        record["predicted"][label] = predicted(result.model, [inputs], [right], **strong(target))
    record["predicted"][TF32] = predicted(model, [inputs], [right], precision="tf32")
    (folder / "made.json").write_text(json.dumps({"output": output, **record}))
    return record


def _export(name: str, folder: Path) -> tuple[dict[str, np.ndarray], str]:
    if name in CLASSIFIERS:
        import onnx

        from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs

        spec = PRESETS[name]
        onnx.save(build_bert_classifier(spec), str(folder / "model.onnx"))
        inputs = dict(sample_inputs(spec, rows=ROWS, sequence=spec.sequence))
        np.savez(folder / "inputs.npz", **inputs)
        return inputs, "probability"
    from evidence.zoo.convert import export

    return export(name, "torchscript", folder), "y"


def made(out: Path) -> list[tuple[Path, dict[str, Any], dict[str, np.ndarray], np.ndarray]]:
    """(folder, what `make` said, inputs, FP32 answer) of everything made."""
    found = []
    for path in sorted(out.glob("*/made.json")):
        with np.load(path.parent / "inputs.npz") as stored:
            inputs = dict(stored)
        found.append((path.parent, json.loads(path.read_text()), inputs, np.load(path.parent / "reference.npy")))
    return found


def on_onnxruntime(out: Path, until: float) -> None:
    """The CUDA provider, optimizations off and on, and FP32 with TF32."""
    import onnxruntime as ort

    from evidence.spread.drawing import errors

    kinds = {"ort": ("ort.onnx", "0"), TF32: ("model.onnx", "1")}
    levels = {"off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL, "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL}
    with open(out / "ort.jsonl", "a") as file:
        for folder, said, inputs, right in made(out):
            for (kind, (model, tf32)), (level, value) in ((k, v) for k in kinds.items() for v in levels.items()):
                if time.time() > until:
                    return
                record = {"model": folder.name, "runtime": "onnxruntime CUDA", "kind": kind, "level": level}
                options = ort.SessionOptions()
                options.log_severity_level, options.graph_optimization_level = 4, value
                providers = [("CUDAExecutionProvider", {"use_tf32": tf32}), "CPUExecutionProvider"]
                try:
                    session = ort.InferenceSession(str(folder / model), options, providers=providers)
                    if "CUDAExecutionProvider" not in session.get_providers():
                        raise RuntimeError("no CUDA provider")
                    record["measured"] = errors(right, session.run([said["output"]], inputs)[0])
                except Exception as failure:  # recorded, and the next one goes on
                    record["failure"] = f"{type(failure).__name__}: {failure}"[:300]
                file.write(json.dumps(record) + "\n")
                file.flush()


def on_tensorrt(out: Path, until: float, number: int, of: int) -> None:
    """TensorRT 10.6, strongly typed, and FP32 with TF32: a share of the models."""
    import onnx
    import torch

    from evidence.spread.drawing import errors
    from evidence.tensorrt106.harness import Case, Machine

    machine = Machine()
    with open(out / f"trt.{number}.jsonl", "a") as file:
        for folder, said, inputs, right in made(out)[number::of]:
            for kind, (file_name, flags) in {"trt": ("trt.onnx", ()), TF32: ("model.onnx", ("TF32",))}.items():
                if time.time() > until:
                    return
                record: dict[str, Any] = {"model": folder.name, "runtime": "TensorRT 10.6", "kind": kind}

                def measure(found: Any, _: Any, output: str = said["output"], right: np.ndarray = right) -> Any:
                    same = [value for value in found[0] if value.shape == right.shape]
                    each = [errors(right, value) for value in same]
                    return min(each, key=lambda entry: entry["rel_l2"])  # of several outputs of one shape: the one

                try:
                    model = onnx.load(str(folder / file_name))
                    for value in model.graph.input:  # one shape: no profile is needed
                        if value.name in inputs:
                            dims = value.type.tensor_type.shape.dim
                            for dim, size in zip(dims, inputs[value.name].shape, strict=False):
                                dim.dim_value = size
                    case = Case(
                        "spread", f"{folder.name} {kind}", lambda: None, lambda i=inputs: [i],  # type: ignore[arg-type,return-value]
                        lambda _, r=right: [torch.from_numpy(r.astype(np.float64))], measure,
                        strong=kind == "trt", flags=flags, level=2,
                    )  # fmt: skip
                    plan, _ = machine.build(case, model)
                    if plan is None:
                        errors_said = [message for level, message in machine.log.lines if level == "ERROR"]
                        raise RuntimeError(str(errors_said[-1:]))
                    engine = machine.runtime.deserialize_cuda_engine(plan)
                    record["measured"] = machine.run(case, engine)["measured"]
                except Exception as failure:  # recorded, and the next one goes on
                    record["failure"] = f"{type(failure).__name__}: {failure}"[:300]
                file.write(json.dumps(record) + "\n")
                file.flush()


def main() -> None:
    """One stage, one process."""
    warnings.simplefilter("ignore")
    what, *words = sys.argv[1:]
    if what == "make":
        try:
            said = make(words[0], Path(words[1]))
        except Exception as failure:  # recorded: one that cannot be made costs itself alone
            said = {"model": words[0], "failure": f"{type(failure).__name__}: {failure}"[:300]}
        print(json.dumps(said))
    elif what == "ort":
        on_onnxruntime(Path(words[0]), float(words[1]))
    else:
        on_tensorrt(Path(words[0]), float(words[1]), int(words[2]), int(words[3]))


if __name__ == "__main__":
    main()
