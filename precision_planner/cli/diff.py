"""`planner diff`: compare two models, plans, engines or saved outputs."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.cli.made_up import inputs_options
from precision_planner.cli.options import selector_option
from precision_planner.errors import ToleranceError
from precision_planner.judging.tolerance import bounds_told


@click.command("diff", cls=PlannerCommand)
@click.argument("reference", metavar="REF")
@click.argument("candidate", metavar="CAND")
@click.option("--inputs", metavar="SRC", help=".npz, a folder of them, Polygraphy JSON, or FILE.py[:load_data].")
@click.option(
    "--simulate",
    type=click.Choice(["fp16", "bf16", "tf32", "none"]),
    help="Simulate the candidate in this type (tf32: its products alone); by default its own types are followed.",
)
@click.option(
    "--semantics",
    type=click.Choice(["typed", "fused"]),
    default="typed",
    show_default=True,
    help="Round every node's result, or only where a TensorRT kernel ends.",
)
@click.option(
    "--weights",
    type=click.Choice(["ieee", "saturate"]),
    help="How constants are rounded; by default saturate for fused semantics, ieee for typed.",
)
@click.option(
    "--accumulation",
    type=click.Choice(["fp32", "fp16"]),
    help="How simulated FP16 products add up; by default fp16 for a plan of a weakly typed build, else fp32.",
)
@click.option(
    "--tf32",
    type=click.Choice(["off", "nearest", "truncated"]),
    help="What simulated FP32 products make of their operands; by default as a plan's folder says, else off.",
)
@selector_option("--keep-fp32", "With --simulate: nodes that stay FP32.")
@click.option("--layers", is_flag=True, help="Compare every intermediate value too.")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda", "tensorrt"]),
    default="cpu",
    show_default=True,
    help="What runs a candidate that is not simulated.",
)
@click.option(
    "--tolerance",
    multiple=True,
    metavar="[OUTPUT:]METRIC=VALUE",
    help=f"Exit 1 beyond it: {bounds_told()}.",
)
@click.option("--metric", multiple=True, metavar="FILE.py:FN", help="Your own metric of (reference, candidate).")
@click.option(
    "--explain/--no-explain",
    default=None,
    help="Add what plain 16 bits do, the plan, the weights and drawings to the report; by default with --html.",
)
@click.option("--json", "json_path", metavar="FILE|-", help="Write the diff as JSON; - is stdout, alone.")
@click.option("--html", "html_path", metavar="FILE", help="Write a self-contained HTML report.")
@click.option("--md", "md_path", metavar="FILE", help="Write Markdown for a pull request.")
@click.option("--junit", "junit_path", metavar="FILE", help="Write JUnit XML, one case a tolerance.")
@inputs_options
def command(reference: str, candidate: str, **options: Any) -> int:
    """Compare CAND with REF on the same inputs.

    REF and CAND: a model, a plan's folder, saved outputs (.npz, Polygraphy JSON) or a TensorRT engine. A model with
    16-bit types is simulated honestly: onnxruntime on a CPU would compute it in FP32.
    """
    from precision_planner.cli.console import check_results, note, progress, stdout_console, write_result
    from precision_planner.diffing import compare

    results = [options[name] for name in ("json_path", "html_path", "md_path", "junit_path")]
    scripts = (text.rpartition(":")[0] for text in options["metric"])
    check_results(results, [reference, candidate, options["inputs"], *scripts])
    with progress("comparing") as step:
        found = compare(
            reference,
            candidate,
            options["inputs"],
            simulate=options["simulate"],
            semantics=options["semantics"],
            weights=options["weights"],
            keep_fp32=options["keep_fp32"],
            accumulation=options["accumulation"],
            tf32=False if options["tf32"] == "off" else options["tf32"],
            layers=True if options["layers"] or options["html_path"] else None,
            provider=options["provider"],
            tolerance=options["tolerance"],
            metrics=own_metrics(options["metric"]),
            command=_command_line(),
            progress=step,
        )
    if options["layers"] and not found.layers:
        note("no layers: values inside are compared where both sides are models that run on the CPU")
    data = found.to_dict()
    if options["explain"] or (options["explain"] is None and options["html_path"]):
        from precision_planner.planning.explain import explain

        with progress("explaining"):
            data["explanation"] = explain(reference, candidate, found, options["inputs"])
    if options["json_path"]:
        write_result(json.dumps(data, indent=1, allow_nan=False), options["json_path"])
    if options["html_path"] or options["md_path"] or options["junit_path"]:
        from precision_planner.cli.report import write_reports

        write_reports(data, options["html_path"], options["md_path"], options["junit_path"])
    if "-" not in results:
        from precision_planner.reporting.diff_terminal import render_diff

        render_diff(data, stdout_console())
    judged = found.judgement
    assert judged is not None
    if data["tolerances"]:
        return 0 if data["passed"] else 1
    # without a tolerance no difference is a failure, but to have compared nothing, or not everything, is
    return 1 if judged.problems or not judged.compared else 0


def own_metrics(given: tuple[str, ...]) -> dict[str, Any]:
    """The user's metrics, by the names of their functions; ToleranceError for a missing file or function."""
    from precision_planner.model.arrays import load_function

    found: dict[str, Any] = {}
    for text in given:
        file, colon, name = text.rpartition(":")
        if not colon or not file or not name:
            raise ToleranceError(f"--metric {text!r} is not FILE.py:FN; name the function, as in metrics.py:box_error")
        found[name] = _own_metric(load_function(Path(file), name, ToleranceError), text)
    return found


def _own_metric(function: Callable[..., Any], text: str) -> Callable[..., Any]:
    """The user's metric, whose errors are the user's."""

    @functools.wraps(function)
    def measured(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (Exception, SystemExit) as error:  # the user's own code: whatever it raises is theirs to mend
            raise ToleranceError(f"--metric {text} failed: {type(error).__name__}: {error}") from error

    return measured


def _command_line() -> str:
    return shlex.join(["planner", *sys.argv[1:]])
