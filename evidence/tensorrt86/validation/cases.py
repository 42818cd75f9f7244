"""Make the case folders of the validation: models without their random weights, inputs, and what we predict.

    python -m evidence.tensorrt86.validation.cases OUT [CASE...]
    python -m evidence.tensorrt86.validation.cases OUT --again [CASE...]     predict those that are there anew

Runs where the planner and torch are installed; needs no GPU. Each CASE gets OUT/CASE/model.onnx, inputs.npz and
case.json (recipes of the weights, predictions); OUT/jobs.jsonl says which engines `job.py` builds of it. OUT.tar.gz
holds all of it, to be carried to the GPU machine.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import precision_planner as pp
from evidence.tensorrt86.cases import reference
from evidence.tensorrt86.validation import seeded
from evidence.tensorrt86.validation.jobs import jobs_of, searches_of
from evidence.tensorrt86.validation.metrics import compare, verdict
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Case:
    """One model: how it is made, and by which exporter."""

    make: Callable[[Any], Any]
    exporter: str
    opset: int
    inputs: Callable[[Any], Any]
    seed: int = 0
    wrap: bool = True
    pick: str | int = 0


def _ids(a: Any) -> Any:
    return a.ids()


def _image(rows: int, size: int) -> Callable[[Any], Any]:
    return lambda a: a.image(rows, size)


LOGITS: dict[str, Any] = {"pick": "logits"}
SEGFORMERS: dict[str, Case] = {
    "segformer": Case(lambda a: a.segformer(), "torchscript", 16, _image(1, 512), **LOGITS),
    "segformer-224": Case(lambda a: a.segformer(), "torchscript", 13, _image(2, 224), **LOGITS),
    "segformer-spread": Case(lambda a: a.spread(a.segformer()), "torchscript", 16, _image(1, 256), **LOGITS),
    "segformer-128": Case(lambda a: a.segformer(), "torchscript", 16, _image(2, 128), **LOGITS),
    "segformer-small": Case(lambda a: a.segformer_small(), "torchscript", 16, _image(2, 128), **LOGITS),
    "segformer-two-stages-64": Case(lambda a: a.segformer_two_stages(), "torchscript", 16, _image(2, 64), **LOGITS),
    "segformer-shallow-128": Case(lambda a: a.segformer_shallow(), "torchscript", 16, _image(2, 128), **LOGITS),
}
"""Decomposed forms; jobs.py says in which of them the first wrong value is searched for."""
CASES: dict[str, Case] = {
    **SEGFORMERS,
    "segformer-fused": Case(lambda a: a.segformer(), "torchscript", 17, _image(1, 512), **LOGITS),
    "segformer-shallow-128-fused": Case(lambda a: a.segformer_shallow(), "torchscript", 17, _image(2, 128), **LOGITS),
    "bert": Case(lambda a: a.bert(), "torchscript", 13, _ids),
    "bert-dynamo": Case(lambda a: a.bert(), "dynamo", 18, _ids),
    "bert-tiny-activations": Case(lambda a: a.bert_tiny_activations(0.011), "torchscript", 13, _ids),
    "bert-tinier-activations": Case(lambda a: a.bert_tiny_activations(0.003), "torchscript", 13, _ids),
    "bert-huge-logits": Case(lambda a: a.bert_huge_logits(), "torchscript", 17, _ids),
    "minilm": Case(lambda a: a.minilm(), "torchscript", 13, lambda a: a.ids(vocabulary=2048)),
    "llama": Case(lambda a: a.llama(), "torchscript", 17, _ids),
    "llama-outliers": Case(lambda a: a.llama_outliers(), "dynamo", 18, _ids),
    "gpt2": Case(lambda a: a.gpt2(), "dynamo", 18, _ids),
    "gpt2-overflow": Case(lambda a: a.gpt2_overflow(), "torchscript", 17, _ids),
    "vit": Case(lambda a: a.vit(), "torchscript", 13, _image(4, 224)),
    "vit-tiny-linears": Case(lambda a: a.vit_tiny_linears(), "torchscript", 17, _image(4, 224)),
    "deit-dynamo": Case(lambda a: a.deit(), "dynamo", 18, _image(4, 224), **LOGITS),
    "unet": Case(lambda a: a.UNet(), "torchscript", 17, _image(2, 64), wrap=False),
    "style": Case(lambda a: a.Style(), "torchscript", 13, lambda a: a.pixels(1, 128), wrap=False),
    "style-written": Case(lambda a: a.Style(True), "torchscript", 13, lambda a: a.pixels(1, 128), wrap=False),
    "sam": Case(lambda a: a.sam(), "torchscript", 16, _image(1, 512)),
    "convnext": Case(lambda a: a.convnext(), "torchscript", 16, _image(2, 128), **LOGITS),
    "convnext-dynamo": Case(lambda a: a.convnext(), "dynamo", 18, _image(2, 128), **LOGITS),
    "poolformer": Case(lambda a: a.poolformer(), "torchscript", 16, _image(2, 128), **LOGITS),
    "mobilevit": Case(lambda a: a.mobilevit(), "torchscript", 16, _image(4, 256), **LOGITS),
    "mobilevit-128": Case(lambda a: a.mobilevit(128), "torchscript", 16, _image(4, 128), **LOGITS),
    "swin": Case(lambda a: a.swin(), "torchscript", 16, _image(4, 224)),
    "resnet": Case(lambda a: a.resnet(), "torchscript", 13, _image(2, 128), **LOGITS),
    "resnet-pixels": Case(lambda a: a.resnet_pixels(), "torchscript", 13, lambda a: a.pixels(2, 128), **LOGITS),
    "t5": Case(lambda a: a.t5(), "torchscript", 13, _ids),
    "qwen3-dynamo": Case(lambda a: a.qwen3(), "dynamo", 18, _ids),
    "deberta": Case(lambda a: a.deberta(), "torchscript", 16, lambda a: a.ids(4)),
    "whisper": Case(lambda a: a.whisper(), "torchscript", 16, lambda a: a.mel()),
    "probe-norm": Case(lambda a: a.NormProbe(False), "torchscript", 16, lambda a: a.grid(), wrap=False),
    "probe-conv-norm": Case(lambda a: a.NormProbe(True), "torchscript", 16, lambda a: a.grid(), wrap=False),
}
BERTS = ("massive", "ffn")
"""Sample classifiers of the repository: made anew on the GPU machine, they are too large to carry."""
ROWS = 40


WAYS: dict[str, dict[str, Any]] = {
    "fp16-sums": {"semantics": "fused", "accumulation": "fp16"},
    "fp32-sums": {"semantics": "fused", "accumulation": "fp32"},
    "typed": {"semantics": "typed", "accumulation": "fp32"},
}
"""What is predicted: as plans for weakly typed targets are; with products that add up in FP32; without any fusion."""


def predict(path: Path, inputs: Arrays) -> dict[str, Any]:
    """Error and verdict of every way to simulate FP16, against onnxruntime's FP32 on the same inputs."""
    expected = reference(path, inputs)
    found: dict[str, Any] = {}
    for way, options in WAYS.items():
        start = time.perf_counter()
        actual = pp.simulate(path, inputs, precision="fp16", weights="saturate", **options)
        outputs = {name: compare(expected[name], actual[name]) for name in expected}
        seconds = round(time.perf_counter() - start, 1)
        found[way] = {"outputs": outputs, "verdict": verdict(outputs), "seconds": seconds}
    norms = {name: [float(np.linalg.norm(x)), float(x.std(axis=0).mean())] for name, x in expected.items()}
    return {"predicted": found, "expected_norms": norms}


