"""`planner inspect`: what precision anyone's engine really has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from precision_planner.emitting.inspection import Inspection

_MOST = 20


@click.command("inspect")
@click.argument("engine", metavar="ENGINE|LAYERS.json")
@click.option("--profile", metavar="FILE", help="Layer times, as trtexec --exportProfile writes them.")
@click.option("--expect", multiple=True, metavar="BOUND", help="Such as 'half>=80%', 'low@time>=90%', 'islands==0'.")
@click.option("--plugins", multiple=True, metavar="LIB", help="Libraries of the engine's plugins.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the inspection as JSON; - is stdout, alone.")
@click.option("--all", "everything", is_flag=True, help="List every layer, not only the FP32 ones.")
def command(
    engine: str,
    profile: str | None,
    expect: tuple[str, ...],
    plugins: tuple[str, ...],
    json_path: str | None,
    everything: bool,
) -> int:
    r"""Show the share of half, the FP32 islands and the kernels of an engine, and gate on them.

    ENGINE is an engine file (needs the TensorRT that built it, and its GPU), what trtexec --exportLayerInfo or the
    engine inspector wrote (8.4 to 11), or a TensorRT-RTX builder's log. Exit 1 when an --expect is not met.

    \b
    Bounds: half (fp16), bf16, fp8, int8, low (all of these), fp32: a share of the computing layers,
    or of their time with @time; attention, islands, kernels: a number.
    """
    from precision_planner.cli.console import note, stdout_console, write_result
    from precision_planner.emitting.engine_file import parse_layers_file, to_json
    from precision_planner.emitting.inspection import inspect_layers, parse_expectations

    expectations = parse_expectations(expect)
    info = parse_layers_file(Path(engine), None if profile is None else Path(profile), plugins)
    inspection = inspect_layers(info)
    results = [(bound, *bound.check(inspection)) for bound in expectations]
    if json_path:
        data = inspection.to_dict()
        data["expect"] = [{"bound": bound.text, "met": met, "actual": actual} for bound, met, actual in results]
        write_result(to_json(data), json_path)
    if json_path != "-":
        render(stdout_console(), inspection, everything=everything)
    for bound, met, actual in results:
        (note if json_path == "-" else click.echo)(f"{'met' if met else 'NOT MET'}: {bound.text} ({actual})")
    return 0 if all(met for _, met, _ in results) else 1


def render(console: Console, inspection: Inspection, *, everything: bool = False) -> None:
    """The inspection in the terminal."""
    info = inspection.info
    console.print(f"{info.source}: {len(info.layers)} layers, {inspection.computing} of known precision that compute")
    if info.names_only:
        console.print("only names are known: build with --profilingVerbosity=detailed to see the types", soft_wrap=True)
    for name, count in sorted(inspection.by_layers.items(), key=lambda item: -item[1]):
        line = f"  {name:6} {count:5} layers {100 * count / inspection.computing:6.1f} %"
        if inspection.by_time is not None:
            total = sum(inspection.by_time.values())
            ms = inspection.by_time.get(name, 0.0)
            line += f"   {ms:9.4f} ms {100 * ms / total if total else 0:6.1f} %"
        console.print(line)
    if inspection.unknown:
        console.print(
            f"  {inspection.unknown} layers do not tell (an engine with dynamic shapes tells on its GPU only)"
        )
    if inspection.inferred:
        console.print(f"  {inspection.inferred} of them told by their tactic's name alone")
    console.print(f"fused attention kernels: {inspection.attention}")
    console.print(f"FP32 islands: {len(inspection.islands)}")
    for island in inspection.islands[:_MOST]:
        time = "" if island.ms is None else f" {island.ms:.4f} ms"
        nodes = ", ".join(island.nodes[:6]) + (", ..." if len(island.nodes) > 6 else "")
        console.print(f"  {len(island.layers)} layers{time}: {nodes or ', '.join(island.layers[:3])}", soft_wrap=True)
    if len(inspection.islands) > _MOST:
        console.print(f"  ... and {len(inspection.islands) - _MOST} more (--json lists them)")
    if everything:
        for layer in info.layers:
            types = ", ".join(tensor.dtype or "?" for tensor in layer.outputs)
            console.print(f"  {layer.kind or '?':18} -> {types:12} {layer.name}", soft_wrap=True)
