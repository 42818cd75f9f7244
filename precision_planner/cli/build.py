"""`planner build`: a plan's engine, through the plan's own script, and what was asked against what came out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from precision_planner.cli.grouping import PlannerCommand

if TYPE_CHECKING:
    from rich.console import Console

    from precision_planner.emitting.build_report import BuildReport

_MOST = 15


@click.command("build", cls=PlannerCommand, context_settings={"ignore_unknown_options": False})
@click.argument("folder", metavar="DIR")
@click.argument("polygraphy_args", metavar="[-- POLYGRAPHY ARGS]", nargs=-1, type=click.UNPROCESSED)
@click.option("-o", "--output", metavar="FILE", help="The engine; DIR/model.engine by default.")
@click.option("--compute-capabilities", metavar="SM89,..", help="TensorRT-RTX: the GPUs to build for.")
@click.option("--no-attention", is_flag=True, help="Do not compare fused attention with plain FP16 (builds it too).")
@click.option("--force", is_flag=True, help="Overwrite an existing FILE (never what the plan consists of).")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report as JSON; - is stdout, alone.")
def command(
    folder: str,
    polygraphy_args: tuple[str, ...],
    output: str | None,
    compute_capabilities: str | None,
    no_attention: bool,
    force: bool,
    json_path: str | None,
) -> int:
    r"""Build the engine of the plan in DIR and report what was asked and what the engine has.

    Uses the TensorRT that is installed (tensorrt or tensorrt_rtx); TensorRT-RTX builds without a GPU too. What
    follows -- goes to Polygraphy; builder settings among it are applied to the plan. The builder's whole log goes to
    DIR/build.log, its warnings to the terminal (-v: everything).

    \b
    Exit 1 when the build fails, when a node is not what was asked, or when the engine's bytes hold a weight rounded
    that the plan keeps.
    """
    from precision_planner.cli.console import note, progress, stdout_console, write_result
    from precision_planner.cli.main import verbosity
    from precision_planner.emitting.build_report import judge_build
    from precision_planner.emitting.building import run_build
    from precision_planner.engines.buildlog import severity
    from precision_planner.engines.engine_file import to_json
    from precision_planner.model import Model
    from precision_planner.writing import record

    shown = "FEW" if verbosity() == 0 else "FE" if verbosity() < 0 else "FEWI"

    def on_line(line: str) -> None:
        level = severity(line)
        # the engine is built in a scratch folder, whose name would only confuse; the module is a matter of taste
        if "build.py: wrote" in line or "'colored' module" in line:
            return
        if verbosity() > 1 or (level and level in shown) or (not level and line.startswith("build.py:")):
            note(line)

    with progress(f"building {folder}"):
        run = run_build(
            Path(folder),
            polygraphy_args,
            output=None if output is None else Path(output),
            capabilities=compute_capabilities,
            force=force,
            on_line=on_line,
        )
    # a folder that cannot be written can still be built from, to an -o elsewhere
    place = run.folder if os.access(run.folder, os.W_OK) else (run.engine or Path(output or "model.engine")).parent
    log = place / "build.log"
    write_result("\n".join(run.log), log)
    if place == run.folder:
        record(place, log.name)
    model = Model.load(run.folder / "model.onnx")
    report = judge_build(run, model)
    if report.run.engine is not None and not no_attention:
        with progress("comparing fused attention with plain FP16"):
            report = _with_attention(report, model)
    if json_path:
        write_result(to_json(report.to_dict()), json_path)
    if json_path != "-":
        render(stdout_console(), report)
    if run.engine is None:
        note(f"the build failed: {run.reason}; the whole log is in {log}")
    return 0 if run.engine is not None and not report.unmet and not report.lost else 1


def _with_attention(report: BuildReport, model: object) -> BuildReport:
    """Fused attention against plain FP16: by TensorRT-RTX's log, where that is installed and the plan is strong."""
    from precision_planner.emitting.attention import AttentionReport, attention_report
    from precision_planner.emitting.build_report import logged_kernels, with_attention
    from precision_planner.emitting.rtx import rtx_build
    from precision_planner.engines.engine_file import installed_tensorrt
    from precision_planner.model import Model

    assert isinstance(model, Model)
    run = report.run
    if run.plan.typing != "strong":
        return report
    kernels = logged_kernels(run.log)
    planned = sum(kernel.is_fused_attention for kernel in kernels)
    if "tensorrt_rtx" not in installed_tensorrt():
        return with_attention(report, AttentionReport(planned, None, reason="needs tensorrt_rtx (extra rtx)"))
    if not kernels:
        profiles = {name: (p.min, p.opt, p.max) for name, p in run.plan.profiles.items()}
        kernels = rtx_build(model, profiles).kernels or ()
    return with_attention(report, attention_report(model, run.plan, kernels))


