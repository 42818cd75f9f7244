"""`planner inspect`: what precision anyone's engine really has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from precision_planner.cli.grouping import PlannerCommand

if TYPE_CHECKING:
    from rich.console import Console

    from precision_planner.engines.inspection import Inspection
    from precision_planner.engines.weights import WeightEvidence
    from precision_planner.model import Model

_MOST = 20


@click.command("inspect", cls=PlannerCommand)
@click.argument("engine", metavar="ENGINE|LAYERS.json")
@click.option("--profile", metavar="FILE", help="Layer times, as trtexec --exportProfile writes them.")
@click.option(
    "--model", "model_path", metavar="MODEL", help="What it was built from: its weights are looked for in ENGINE."
)
@click.option("--plan", "plan_path", metavar="plan.json", help="What it was to be, where the model does not say.")
@click.option("--layers", "layers_path", metavar="LAYERS.json", help="Its layers, where ENGINE cannot be loaded here.")
@click.option(
    "--expect", multiple=True, metavar="BOUND", help="Such as 'half>=80%', 'islands==0', 'kept>=100%', 'sums=fp32:SEL'."
)
@click.option("--plugins", multiple=True, metavar="LIB", help="Libraries of the engine's plugins.")
@click.option("--allow-host-code", is_flag=True, help="Run the code that a version-compatible engine brings.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the inspection as JSON; - is stdout, alone.")
@click.option("--all", "everything", is_flag=True, help="List every layer, not only the FP32 ones.")
def command(
    engine: str,
    profile: str | None,
    model_path: str | None,
    plan_path: str | None,
    layers_path: str | None,
    expect: tuple[str, ...],
    plugins: tuple[str, ...],
    allow_host_code: bool,
    json_path: str | None,
    everything: bool,
) -> int:
    r"""Show the share of half, the FP32 islands and the kernels of an engine, and gate on them.

    ENGINE is an engine file (needs the TensorRT that built it, and its GPU), what trtexec --exportLayerInfo or the
    engine inspector wrote (8.4 to 11), or a TensorRT-RTX builder's log. Exit 1 when an --expect is not met.

    \b
    Bounds: half (fp16), bf16, fp8, int8, low (all of these), fp32: a share of the computing layers,
    or of their time with @time; attention, islands, kernels: a number. With --model: kept, the share of the weights
    asked for in FP32 or BF16 that stand so in the engine's bytes (no TensorRT and no GPU needed), and sums=fp32:SEL,
    what the kernels of these products add up in.
    """
    from precision_planner.cli.console import note, stdout_console, write_result
    from precision_planner.engines.engine_file import parse_layers_file, to_json
    from precision_planner.engines.expect import Result, check_kept, check_sums, split_expectations
    from precision_planner.engines.inspection import inspect_layers, parse_expectations
    from precision_planner.errors import EngineError, MissingExtraError

    on_layers, on_weights, on_sums = split_expectations(expect)
    expectations = parse_expectations(on_layers) if on_layers else ()
    if model_path is None and (on_weights or on_sums or plan_path):
        raise EngineError("--plan, kept and sums need the model that the engine was built from: give --model")
    weights, model = _weights(engine, model_path, plan_path)
    listing = Path(layers_path or engine)
    info = None
    try:
        info = parse_layers_file(
            listing, None if profile is None else Path(profile), plugins, host_code=allow_host_code
        )
    except (EngineError, MissingExtraError) as error:
        if model_path is None or on_layers or on_sums or layers_path:
            raise
        note(f"only the weights are looked at: {error}")
    inspection = None if info is None else inspect_layers(info)
    results: list[Result] = []
    if inspection is not None:
        results += [Result(bound.text, *bound.check(inspection)) for bound in expectations]
    results += [check_kept(text, weights) for text in on_weights]
    if info is not None and model is not None:
        results += [check_sums(text, info, model) for text in on_sums]
    if json_path:
        unread = {"schema_version": 1, "kind": "inspection", "source": engine, "by_layers": {}}
        data = unread if inspection is None else inspection.to_dict()
        data["weights"] = [weight.to_dict() for weight in weights]
        data["expect"] = [{"bound": one.text, "met": one.met, "actual": one.actual} for one in results]
        write_result(to_json(data), json_path)
    if json_path != "-":
        if inspection is not None:
            render(stdout_console(), inspection, everything=everything)
        if model_path is not None:
            render_weights(stdout_console(), weights, everything=everything)
    for one in results:
        (note if json_path == "-" else click.echo)(f"{'met' if one.met else 'NOT MET'}: {one.text} ({one.actual})")
    return 0 if all(one.met for one in results) else 1


def _weights(
    engine: str, model_path: str | None, plan_path: str | None
) -> tuple[tuple[WeightEvidence, ...], Model | None]:
    """What the engine's bytes say of the weights asked for, and the model."""
    if model_path is None:
        return (), None
    from precision_planner.engines.asking import asked_weights
    from precision_planner.engines.engine_file import engine_origin
    from precision_planner.engines.weights import find_weights
    from precision_planner.errors import EngineError
    from precision_planner.model import Model
    from precision_planner.plans.plan import PrecisionPlan

    model = Model.load(Path(model_path))
    try:
        with Path(engine).open("rb") as file:
            head = file.read(32)
        plan = None if plan_path is None else PrecisionPlan.from_json(Path(plan_path).read_text("utf-8"))
    except OSError as error:
        raise EngineError(f"{error.filename}: {error.strerror}; give an engine or its layer information") from None
    if engine_origin(head) is None:
        return (), model  # a listing of layers has no weights
    return find_weights(Path(engine), asked_weights(model, plan)), model


def render_weights(console: Console, weights: Sequence[WeightEvidence], *, everything: bool = False) -> None:
    """What became of the weights in the terminal."""
    counts = Counter(weight.verdict for weight in weights)
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) or "none asked for"
    console.print(f"weights in FP32 or BF16, by the engine's bytes: {words}", soft_wrap=True)
    shown = [weight for weight in weights if everything or weight.verdict not in ("kept", "indistinct")]
    for weight in shown[:_MOST]:
        console.print(f"  {weight.verdict:12} {weight.name}: {weight.how}", soft_wrap=True, markup=False)
    if len(shown) > _MOST:
        console.print(f"  ... and {len(shown) - _MOST} more (--json lists them)")
    told = [weight.chance for weight in weights if weight.verdict in ("kept", "rounded")]
    if told:
        console.print(f"  a false answer among them has a chance of at most {min(1.0, sum(told)):.0e}")


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
