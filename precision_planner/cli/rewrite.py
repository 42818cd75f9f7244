"""`planner rewrite`: write a typed FP16 or BF16 model, or only the fused one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.cli.made_up import inputs_options
from precision_planner.cli.options import fusion_kinds, graph_options, optional_target, verdict_options
from precision_planner.errors import OutputError

if TYPE_CHECKING:
    from precision_planner.model import Model
    from precision_planner.rewriting import RewriteResult

MOST_REASONS = 10
"""Reasons for what is kept that are printed before the rest is counted; all with -v."""


def _list_passes(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    """Print what `rewrite` does, in order, and end."""
    if not asked or ctx.resilient_parsing:
        return
    from precision_planner.rewriting.passes import PASSES

    for each in PASSES:
        click.echo(f"{each.name:13} {each.does}")
    ctx.exit()


@click.command("rewrite", cls=PlannerCommand)
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", metavar="OUT", help="Where to write; MODEL.fp16.onnx beside the model by default.")
@click.option(
    "--precision",
    type=click.Choice(["fp16", "bf16", "fp32"]),
    default="fp16",
    show_default=True,
    help="The low type; fp32 only fuses.",
)
@click.option("--plan", "plan_path", metavar="PLAN.json|DIR", help="Carry out a plan, saved or edited, as it is.")
@optional_target
@graph_options
@inputs_options
@verdict_options
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report as JSON; - is stdout, alone.")
@click.option("--annotate", is_flag=True, help="Put precision, range and findings on the nodes as metadata (Netron).")
@click.option("--force", is_flag=True, help="Overwrite an existing output (never the input).")
@click.option(
    "--list-passes",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_passes,
    help="Print the passes, in order.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    output: str | None,
    plan_path: str | None,
    json_path: str | None,
    annotate: bool,
    force: bool,
    **options: Any,
) -> int:
    """Convert MODEL to a typed FP16 or BF16 graph, keeping in FP32 what must be kept.

    SEL: a category (layernorm, softmax, ...), an op type, a glob on node names, or re:PATTERN.
    """
    from precision_planner.cli.console import check_results, note, progress, render_verdict, write_result
    from precision_planner.model import Model
    from precision_planner.planning import apply, rewrite
    from precision_planner.planning.judged import exit_code
    from precision_planner.rewriting import default_output
    from precision_planner.rewriting.applying import load_plan
    from precision_planner.rewriting.plugins import parse_plugins
    from precision_planner.writing import check_output, place_of

    loaded = Model.load(Path(model))
    plan = None
    if plan_path is not None:
        _refuse_beside_plan(ctx)
        plan = load_plan(plan_path)
    target = Path(output) if output else default_output(model, plan.precision if plan else options["precision"])
    protected = loaded.files | ({Path(plan_path)} if plan_path else set())
    check_output(target, force=force, protect=frozenset(protected))
    check_results([json_path], [*map(str, loaded.files)])
    if json_path and place_of(Path(json_path)) == place_of(target):
        raise OutputError(f"two results would be written to {target}; give each a place of its own")
    kinds = fusion_kinds(options)
    plugins = parse_plugins(options.pop("plugins"))
    verify = not options.pop("no_verify")
    fail_on_made_up = options.pop("fail_on_made_up")
    with progress(f"rewriting {loaded.path}"):
        if plan is not None:
            result = apply(loaded, plan, inputs=options["inputs"], verify=verify)
        else:
            result = rewrite(loaded, fuse=kinds, plugins=plugins, verify=verify, **options)
        if annotate:
            result = _annotated(result, loaded, options["inputs"], plan.target if plan else options["target"])
        written = result.save(target, force=force)
    report = {**result.report, "output": [str(path) for path in written]}
    if json_path:
        write_result(json.dumps(report, indent=2), json_path)
    if json_path != "-":
        _render(report, note)
        assert result.verdict is not None
        if result.verdict.is_wrong:
            data = options["inputs"] if isinstance(options["inputs"], str) else "INPUTS"
            step = f"planner plan {model} -o {target.stem}.plan --inputs {data} --tolerance rel_l2=1e-2"
        elif result.verdict.is_made_up:
            step = f"planner diff {model} {target} --inputs INPUTS --tolerance rel_l2=1e-2"
        else:
            step = ""
        render_verdict(result.verdict, step, fail_on_made_up)
    return exit_code(result.verdict, report["verification"]["passed"], fail_on_made_up)


def _annotated(result: RewriteResult, loaded: Model, inputs: Any, target: str | None) -> RewriteResult:
    from precision_planner.cli.annotating import annotated

    report = result.report
    kept = {"kept_fp32": "fp32", "kept_bf16": "bf16", "kept_sum32": "fp16+"}
    decided = [{**entry, "precision": kind} for name, kind in kept.items() for entry in report[name]]
    typed = annotated(
        loaded,
        result.typed,
        decided=decided,
        names=report["names"],
        inputs=inputs,
        precision=report["precision"],
        target=target,
    )
    return replace(result, typed=typed)


def _refuse_beside_plan(ctx: click.Context) -> None:
    """A plan says all that becomes of the graph; an option that says something else is a mistake."""
    free = {"model", "output", "plan_path", "json_path", "force", "inputs", "no_verify", "fail_on_made_up", "annotate"}
    for option in ctx.command.params:
        given = ctx.get_parameter_source(str(option.name)) is click.core.ParameterSource.COMMANDLINE
        if given and option.name not in free:
            raise click.UsageError(f"--plan and {option.opts[0]} exclude each other: edit the plan's nodes instead")


def _render(report: dict[str, Any], note: Any) -> None:
    """The summary in the terminal."""
    from precision_planner.cli.console import stdout_console
    from precision_planner.cli.main import verbosity

    console = stdout_console()
    kept, bf16 = report["kept_fp32"], report["kept_bf16"]
    console.print(f"wrote {', '.join(report['output'])}", soft_wrap=True)
    if report["opset"]["from"] != report["opset"]["to"]:
        console.print(f"opset      {report['opset']['from']} -> {report['opset']['to']}")
    console.print(f"fused      {len(report['fused'])} patterns")
    if report["precision"] != "fp32":
        console.print(f"converted  {report['converted']} nodes to {report['precision']}, {report['casts']} Casts")
        if bf16:
            console.print(f"kept bf16  {len(bf16)} nodes")
        if report["kept_sum32"]:
            console.print(f"sums fp32  {len(report['kept_sum32'])} products in fp16")
        console.print(f"kept fp32  {len(kept)} nodes")
        reasons: dict[str, list[str]] = {}
        for entry in kept:
            reasons.setdefault(entry["reason"], []).append(entry["node"])
        told = sorted(reasons.items(), key=lambda item: -len(item[1]))
        shown = told if verbosity() > 0 else told[:MOST_REASONS]
        for reason, nodes in shown:
            console.print(f"  {len(nodes):5d}  {reason}", soft_wrap=True)
        if len(told) > len(shown):
            rest = sum(len(nodes) for _, nodes in told[len(shown) :])
            console.print(f"  {rest:5d}  for {len(told) - len(shown)} more reasons (-v lists them)")
        changes = report["weights"]["changes"]
        if changes:
            console.print(f"weights    {len(changes)} tensors hold values that the type cannot (--json lists them)")
    for entry in report["rejected"]:
        note(f"not fused: {entry['kind']} at {entry['nodes'][-1]}: {entry['reason']}")
    for text in report["notes"]:
        note(text)
    check = report["verification"]
    verdict = {True: "passed", False: "FAILED", None: "not done"}[check["passed"]]
    console.print(f"verified   {verdict}{': ' + check['reason'] if check['reason'] else ''}", soft_wrap=True)
