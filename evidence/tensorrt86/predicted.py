"""Predict whole engines of results.json on a CPU, with sums in FP32 and in FP16, beside what was measured.

    python -m evidence.tensorrt86.predicted [PRESET...] [--rows 40]
    python -m evidence.tensorrt86.predicted --plan CASES/massive/plan... [--gpu H100]

The engines are built with `--fp16` from the fused model, and from it with the head, or head and softmaxes, held to
FP32; `tf32` is FP32 with TF32 allowed, of which kernels round the operands to nearest or, in products of two computed
values, truncate them. With fewer rows than the 40 that were measured the worst one is smaller; means and relative
errors compare.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Literal

from evidence.tensorrt86.cases import HEAD, ROWS
from evidence.tensorrt86.table import RESULTS
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.diffing import compare
from precision_planner.model import NodeId
from precision_planner.rewriting import rewrite
from precision_planner.simulation.tf32 import Tf32

OUTPUT = "probability"
KEPT: dict[str, list[str]] = {
    "fp16-fused": [],
    "plan-head": [HEAD],
    "plan-softmax": [HEAD, "/encoder/*/Softmax"],
    "tf32": ["*"],
    "tf32-again": ["*"],
}
"""Kind of engine in results.json -> what it keeps in FP32."""
SIMULATIONS: dict[str, tuple[Literal["fp32", "fp16"], Tf32]] = {
    "FP32 sums": ("fp32", False),
    "FP16 sums": ("fp16", False),
    "TF32 nearest": ("fp32", "nearest"),
    "TF32 truncated": ("fp32", "truncated"),
}
"""How an engine is simulated -> (sums of its FP16 products, operands of its FP32 products)."""


def rows(preset: str, count: int) -> list[str]:
    """A row of the table for each engine and simulation."""
    measured = {
        (found["gpu"], found["kind"]): found["outputs"][OUTPUT]
        for found in json.loads(RESULTS.read_text())
        if found["case"] == preset and OUTPUT in found["outputs"]
    }
    spec = PRESETS[preset]
    source = build_bert_classifier(spec)
    inputs = {name: array[:count] for name, array in sample_inputs(spec, rows=ROWS, sequence=spec.sequence).items()}
    fused = rewrite(source, precision="fp32", verify=False).typed
    lines = []
    for kind, kept in KEPT.items():
        for name, (sums, tf32) in SIMULATIONS.items():
            if bool(tf32) != (kind.startswith("tf32")):
                continue
            found = compare(
                source, fused, inputs, simulate="fp16", semantics="fused", keep_fp32=kept, accumulation=sums,
                tf32=tf32, layers=False, self_check=False,
            ).outputs[OUTPUT]  # fmt: skip
            predicted = {"sad": found.get("sad"), "sad_mean": found.sad_mean, "rel_l2": found.get("rel_l2")}
            for gpu in sorted(gpu for gpu, measured_kind in measured if measured_kind == kind):
                cells = [preset, kind, gpu, name]
                for metric, value in predicted.items():
                    there = measured[gpu, kind][metric]
                    cells += [f"{value:.2g}", f"{there:.2g}", f"{there / value:.2f}"]
                lines.append("| " + " | ".join(cells) + " |")
    return lines


def predict_plan(folder: Path) -> dict[str, float]:
    """What a plan folder of `cases.py` is predicted to do on all rows of its case; its name says which preset."""
    plan = json.loads((folder / "plan.json").read_text())
    spec = PRESETS[folder.parent.name]
    source = build_bert_classifier(spec)
    fused = rewrite(source, precision="fp32", fuse=("layernorm",) if plan["fusions"] else (), verify=False).typed
    kept = [NodeId((), entry["outputs"][0]) for entry in plan["constraints"] if entry["precision"] == "fp32"]
    found = compare(
        source, fused, sample_inputs(spec, rows=ROWS, sequence=spec.sequence), simulate="fp16", semantics="fused",
        keep_fp32=kept, accumulation="fp16", tf32="truncated" if plan["build"]["tf32"] else False, layers=False,
        self_check=False,
    ).outputs[OUTPUT]  # fmt: skip
    return {"sad": float(found.get("sad")), "sad_mean": float(found.sad_mean), "rel_l2": float(found.get("rel_l2"))}


def store_plans(folders: list[str], gpu: str) -> None:
    """Put plans' predictions beside what was measured in results.json, and print them."""
    results = json.loads(RESULTS.read_text())
    for folder in map(Path, folders):
        predicted = predict_plan(folder)
        for result in results:
            if (result["gpu"], result["case"], result["kind"]) == (gpu, folder.parent.name, folder.name):
                result["predicted"] = predicted
                print(f"{folder}: {predicted['sad']:.2g}, measured {result['outputs'][OUTPUT]['sad']:.2g}", flush=True)
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("presets", nargs="*", default=["massive", "minilm"])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--plan", nargs="+", metavar="FOLDER")
    parser.add_argument("--gpu", default="H100")
    arguments = parser.parse_args()
    if arguments.plan:
        store_plans(arguments.plan, arguments.gpu)
        return
    heads = ["case", "engine", "GPU", "simulated"]
    heads += [
        f"{name}{what}" for name in ("SAD worst", "SAD mean", "relative L2") for what in ("", ", measured", ", ratio")
    ]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for preset in arguments.presets:
        print("\n".join(rows(preset, arguments.rows)), flush=True)


if __name__ == "__main__":
    main()
