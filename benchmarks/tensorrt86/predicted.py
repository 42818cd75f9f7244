"""Predict whole engines of results.json on a CPU, with sums in FP32 and in FP16, beside what was measured.

    python -m benchmarks.tensorrt86.predicted [PRESET...] [--rows 40]

The engines are built with `--fp16` from the fused model, and from it with the head, or head and softmaxes, held to
FP32. With fewer rows than the 40 that were measured the worst one is smaller; means and relative errors compare.
"""

from __future__ import annotations

import argparse
import json
from typing import Literal

from benchmarks.tensorrt86.cases import HEAD, ROWS
from benchmarks.tensorrt86.table import RESULTS
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.diffing import compare
from precision_planner.rewriting import rewrite

OUTPUT = "probability"
KEPT: dict[str, list[str]] = {
    "fp16-fused": [],
    "plan-head": [HEAD],
    "plan-softmax": [HEAD, "/encoder/*/Softmax"],
    "tf32": ["*"],
    "tf32-again": ["*"],
}
"""Kind of engine in results.json -> what it keeps in FP32."""
SUMS: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")


def rows(preset: str, count: int) -> list[str]:
    """A row of the table for each engine and accumulation."""
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
        for sums in SUMS if not kind.startswith("tf32") else SUMS[:1]:
            found = compare(
                source, fused, inputs, simulate="fp16", semantics="fused", keep_fp32=kept, accumulation=sums,
                tf32=kind.startswith("tf32"), layers=False, self_check=False,
            ).outputs[OUTPUT]  # fmt: skip
            predicted = {"sad": found.get("sad"), "sad_mean": found.sad_mean, "rel_l2": found.get("rel_l2")}
            for gpu in sorted(gpu for gpu, measured_kind in measured if measured_kind == kind):
                cells = [preset, kind, gpu, sums]
                for name, value in predicted.items():
                    there = measured[gpu, kind][name]
                    cells += [f"{value:.2g}", f"{there:.2g}", f"{there / value:.2f}"]
                lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("presets", nargs="*", default=["massive", "minilm"])
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    heads = ["case", "engine", "GPU", "sums"]
    heads += [
        f"{name}{what}" for name in ("SAD worst", "SAD mean", "relative L2") for what in ("", ", measured", ", ratio")
    ]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for preset in arguments.presets:
        print("\n".join(rows(preset, arguments.rows)), flush=True)


if __name__ == "__main__":
    main()
