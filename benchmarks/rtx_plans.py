"""Plans of the sample models, built by TensorRT-RTX without a GPU: what was asked, what came out, attention kept.

    python -m benchmarks rtx_plans

Every row is a whole `planner plan` and `planner build`: nodes asked for in FP16 and FP32, how many of them are not so
in the typed network, the kernels by type, and fused attention kernels beside those of plain FP16.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from examples.bert_classifier import PRESETS, build_bert_classifier
from precision_planner.emitting.attention import attention_report
from precision_planner.emitting.build_report import judge_build, logged_kernels
from precision_planner.emitting.building import run_build
from precision_planner.model import Model
from precision_planner.planning import plan

NAMES = ("tiny", "tiny-massive", "tiny-ffn", "massive", "ffn", "minilm")
HEADER = (
    "| model | plan s | build s | fp16 asked | fp32 asked | not so | kernels fp16/fp32 | attention | plain | lost by |"
)


def row(name: str, folder: Path) -> str:
    """Plan, build and judge one model."""
    started = time.perf_counter()
    planned = plan(Model.load(build_bert_classifier(PRESETS[name])), target="tensorrt-rtx", verify=False)
    planned.save(folder)
    planning = time.perf_counter() - started
    started = time.perf_counter()
    run = run_build(folder)
    building = time.perf_counter() - started
    report = judge_build(run)
    if run.engine is None or report.inspection is None:
        return f"| {name} | {planning:.1f} | {building:.1f} | did not build: {run.reason} |"
    attention = attention_report(Model.load(folder / "model.onnx"), run.plan, logged_kernels(run.log))
    asked = {kind: sum(outcome.asked == kind for outcome in report.outcomes) for kind in ("fp16", "fp32")}
    kernels = report.inspection.by_layers
    costs = "; ".join(f"{cost.nodes[0]} ({cost.reason[:60]})" for cost in attention.costs) or attention.reason or "-"
    return (
        f"| {name} | {planning:.1f} | {building:.1f} | {asked['fp16']} | {asked['fp32']} | {len(report.unmet)} | "
        f"{kernels.get('fp16', 0)}/{kernels.get('fp32', 0)} | {attention.planned} | {attention.plain} | {costs} |"
    )


def main() -> None:
    print(HEADER)
    print("|" + "---|" * (HEADER.count("|") - 1))
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            print(row(name, Path(folder) / name), flush=True)


if __name__ == "__main__":
    main()
