"""What `make demo` shows: two classifiers, FP16 as it stands, and FP16 as planned.

The first is a BERT classifier with massive activations, whose LayerNorm squares pass 65504; the second carries the
trained weights of MiniLM. Both are as the TorchScript exporter writes them at opset 13. Everything is computed here,
on a CPU: FP16 is simulated by explicit rounding, and the planned graph is parsed and built by TensorRT-RTX.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs

ROWS = 40
GARBAGE = 0.1
"""A summed absolute difference of the probabilities a row above this is no longer the model's answer."""
PLANNED = 3e-3
"""The tolerance that the plan is asked for: what rules alone keep with the room that a search leaves for the device."""
TARGET = "onnxruntime"
"""Its CUDA provider adds up products of halves in FP32. TensorRT does so in FP16, which takes minutes to simulate."""
SHOWN = 2e-3
"""What the plan must keep to as simulated."""


@dataclass(frozen=True)
class Result:
    """What was found for one model."""

    title: str
    as_it_stands: float
    planned: float
    top1: float
    norms: int
    accounted: int
    bytes_before: int
    bytes_after: int
    engine: str


def show(preset: str, title: str, folder: Path, console: Console) -> Result:
    """Run the whole path on one preset and print it."""
    spec = PRESETS[preset]
    console.rule(title)
    folder.mkdir(parents=True, exist_ok=True)
    path, inputs_path = folder / "model.onnx", folder / "inputs.npz"
    onnx.save(build_bert_classifier(spec), path)
    inputs = dict(sample_inputs(spec, rows=ROWS, sequence=spec.sequence))
    np.savez(inputs_path, **inputs)

    console.print(f"\n$ planner analyze {path}")
    analysis = pp.analyze(path)
    norms = [norm for norm in analysis.normalizations if norm.kind == "layer_normalization"]
    forms = Counter(norm.form for norm in norms)
    model = analysis.to_dict()["model"]
    console.print(
        f"opset {model['opset']}, {model['nodes']} nodes, {model['weight_bytes'] / 1e6:.0f} MB of weights; "
        f"LayerNorm: {', '.join(f'{count} {form}' for form, count in forms.items())}"
    )
    for severity, count in Counter(finding.severity for finding in analysis.findings).items():
        console.print(f"{count} findings: {severity}")
    for name, warning in analysis.to_dict()["tensorrt_warnings"].items():
        if isinstance(warning, dict) and warning.get("count"):
            console.print(f"TensorRT would warn: {warning['count']} weights are affected by {name}")

    console.print(f"\n$ planner diff {path} {path} --simulate fp16 --semantics fused --inputs {inputs_path}")
    before = pp.diff(path, path, inputs, simulate="fp16", semantics="fused", weights="saturate", layers=False)
    console.print(f"FP16 as it stands: {before.verdict}; SAD a row {before.outputs['probability'].sad:.3g}")

    plan_folder = folder / "plan"
    console.print(
        f"\n$ planner plan {path} -o {plan_folder} --target {TARGET} --inputs {inputs_path} "
        f"--tolerance probability:sad={PLANNED}"
    )
    planned = pp.plan(path, target=TARGET, inputs=inputs, tolerance={"probability:sad": PLANNED})
    planned.save(plan_folder, force=True)
    console.print(f"FP16 as planned: {planned.summary}")
    fused = sum(entry["kind"] == "layer_normalization" for entry in planned.plan.fusions)
    kept = sum(node.op_type == "LayerNormalization" and node.precision == "fp32" for node in planned.plan.nodes)
    _norm_table(planned, console)
    return Result(
        title=title,
        as_it_stands=before.outputs["probability"].sad,
        planned=planned.diff.outputs["probability"].sad,
        top1=planned.diff.outputs["probability"].top1,
        norms=len(norms),
        accounted=min(fused, kept) + forms.get("native", 0),
        bytes_before=path.stat().st_size,
        bytes_after=(plan_folder / "model.onnx").stat().st_size,
        engine=_build(plan_folder / "model.onnx"),
    )


def _norm_table(planned: Any, console: Console) -> None:
    table = Table(title="Every LayerNorm, as planned: statistics in FP32, data in FP16", title_justify="left", box=None)
    table.add_column("LayerNorm")
    for column in ("|x| up to", "squares up to", "rule"):
        table.add_column(column, justify="right")
    for node in planned.plan.nodes:
        if node.op_type == "LayerNormalization":
            place = node.node.removesuffix("/LayerNormalization").removesuffix("/LayerNorm")
            numbers = (node.evidence.get(key) for key in ("x.amax", "inside.amax"))
            shown = ("-" if number is None else f"{number:.4g}" for number in numbers)
            table.add_row(place, *shown, node.rule or "")
    console.print(table)


def _build(path: Path) -> str:
    """Whether TensorRT-RTX builds the planned model, without a GPU."""
    from precision_planner.emitting.rtx import rtx_build
    from precision_planner.errors import MissingExtraError

    try:
        result = rtx_build(path)
    except MissingExtraError as error:
        return str(error)
    if not result.ok:
        return f"refused: {result.errors[0].message}"
    half = sum("HALF" in layer.outputs for layer in result.layers)
    floats = sum(bool({"HALF", "FLOAT", "BF16"} & set(layer.outputs)) for layer in result.layers)
    return f"built in {result.seconds:.1f} s; {half} of {floats} layers with float outputs write half"


def main(arguments: list[str]) -> int:
    """Show both models, then the table; 1 if one of them is not as promised."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where models and plans go")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    results = [
        show(
            "massive",
            "BERT, massive",
            options.out / "massive",
            console,
        ),
        show("minilm", "MiniLM", options.out / "minilm", console),
    ]
    console.rule("Report")
    table = Table(title="Summed absolute difference of the probabilities, worst row, against FP32", box=None)
    for column in ("model", "as it stands", "as planned", "top-1", "norms in FP32", "MB"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for result in results:
        table.add_row(
            result.title,
            f"{result.as_it_stands:.3g}",
            f"{result.planned:.3g}",
            f"{100 * result.top1:.1f} %",
            f"{result.accounted} of {result.norms}",
            f"{result.bytes_before / 1e6:.0f} -> {result.bytes_after / 1e6:.0f}",
        )
    console.print(table)
    for result in results:
        console.print(f"TensorRT-RTX, {result.title}: {result.engine}")
    console.print("Honest FP16: every stored value rounded, in onnxruntime on this CPU; no GPU was used.")
    console.print(f"Planned for {TARGET}, whose products of halves add up in FP32; TensorRT's do in FP16: plan for it.")
    kept = all(result.planned <= SHOWN and result.accounted == result.norms for result in results)
    promised = results[0].as_it_stands > GARBAGE and kept
    if not promised:
        print("the demo did not show what it promises: see the table", file=sys.stderr)
    return 0 if promised else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
