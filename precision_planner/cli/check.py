"""`planner check`: one gate for CI and pre-commit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.cli.options import target_option


@click.command("check", cls=PlannerCommand)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--plan", metavar="DIR", help="The model's plan: the planned model is what is judged.")
@click.option(
    "--tolerance",
    multiple=True,
    metavar="[OUTPUT:]METRIC=VALUE",
    help="By default the plan's; without a plan, of the model simulated in --precision.",
)
@click.option("--fail-on", type=click.Choice(["error", "warning", "never"]), default="error", show_default=True)
@click.option("--inputs", metavar="SRC", help="By default the plan's golden inputs, or made up.")
@click.option("--precision", type=click.Choice(["fp16", "bf16"]), default="fp16", show_default=True)
@target_option("Whose lowering and kernels are asked about")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the answers as JSON; - is stdout, alone.")
def command(models: tuple[str, ...], plan: str | None, json_path: str | None, **options: Any) -> int:
    """Ask whether each MODEL may go into 16 bits, as it is or by its plan; exit 1 if one may not.

    It must load, the rules must find nothing at --fail-on, and its answers must keep the tolerance. With a plan the
    findings are for information: the plan is the answer to them.
    """
    from precision_planner.cli.console import progress, stdout_console, write_result
    from precision_planner.planning.gate import SCHEMA_VERSION, check_model

    if plan is not None and len(models) > 1:
        raise click.UsageError("a plan is of one model; check the others without --plan")
    found = []
    for path in models:
        with progress(f"checking {path}"):
            found.append(check_model(Path(path), plan=None if plan is None else Path(plan), **options))
    passed = all(checked.passed for checked in found)
    if json_path:
        data = {"schema_version": SCHEMA_VERSION, "kind": "check", "passed": passed}
        write_result(json.dumps({**data, "models": [checked.to_dict() for checked in found]}, indent=1), json_path)
    if json_path != "-":
        console = stdout_console()
        words = {True: "ok", False: "FAILED", None: "-"}
        for checked in found:
            console.print(f"{'ok' if checked.passed else 'FAILED':6} {checked.model}", soft_wrap=True)
            for gate in checked.gates:
                console.print(f"  {words[gate.passed]:6} {gate.name}: {gate.said}", soft_wrap=True)
    return 0 if passed else 1
