"""`planner triton`: a model repository from a plan, and a running server checked and load-tested."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.errors import InputsError, OutputError, ServerError

if TYPE_CHECKING:
    from rich.console import Console

    from precision_planner.model.inputs import Inputs
    from precision_planner.serving.check import ServedCheck
    from precision_planner.serving.repository import Repository


def numbers(text: str, flag: str) -> tuple[int, ...]:
    """Read `1,11,21`; a usage error names the flag."""
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise click.BadParameter(f"{flag}: {text!r} is not numbers separated by commas, as in 1,11,21") from None


@click.group("triton")
def command() -> None:
    """Serve a plan with NVIDIA Triton: write the repository, check what is served, measure it."""


@command.command("repo", cls=PlannerCommand)
@click.argument("plan_dir", metavar="PLAN_DIR")
@click.option("-o", "--output", required=True, metavar="REPO", help="The model repository; other models in it stay.")
@click.option("--name", default="", help="The model's name in Triton; its file's name by default.")
@click.option("--platform", type=click.Choice(["tensorrt_plan", "onnxruntime_onnx"]), help="By default the target's.")
@click.option("--engine", metavar="FILE", help="The engine; PLAN_DIR/model.engine by default.")
@click.option("--version", type=click.IntRange(1), help="The version's folder; the next one by default.")
@click.option("--max-batch", type=click.IntRange(0), metavar="N", help="Rows in a batch; the profile's by default.")
@click.option("--preferred", metavar="N,..", help="Batch sizes to aim at; the profile's usual and largest by default.")
@click.option(
    "--queue-delay", type=click.IntRange(0), default=100, show_default=True, metavar="US", help="To wait for a batch."
)
@click.option("--no-batching", is_flag=True, help="Do not put requests together.")
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True, help="Copies a device.")
@click.option("--gpus", metavar="N,..", help="Devices; by default every GPU that the server has.")
@click.option("--no-cuda-graphs", is_flag=True, help="Capture no CUDA graphs (TensorRT).")
@click.option("--no-warmup", is_flag=True, help="Do not run golden cases before the model is ready.")
@click.option("--labels", multiple=True, metavar="[OUTPUT=]FILE", help="Class labels, one a line.")
@click.option("--with-baseline", metavar="FILE", help="Serve this model (or engine) beside it, as NAME_baseline.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write what was made as JSON; - is stdout, alone.")
@click.option("--force", is_flag=True, help="Write config.pbtxt anew, and replace a version that is there.")
def repo(plan_dir: str, output: str, json_path: str | None, force: bool, **options: Any) -> int:
    """Write the plan in PLAN_DIR into the model repository REPO.

    A model that REPO has already keeps its config.pbtxt, which is held to the new model, and gets a further version.
    """
    from precision_planner.cli.console import stdout_console, write_result
    from precision_planner.serving.repository import ServingOptions, write_repository

    gpus, preferred = options["gpus"], options["preferred"]
    made = write_repository(
        Path(plan_dir),
        Path(output),
        ServingOptions(
            name=options["name"],
            platform=options["platform"],
            engine=None if options["engine"] is None else Path(options["engine"]),
            version=options["version"],
            max_batch=options["max_batch"],
            preferred=None if preferred is None else numbers(preferred, "--preferred"),
            queue_delay_us=options["queue_delay"],
            batching=not options["no_batching"],
            instances=options["instances"],
            gpus=() if gpus is None else numbers(gpus, "--gpus"),
            cuda_graphs=not options["no_cuda_graphs"],
            warmup=not options["no_warmup"],
            labels=options["labels"],
            baseline=None if options["with_baseline"] is None else Path(options["with_baseline"]),
        ),
        force=force,
    )
    if json_path:
        write_result(json.dumps(made.to_dict(), indent=1), json_path)
    if json_path != "-":
        _render_repository(stdout_console(), made)
    return 0


def _render_repository(console: Console, made: Repository) -> None:
    from precision_planner.cli.console import note
    from precision_planner.reporting.serving_terminal import render_repository

    render_repository(made.to_dict(), console)
    for warning in made.warnings:
        note(f"note: {warning}")
    plugins = ";".join(str(made.folder / plugin) for plugin in made.plugins)
    load = f" --backend-config=tensorrt,plugins={shlex.quote(plugins)}" if plugins else ""
    console.print(f"serve with: tritonserver --model-repository={made.folder}{load}", soft_wrap=True)


@command.command("check", cls=PlannerCommand)
@click.argument("url", metavar="URL")
@click.argument("model", metavar="MODEL")
@click.option("--plan", metavar="PLAN_DIR", help="Golden inputs, answers and tolerance of this plan.")
@click.option("--reference", metavar="MODEL.onnx", help="What is right: the FP32 model (or a plan's folder).")
@click.option("--inputs", metavar="SRC", help="As in planner diff; by default the plan's, or made up.")
@click.option("--tolerance", multiple=True, metavar="[OUTPUT:]METRIC=VALUE", help="By default the plan's.")
@click.option("--grpc", is_flag=True, help="Ask by gRPC; by default by HTTP with binary data.")
@click.option("--as-json", is_flag=True, help="Ask by HTTP with JSON, as clients without binary data do.")
@click.option("--as-given", is_flag=True, help="Send arrays in the types they have, as a naive client does.")
@click.option("--timeout", type=click.FloatRange(0.001, 3600), default=30.0, show_default=True, help="Seconds.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the check as JSON; - is stdout, alone.")
@click.option("--html", "html_path", metavar="FILE", help="Write a self-contained HTML report.")
def check(url: str, model: str, **options: Any) -> int:
    """Send real requests to MODEL on the server at URL and compare its answers with FP32.

    Exit 1 when the answers are beyond the tolerance, garbage, or not finite where the reference is.
    """
    from precision_planner.cli.console import check_results, progress, stdout_console, write_result
    from precision_planner.serving.check import check_server
    from precision_planner.serving.client import parse_address

    address = parse_address(url, grpc=options["grpc"])
    if options["as_json"] and address.protocol == "grpc":
        raise ServerError("--as-json is HTTP's, gRPC has no JSON; leave --grpc or --as-json out")
    plan, reference = options["plan"], options["reference"]
    if reference is not None and (Path(reference) / "plan.json").is_file():
        plan, reference = plan or reference, None
    check_results([options["json_path"], options["html_path"]], [reference, options["inputs"]])
    with progress(f"asking {address}"):
        found = check_server(
            address,
            model,
            reference=reference,
            plan=None if plan is None else Path(plan),
            inputs=options["inputs"],
            tolerance=options["tolerance"],
            as_json=options["as_json"],
            as_given=options["as_given"],
            timeout_s=options["timeout"],
            command=shlex.join(["planner", *sys.argv[1:]]),
        )
    data = found.to_dict()
    if options["json_path"]:
        write_result(json.dumps(data, indent=1, allow_nan=False), options["json_path"])
    if options["html_path"]:
        from precision_planner.cli.report import write_reports

        write_reports(data, options["html_path"], None, None)
    if options["json_path"] != "-":
        _render_check(stdout_console(), found)
    return 0 if found.passed else 1


def _render_check(console: Console, found: ServedCheck) -> None:
    from precision_planner.cli.console import note
    from precision_planner.reporting.serving_terminal import render_check

    for text in found.notes:
        note(f"note: {text}")
    render_check(found.to_dict(), console)


@command.command("load", cls=PlannerCommand)
@click.argument("url", metavar="URL")
@click.argument("model", metavar="MODEL")
@click.option("--against", default="", metavar="MODEL2", help="The baseline to measure beside it.")
@click.option("--concurrency", default="1,11,21,31,41", show_default=True, metavar="N,..", help="Requests under way.")
@click.option("--inputs", metavar="SRC", help="Valid data, as in planner diff.")
@click.option("--plan", metavar="PLAN_DIR", help="Take the golden inputs of this plan.")
@click.option("--reference", metavar="MODEL.onnx", help="Make up valid inputs for this model.")
@click.option("--rows", type=click.IntRange(1), default=1, show_default=True, help="Rows in a request.")
@click.option("--requests", type=click.IntRange(1), default=1000, show_default=True, help="At most, a level.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="At most, a level.")
@click.option("--timeout", type=click.FloatRange(0.001, 3600), default=30.0, show_default=True, help="Seconds.")
@click.option(
    "--client",
    type=click.Choice(["auto", "perf_analyzer", "asyncio"]),
    default="auto",
    show_default=True,
    help="perf_analyzer where it is, else tritonclient.",
)
@click.option("--json", "json_path", metavar="FILE|-", help="Write the levels as JSON; - is stdout, alone.")
@click.option("--csv", "csv_path", metavar="FILE|-", help="Write the levels as CSV; - is stdout, alone.")
@click.option("--html", "html_path", metavar="FILE", help="Write a self-contained HTML report with a plot.")
def load(url: str, model: str, against: str, concurrency: str, **options: Any) -> int:
    """Measure MODEL on the server at URL (its gRPC port) at several levels of concurrent requests.

    Throughput, latency (mean, p50, p90, p95, p99) and the server's own queue and compute time; with --against, the
    baseline's beside them.
    """
    from precision_planner.cli.console import check_results, stdout_console, work, write_result
    from precision_planner.reporting.serving_terminal import render_load
    from precision_planner.serving.client import parse_address
    from precision_planner.serving.load import LoadOptions, load_test
    from precision_planner.serving.load.levels import Limits

    results = [options[name] for name in ("json_path", "csv_path", "html_path")]
    check_results(results, [options["inputs"], options["reference"]])
    limits = Limits(options["requests"], options["seconds"], options["timeout"])
    chosen = LoadOptions(numbers(concurrency, "--concurrency"), limits, options["rows"], options["client"])
    inputs = _load_inputs(options["inputs"], options["plan"], options["reference"])
    with work(f"load on {url}") as say:
        found = load_test(parse_address(url, grpc=True), model, inputs, chosen, against=against, progress=say)
    data = found.to_dict()
    if options["json_path"]:
        write_result(json.dumps(data, indent=1, allow_nan=False), options["json_path"])
    if options["csv_path"]:
        write_result(found.to_csv(), options["csv_path"])
    if options["html_path"]:
        from precision_planner.cli.report import write_reports

        write_reports(data, options["html_path"], None, None)
    if "-" not in results:
        render_load(data, stdout_console())
    return 0


def _load_inputs(source: str | None, plan: str | None, reference: str | None) -> Inputs:
    from precision_planner.model import Model
    from precision_planner.model.inputs import Inputs, load_inputs, read_inputs
    from precision_planner.serving.source import read_plan_folder

    if source is not None:
        return read_inputs(source)
    if plan is not None:
        golden = read_plan_folder(Path(plan)).golden
        if not golden:
            raise OutputError(f"the plan {plan} has no golden cases; give --inputs")
        batches = [dict(inputs) for inputs, _ in golden.values()]
        return Inputs(lambda: iter(batches), f"the golden cases of {plan}", labels=tuple(golden))
    if reference is not None:
        return load_inputs(None, Model.load(reference))
    raise InputsError(
        "a server says which types and shapes it takes, not which values are valid; give --plan PLAN_DIR, --inputs SRC "
        "or --reference model.onnx"
    )
