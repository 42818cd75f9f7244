"""`planner report`: render a saved analysis, plan or diff again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from precision_planner._reading import parse_json
from precision_planner.cli.grouping import PlannerCommand
from precision_planner.errors import PlannerError


@click.command("report", cls=PlannerCommand)
@click.argument("file", metavar="FILE.json")
@click.option("--html", "html_path", metavar="FILE", help="Write a self-contained HTML report.")
@click.option("--node-data", "node_data_path", metavar="FILE", help="Write node data of Model Explorer.")
@click.option("--md", "md_path", metavar="FILE", help="Write Markdown (of a diff).")
@click.option("--junit", "junit_path", metavar="FILE", help="Write JUnit XML (of a diff).")
def command(
    file: str, html_path: str | None, node_data_path: str | None, md_path: str | None, junit_path: str | None
) -> int:
    """Render FILE.json, which a command wrote with --json, again; in the terminal by default."""
    from precision_planner.cli.console import check_results

    check_results([html_path, node_data_path, md_path, junit_path], [file])
    data = read_report(Path(file))
    write_reports(data, html_path, md_path, junit_path)
    if node_data_path:
        _write_node_data(data, node_data_path)
    if not (html_path or node_data_path or md_path or junit_path):
        _print(data)
    return 0


def read_report(path: Path) -> dict[str, Any]:
    """Read a saved report.

    Raises:
      PlannerError: missing, no JSON, or none of the planner's.
    """
    from precision_planner.reporting.check import check_report

    if path.is_dir():
        path = path / "plan.json"
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlannerError(f"{path} does not exist; give what a command wrote with --json") from None
    except (OSError, ValueError) as error:
        raise PlannerError(f"{path} is not JSON ({error}); give what a command wrote with --json") from None
    if not isinstance(data, dict):
        raise PlannerError(f"{path} is no report of the planner's; give what a command wrote with --json")
    try:
        check_report(data)
    except ValueError as error:
        raise PlannerError(f"{path} is {error}; give what a command wrote with --json") from None
    return data


def write_reports(data: Mapping[str, Any], html_path: str | None, md_path: str | None, junit_path: str | None) -> None:
    """Write the forms asked for; PlannerError where a form does not exist for this kind of report."""
    from precision_planner.cli.console import write_result
    from precision_planner.reporting.html import kind_of, render_html
    from precision_planner.reporting.junit import render_junit
    from precision_planner.reporting.markdown import render_markdown

    kind = kind_of(data)
    if kind != "diff" and (md_path or junit_path):
        raise PlannerError(f"Markdown and JUnit are written of a diff, not of this {kind}; use --html")
    if html_path:
        write_result(render_html(data), html_path)
    if md_path:
        write_result(render_markdown(data), md_path)
    if junit_path:
        write_result(render_junit(data), junit_path)


def _write_node_data(data: Mapping[str, Any], path: str) -> None:
    from precision_planner.cli.console import write_result
    from precision_planner.reporting.html import kind_of
    from precision_planner.reporting.node_data import node_data_text

    try:
        write_result(node_data_text(data), path)
    except ValueError as error:
        raise PlannerError(f"--node-data: this {kind_of(data)} is {error}; give one of these") from None


def _print(data: Mapping[str, Any]) -> None:
    from precision_planner.cli.console import stdout_console
    from precision_planner.reporting.diff_terminal import render_diff
    from precision_planner.reporting.html import OWN_PAGE, kind_of

    console = stdout_console()
    kind = kind_of(data)
    if kind == "diff":
        render_diff(data, console)
        return
    if kind == "analysis":
        from precision_planner.cli.main import verbosity
        from precision_planner.reporting.analysis_terminal import render_analysis

        render_analysis(data, console, verbose=verbosity() > 0)
        return
    if kind.startswith("triton_"):
        from precision_planner.reporting import serving_terminal

        getattr(serving_terminal, f"render_{kind.removeprefix('triton_')}")(data, console)
        return
    if kind not in OWN_PAGE:
        from precision_planner.reporting.generic import render_generic

        render_generic(data, console)
        return
    from precision_planner.cli.main import verbosity
    from precision_planner.reporting.headline import plan_headline
    from precision_planner.reporting.plan_terminal import render_plan

    render_plan(data, console, verbose=verbosity() > 0)
    head = plan_headline(data)
    console.print(f"{head.word}: {head.sentence}", soft_wrap=True)
