"""How `--help` looks: options in groups, the same ones in every command, and examples that can be copied."""

from __future__ import annotations

import click

from precision_planner.reporting.lines import command_lines

GROUPS: dict[str, tuple[str, ...]] = {
    "Inputs": (
        *("--inputs", "--input-shapes", "--seed", "--val-range", "--save-inputs", "--batch-size", "--no-calibrate"),
        *("--allow-host-code", "--plan", "--reference", "--model", "--around", "--radius", "--profile", "--rows"),
    ),
    "Target and precision": (
        *("--target", "--precision", "--keep-fp32", "--keep-bf16", "--keep-sum32", "--only-low", "--keep-as"),
        *("--io-types", "--int32-inputs", "--weights", "--headroom", "--policy", "--simulate", "--semantics"),
        *("--accumulation", "--tf32", "--provider", "--version", "--bits"),
    ),
    "Graph": ("--fuse", "--no-fuse", "--layernorm", "--plugins", "--surgery", "--no-verify", "--list-passes"),
    "Tolerance and verdict": (
        *("--tolerance", "--metric", "--expect", "--fail-on", "--fail-on-made-up", "--layers", "--explain"),
        *("--no-attention",),
    ),
    "Search": ("--budget", "--jobs", "--scheduler"),
    "Rules": ("--rules", "--only", "--disable", "--test", "--new", "--docs"),
    "Build": (
        *("--minShapes", "--optShapes", "--maxShapes", "--workspace", "--builder-level", "--version-compatible"),
        *("--hardware-compatible", "--hold-low", "--compute-capabilities"),
    ),
    "Serving": (
        *("--name", "--platform", "--engine", "--max-batch", "--preferred", "--queue-delay", "--no-batching"),
        *("--instances", "--gpus", "--no-cuda-graphs", "--no-warmup", "--labels", "--with-baseline", "--grpc"),
        *("--as-json", "--as-given", "--timeout", "--against", "--concurrency", "--requests", "--seconds", "--client"),
    ),
    "Results": (
        "--output",
        "--json",
        "--csv",
        "--html",
        "--md",
        "--junit",
        "--node-data",
        "--force",
        "--annotate",
        "--all",
    ),
    "General": (
        *("--verbose", "--quiet", "--log-file", "--log-format", "--help"),
        *("--install-completion",),
    ),
}
"""Heading -> the options below it, by their long names; what is in none is listed first, without one."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "analyze": (
        "planner analyze model.onnx",
        "planner analyze model.onnx --inputs data.npz --html report.html",
        "planner analyze model.onnx --fail-on error --json -",
    ),
    "rewrite": (
        "planner rewrite model.onnx",
        "planner rewrite model.onnx -o out.onnx --keep-fp32 layernorm,softmax --io-types low",
        "planner rewrite model.onnx --precision bf16 --inputs data.npz",
    ),
    "plan": (
        "planner plan model.onnx -o plan --inputs data.npz",
        "planner plan model.onnx -o plan --target tensorrt-10-strong --inputs data --tolerance logits:top1=0.99",
        "planner plan model.onnx -o plan --minShapes ids:1x16 --optShapes ids:8x128 --maxShapes ids:40x300",
    ),
    "build": ("planner build plan", "planner build plan -o model.engine -- --builder-optimization-level=5"),
    "inspect": ("planner inspect model.engine", "planner inspect layers.json --expect 'half>=80%'"),
    "diff": (
        "planner diff model.onnx model.fp16.onnx --inputs data.npz",
        "planner diff model.onnx model.onnx --simulate fp16 --layers --html diff.html",
        "planner diff model.onnx plan --tolerance cosine=0.999 --junit diff.xml",
    ),
    "check": (
        "planner check model.onnx",
        "planner check model.onnx --plan plan",
        "planner check model.onnx --tolerance cosine=0.999 --inputs data.npz --json -",
    ),
    "report": ("planner report diff.json --html diff.html", "planner report plan"),
    "rules": ("planner rules", "planner rules LN001", "planner rules --test my-rules"),
    "extract": ("planner extract model.onnx --around /layer.0/Softmax -o small.onnx",),
    "migrate": ("planner migrate 'trtexec --onnx=model.onnx --fp16'", "planner migrate build.py --target tensorrt-11"),
    "fp16": ("planner fp16 65519 1e-7 0.1", "planner fp16 --bits 0x4248"),
    "triton repo": (
        "planner triton repo plan -o models",
        "planner triton repo plan -o models --labels labels.txt --with-baseline model.onnx",
    ),
    "triton check": (
        "planner triton check localhost:8000 bert --plan plan",
        "planner triton check localhost:8001 bert --grpc --reference model.onnx --inputs data.npz",
    ),
    "triton load": (
        "planner triton load localhost:8001 bert --against bert_baseline --plan plan --html load.html",
        "planner triton load localhost:8001 bert --inputs data.npz --concurrency 1,11,21,31,41",
    ),
}
"""Command -> examples, each of which a test parses."""


class PlannerCommand(click.Command):
    """A command whose help groups its options and ends with examples."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section a group."""
        records: dict[str, list[tuple[str, str]]] = {"Options": [], **{title: [] for title in GROUPS}}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                records[group_of(param)].append(record)
        for title, rows in records.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each on its own line however narrow the terminal is."""
        super().format_epilog(ctx, formatter)
        examples = EXAMPLES.get(" ".join(word for word in ctx.command_path.split() if word != "planner"), ())
        if examples:
            with formatter.section("Examples"):
                for example in examples:
                    for line in command_lines(example, formatter.width, formatter.current_indent):
                        formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def group_of(param: click.Parameter) -> str:
    """The heading that an option stands below."""
    names = set(param.opts)
    return next((title for title, options in GROUPS.items() if names.intersection(options)), "Options")
