"""`planner analyze`: say what a 16-bit format breaks in a model, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.cli.made_up import inputs_options
from precision_planner.cli.options import target_option

if TYPE_CHECKING:
    from precision_planner.analysis import Analysis
    from precision_planner.model import Model
    from precision_planner.model.inputs import Inputs

MEASURED_BYTES = 1 << 28
"""Weights up to this are loaded into onnxruntime unasked; beyond it an analysis keeps its memory bound."""


@click.command("analyze", cls=PlannerCommand)
@click.argument("model", metavar="MODEL")
@click.option(
    "--inputs",
    metavar="SRC",
    help="What activations are measured on: .npz, a folder of them, Polygraphy JSON, FILE.py[:load_data], or "
    "'synthesized' (the default for models of up to 256 MB).",
)
@click.option("--no-calibrate", is_flag=True, help="Measure no activations.")
@click.option("--precision", type=click.Choice(["fp16", "bf16"]), default="fp16", show_default=True)
@target_option("The build that rules may depend on")
@click.option("--headroom", type=float, default=4.0, show_default=True, help="Closer to the limit than this is near.")
@click.option("--policy", type=click.Choice(["auto", "rules", "torch-amp"]), default="auto", show_default=True)
@click.option("--rules", multiple=True, metavar="DIR", help="A folder of further rules.")
@click.option("--only", multiple=True, metavar="RULE", help="Ask only these rules (ids or tags).")
@click.option("--disable", multiple=True, metavar="RULE", help="Do not ask these rules (ids or tags).")
@click.option("--fail-on", type=click.Choice(["error", "warning"]), help="Exit 1 if there is such a finding, or worse.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the analysis as JSON; - is stdout, alone.")
@click.option("--html", "html_path", metavar="FILE", help="Write a self-contained HTML report.")
@click.option("--node-data", "node_data_path", metavar="FILE", help="Write ranges as node data of Model Explorer.")
@inputs_options
def command(
    model: str,
    inputs: Any,
    no_calibrate: bool,
    fail_on: str | None,
    json_path: str | None,
    html_path: str | None,
    node_data_path: str | None,
    **options: Any,
) -> int:
    """Say what FP16 (or BF16) breaks in MODEL, and why, without changing it."""
    from precision_planner.analysis import analyze
    from precision_planner.cli.console import check_results, note, progress, stdout_console, write_result
    from precision_planner.cli.main import verbosity
    from precision_planner.model import Model
    from precision_planner.reporting.analysis_terminal import render_analysis
    from precision_planner.reporting.html import render_html
    from precision_planner.reporting.node_data import node_data_text

    check_results([json_path, html_path], [model, inputs])
    loaded = Model.load(model)
    with progress(f"analyzing {model}", total=loaded.weight_bytes) as advance:

        def run(data: Inputs | None) -> Analysis:
            return analyze(loaded, inputs=data, progress=advance, **options)

        analysis = run(None) if no_calibrate else measured(loaded, inputs, run, note)
    result = analysis.to_dict()
    if json_path:
        write_result(json.dumps(result, indent=2, allow_nan=False), json_path)
    if html_path:
        write_result(render_html(result), html_path)
    if node_data_path:
        write_result(node_data_text(result), node_data_path)
    if json_path != "-":
        render_analysis(result, stdout_console(), verbose=verbosity() > 0)
    worse = {"error": ("error",), "warning": ("error", "warning")}.get(fail_on or "", ())
    return 1 if any(analysis.by_severity.get(severity) for severity in worse) else 0


def measured(
    model: Model, source: Any, run: Callable[[Inputs | None], Analysis], note: Callable[[str], None]
) -> Analysis:
    """The analysis with activation ranges; without, and a note, where nothing was given and nothing can be made up."""
    from precision_planner._extras import require
    from precision_planner.errors import CalibrationError, InputsError, MissingExtraError, ModelError
    from precision_planner.model.inputs import load_inputs

    if source not in (None, "synthesized", "synthesised"):
        return run(load_inputs(source, model))
    if source is None and model.weight_bytes > MEASURED_BYTES:
        note("activations are not measured: the weights take over 256 MB; give --inputs SRC, or --inputs synthesized")
        return run(None)
    try:
        require("onnxruntime", extra="cpu", purpose="measuring activations")
        return run(load_inputs(None, model))
    except (MissingExtraError, InputsError, CalibrationError, ModelError) as error:
        # on made-up data a model that cannot run, or gives NaN, is no mistake of the user's
        if source is not None:
            raise
        note(f"activations are not measured: {error}")
    return run(None)