def again(folder: Path) -> None:
    """Predict a case that is there already, as the simulation is now."""
    about = json.loads((folder / "case.json").read_text())
    model = build_bert_classifier(PRESETS[about["preset"]]) if "preset" in about else seeded.load(folder)
    with np.load(folder / "inputs.npz") as file, tempfile.TemporaryDirectory() as kept:
        whole = Path(kept) / "whole.onnx"
        onnx.save(model, whole)
        about["predicted"] = predict(whole, dict(file))["predicted"]
    (folder / "case.json").write_text(json.dumps(about, indent=1))


def make(folder: Path, name: str) -> dict[str, Any]:
    """One case folder; its case.json."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = Path(tempfile.mkdtemp()) / "whole.onnx"
    about: dict[str, Any] = {"case": name, "recipes": {}}
    if name in BERTS:
        spec = PRESETS[name]
        inputs = dict(sample_inputs(spec, rows=ROWS, sequence=spec.sequence))
        onnx.save(build_bert_classifier(spec), whole)
        about |= {"preset": name, "exporter": "sample", "opset": spec.opset, "rows": ROWS}
    else:
        import torch

        from evidence.tensorrt86.validation import architectures
        from evidence.tensorrt86.validation.export import export

        case = CASES[name]
        torch.manual_seed(case.seed)
        with torch.no_grad():
            module = case.make(architectures)
            module = architectures.First(module, case.pick) if case.wrap else module
            x = case.inputs(architectures)
        names = getattr(module, "names", ["y"])
        model = export(module.eval(), x, case.exporter, case.opset, names)
        inputs = {"x": x.numpy()}
        about |= {"exporter": case.exporter, "opset": case.opset, "recipes": seeded.strip(model)}
        onnx.save(model, folder / "model.onnx")
        onnx.save(seeded.restore(model, about["recipes"]), whole)
    np.savez_compressed(folder / "inputs.npz", **inputs)
    about |= predict(whole, inputs)
    shutil.rmtree(whole.parent)
    (folder / "case.json").write_text(json.dumps(about, indent=1))
    return about


def pack(out: Path) -> None:
    """Write the list of jobs, and the archive to carry."""
    made = [json.loads(path.read_text()) for path in sorted(out.glob("*/case.json"))]
    (out / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for about in made for job in jobs_of(about)))
    searches = searches_of({about["case"] for about in made})
    (out / "searches.jsonl").write_text("".join(json.dumps(search) + "\n" for search in searches))
    with tarfile.open(out.with_suffix(".tar.gz"), "w:gz") as archive:
        archive.add(out, ".")


def main(arguments: list[str]) -> None:
    """Make the cases named, or all; a case that cannot be made must not cost the others."""
    out = Path(arguments[0])
    if "--again" in arguments:
        names = arguments[2:] or sorted(path.parent.name for path in out.glob("*/case.json"))
        for name in names:
            again(out / name)
            print(name, flush=True)
        return
    for name in arguments[1:] or [*CASES, *BERTS]:
        start = time.perf_counter()
        try:
            about = make(out / name, name)
        except Exception:  # torch raises anything
            print(f"{name}: not made\n{traceback.format_exc(limit=-3)}", flush=True)
            continue
        said = {
            semantics: (p["verdict"], [f"{o['rel_l2']:.2g}" for o in p["outputs"].values()])
            for semantics, p in about["predicted"].items()
        }
        size = sum(f.stat().st_size for f in (out / name).iterdir()) / 1e6
        seconds = time.perf_counter() - start
        print(f"{name}: {said}, norms {about['expected_norms']}, {size:.2f} MB, {seconds:.0f} s", flush=True)
    pack(out)


if __name__ == "__main__":
    main(sys.argv[1:])
