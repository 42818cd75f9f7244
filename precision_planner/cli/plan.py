"""`planner plan`: decide, predict, and write the folder that builds the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.cli.made_up import inputs_options, parse_shapes
from precision_planner.cli.options import fusion_kinds, graph_options, target_option, verdict_options

if TYPE_CHECKING:
    from rich.console import Console

    from precision_planner.planning import PlannedModel


@click.command("plan", cls=PlannerCommand)
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", required=True, metavar="DIR", help="The plan folder to write.")
@target_option("What the plan is for")
@click.option("--precision", type=click.Choice(["fp16", "bf16"]), default="fp16", show_default=True)
@click.option(
    "--tolerance", multiple=True, metavar="[OUTPUT:]METRIC=VALUE", help="What the prediction must meet; else exit 1."
)
@click.option("--metric", multiple=True, metavar="FILE.py:FN", help="Your own metric of (reference, candidate).")
@click.option(
    "--budget", metavar="N|SECONDSs", help="Evaluations, or seconds as in 90s, of the search.  [default: 400]"
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Evaluations at once.")
@click.option("--scheduler", metavar="ADDRESS", help="Evaluate on the workers of this dask scheduler.")
@click.option("--headroom", type=float, default=4.0, show_default=True, help="Keep what comes closer to the limit.")
@click.option("--policy", type=click.Choice(["auto", "rules", "torch-amp"]), default="auto", show_default=True)
@click.option("--rules", multiple=True, metavar="DIR", help="A folder of further rules.")
@click.option("--only", multiple=True, metavar="RULE", help="Ask only these rules (ids or tags).")
@click.option("--disable", multiple=True, metavar="RULE", help="Do not ask these rules (ids or tags).")
@click.option("--minShapes", "min_shapes", metavar="NAME:1x8,..", help="Smallest shapes of the optimization profile.")
@click.option("--optShapes", "opt_shapes", metavar="NAME:8x128,..", help="Usual shapes.")
@click.option("--maxShapes", "max_shapes", metavar="NAME:32x512,..", help="Longest shapes.")
@click.option(
    "--tf32/--no-tf32",
    default=None,
    help="Let FP32 matrix products use TF32.  [default: only where a tolerance is met with it]",
)
@click.option("--workspace", type=int, metavar="MIB", help="Builder workspace.")
@click.option("--builder-level", type=click.IntRange(0, 5), help="Builder optimization level.")
@click.option("--version-compatible", is_flag=True, help="An engine that newer versions of TensorRT load.")
@click.option("--hardware-compatible", is_flag=True, help="An engine for Ampere and every newer GPU.")
@click.option(
    "--hold-low", is_flag=True, help="Weakly typed targets: hold FP16 layers to FP16, too, not only kept ones to FP32."
)
@click.option("--no-calibrate", is_flag=True, help="Measure no activations: decide by what holds without data.")
@graph_options
@inputs_options
@verdict_options
@click.option("--json", "json_path", metavar="FILE|-", help="Also write the plan here; - is stdout, alone.")
@click.option("--html", "html_path", metavar="FILE", help="Also write a self-contained HTML report.")
@click.option("--node-data", "node_data_path", metavar="FILE", help="Write precisions as node data of Model Explorer.")
@click.option("--annotate", is_flag=True, help="Put precision, range and findings on the nodes as metadata (Netron).")
@click.option("--force", is_flag=True, help="Replace an existing plan folder.")
def command(
    model: str,
    output: str,
    json_path: str | None,
    html_path: str | None,
    node_data_path: str | None,
    annotate: bool,
    force: bool,
    **options: Any,
) -> int:
    """Decide MODEL's precision for a build target, predict the result, and write a folder that builds it."""
    from precision_planner.cli.console import note, render_verdict, stdout_console, work, write_result
    from precision_planner.cli.diff import own_metrics
    from precision_planner.cli.signals import stop_on_signals
    from precision_planner.emitting.folder import check_folder
    from precision_planner.planning import plan
    from precision_planner.planning.judged import exit_code
    from precision_planner.reporting.html import render_html
    from precision_planner.reporting.node_data import node_data_text
    from precision_planner.rewriting.plugins import parse_plugins

    folder = Path(output)
    check_folder(folder, force=force)
    given = options.pop("plugins")
    types = [text for text in given if "->" in text]
    libraries = [text for text in given if "->" not in text]
    build = {
        "tf32": options.pop("tf32"),
        "workspace_bytes": None if options["workspace"] is None else options["workspace"] << 20,
        "optimization_level": options.pop("builder_level"),
        "version_compatible": options.pop("version_compatible"),
        "hardware_compatible": options.pop("hardware_compatible"),
        "plugins": libraries,
    }
    del options["workspace"]
    fail_on_made_up = options.pop("fail_on_made_up")
    searches = bool(options["tolerance"]) and options["policy"] == "auto" and not options["no_calibrate"]
    with work(f"planning {model}") as say, stop_on_signals(note, searches) as stop:
        planned = plan(
            model,
            fuse=fusion_kinds(options),
            plugins=parse_plugins(types),
            tolerance=options.pop("tolerance") or None,
            min_shapes=parse_shapes(options.pop("min_shapes"), "--minShapes"),
            opt_shapes=parse_shapes(options.pop("opt_shapes"), "--optShapes"),
            max_shapes=parse_shapes(options.pop("max_shapes"), "--maxShapes"),
            calibrate=not options.pop("no_calibrate"),
            verify=not options.pop("no_verify"),
            build=build,
            metrics=own_metrics(options.pop("metric")),
            stop=stop,
            progress=say,
            **options,
        )
        planned = _asked_of_the_parser(planned, say)
        if annotate:
            say("annotating the model")
            planned = _annotated(planned, model, options["inputs"])
        written = planned.save(folder, force=force)
    if json_path:
        write_result(json.dumps(planned.plan.to_dict(), indent=1), json_path)
    if node_data_path:
        write_result(node_data_text(planned.plan.to_dict()), node_data_path)
    if html_path:
        write_result(render_html(planned.plan.to_dict()), html_path)
    if json_path != "-":
        _render(planned, folder, written, stdout_console())
        assert planned.verdict is not None
        script = next((name for name in ("build.py", "verify.py") if folder / name in written), "")
        render_verdict(planned.verdict, f"python {folder / script}" if script else "", fail_on_made_up)
    return exit_code(planned.verdict, planned.passed, fail_on_made_up)