def render(console: Console, report: BuildReport) -> None:
    """The report in the terminal."""
    run = report.run
    if run.engine is None:
        console.print(f"FAILED  {run.reason}", soft_wrap=True)
        _render_warnings(console, report)
        return
    size = run.engine.stat().st_size / 1e6
    version = run.network.get("tensorrt", "?")
    console.print(f"built      {run.engine} ({size:.1f} MB) with {run.module} {version}", soft_wrap=True)
    if run.note:
        console.print(f"note       {run.note}", soft_wrap=True)
    _render_nodes(console, report)
    if report.constraints:
        layers = sum(len(entry["layers"]) for entry in report.constraints)
        console.print(f"constraints {len(report.constraints)} of {len(run.plan.constraints)} matched, {layers} layers")
    if report.inspection is not None:
        types = ", ".join(f"{count} {name}" for name, count in sorted(report.inspection.by_layers.items()))
        islands = len(report.inspection.islands)
        console.print(f"kernels    {len(report.kernels)} ({report.source}): {types}; {islands} FP32 islands")
    else:
        console.print("kernels    not seen (no GPU to load the engine on, and the log lists none)")
    if report.weights:
        from precision_planner.cli.inspect import render_weights

        render_weights(console, report.weights)
    _render_attention(console, report)
    _render_warnings(console, report)


def _render_nodes(console: Console, report: BuildReport) -> None:
    for precision in sorted({outcome.asked for outcome in report.outcomes}):
        asked = [outcome for outcome in report.outcomes if outcome.asked == precision]
        met = sum(outcome.met is True for outcome in asked)
        folded = sum(outcome.met is None for outcome in asked)
        unmet = len(asked) - met - folded
        line = f"{precision:10} {len(asked)} nodes asked, {met} so in the network"
        line += f", {folded} folded away or not told" if folded else ""
        console.print(line + (f", {unmet} NOT" if unmet else ""))
    for outcome in report.unmet[:_MOST]:
        got = ", ".join(outcome.network or outcome.engine)
        console.print(f"  {outcome.node} ({outcome.op_type}): asked {outcome.asked}, got {got}", soft_wrap=True)


def _render_attention(console: Console, report: BuildReport) -> None:
    attention = report.attention
    if attention is None:
        return
    plain = "?" if attention.plain is None else str(attention.plain)
    console.print(f"attention  {attention.planned} fused kernels, plain {report.run.plan.precision} has {plain}")
    if attention.reason:
        console.print(f"  {attention.reason}", soft_wrap=True)
    for cost in attention.costs:
        nodes = ", ".join(cost.nodes[:4]) + (", ..." if len(cost.nodes) > 4 else "")
        console.print(f"  {cost.kernels} lost by {nodes}: {cost.reason}", soft_wrap=True)
    if attention.untried:
        console.print(f"  {attention.untried} more regions near a lost attention, not tried")


def _render_warnings(console: Console, report: BuildReport) -> None:
    for warning in report.warnings[:_MOST]:
        listed = f" [{', '.join(warning.tensors[:5])}{', ...' if len(warning.tensors) > 5 else ''}]"
        console.print(f"warning    {warning.text}{listed if warning.tensors else ''}", soft_wrap=True)
    if len(report.warnings) > _MOST:
        console.print(f"  ... and {len(report.warnings) - _MOST} more warnings (build.log)")