def _annotated(planned: PlannedModel, model: str, inputs: Any) -> PlannedModel:
    from precision_planner.cli.annotating import annotated
    from precision_planner.model import Model

    made = planned.plan
    told = [
        {"node": node.node, "precision": node.precision, "reason": node.reason} for node in made.nodes if node.precision
    ]
    typed = annotated(
        planned.original or Model.load(model),
        planned.model,
        decided=told,
        names=planned.report["names"],
        inputs=inputs,
        precision=made.precision,
        target=made.target,
    )
    return replace(planned, model=typed)


def _asked_of_the_parser(planned: PlannedModel, say: Callable[[str], None]) -> PlannedModel:
    """The plan with what the parser itself refuses, where TensorRT-RTX is here and the target has its parser."""
    from precision_planner.emitting.rtx import rtx_refusals
    from precision_planner.engines.engine_file import installed_tensorrt
    from precision_planner.targets import get_target, newest

    oracle = newest(lambda target: target.is_rtx)
    chosen = get_target(planned.plan.target)
    if not chosen.at_least(*oracle.release) or oracle.runtime not in installed_tensorrt():
        return planned
    say(f"asking {oracle.words.title}'s parser")
    known = {entry["node"] for entry in planned.plan.refused}
    told = [
        {
            "node": error.node or "the network",
            "op_type": error.op_type or "-",
            "reason": error.message,
            "instead": "keep it out of the engine, or write it by other operators",
            "source": f"the parser of the {oracle.words.title} installed here",
        }
        for error in rtx_refusals(planned.model)
        if error.node not in known
    ]
    return replace(planned, plan=replace(planned.plan, refused=(*planned.plan.refused, *told)))


def _render(planned: PlannedModel, folder: Path, written: list[Path], console: Console) -> None:
    """The plan in the terminal."""
    from precision_planner.cli.main import verbosity
    from precision_planner.reporting.plan_terminal import render_plan

    verbose, made = verbosity() > 0, planned.plan
    files = [str(path.relative_to(folder)) for path in written]
    first = [name for name in ("model.onnx", "plan.json", "build.py", "verify.py", "README.md") if name in files]
    listed = files if verbose else first
    more = f" and {len(files) - len(listed)} more files" if len(listed) < len(files) else ""
    console.print(f"wrote {folder}: {', '.join(listed)}{more}", soft_wrap=True)
    render_plan(made.to_dict(), console, verbose=verbose, tf32=made.tf32_instead)
