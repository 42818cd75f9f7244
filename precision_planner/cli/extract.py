"""`planner extract`: a small model that reproduces a finding."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precision_planner.cli.completion import complete_selector
from precision_planner.cli.grouping import PlannerCommand
from precision_planner.cli.made_up import inputs_options
from precision_planner.cli.report import read_report
from precision_planner.errors import SelectorError

if TYPE_CHECKING:
    from precision_planner.model import Model


@click.command("extract", cls=PlannerCommand)
@click.argument("model", metavar="MODEL")
@click.option(
    "--around",
    required=True,
    multiple=True,
    metavar="SEL|VALUE|FILE.json",
    shell_complete=complete_selector,
    help="Nodes, a value, or a saved diff or analysis: its first divergence, or its first finding's nodes.",
)
@click.option("-o", "--output", "output", required=True, metavar="OUT", help="The small model; OUT.npz has its inputs.")
@click.option("--radius", default=2, show_default=True, type=click.IntRange(0, 1000), help="Nodes up and down to take.")
@click.option("--inputs", metavar="SRC", help="Inputs of MODEL; by default valid ones are synthesised.")
@click.option("--force", is_flag=True, help="Overwrite OUT.")
@inputs_options
def command(model: str, around: tuple[str, ...], output: str, radius: int, inputs: Any, force: bool) -> int:
    """Cut the nodes around NODE out of MODEL, with the inputs they had there."""
    from precision_planner.cli.console import note, stdout_console
    from precision_planner.model import Model
    from precision_planner.model.arrays import write_npz
    from precision_planner.model.extract import extract_around
    from precision_planner.model.inputs import load_inputs
    from precision_planner.reporting.lines import print_command
    from precision_planner.simulation import is_typed_low
    from precision_planner.writing import atomic_files, check_output

    loaded = Model.load(model)
    path = Path(output)
    data_path = path.with_name(path.name + ".npz")
    protected = loaded.files | ({Path(inputs)} if isinstance(inputs, str) else set())
    for target in (path, data_path):
        check_output(target, force=force, protect=frozenset(protected))
    names = [name for text in around for wanted in _nodes_of(text) for name in _selected(loaded, wanted)]
    batches = load_inputs(inputs, loaded)
    found = extract_around(loaded, names, batches, radius=radius)
    with atomic_files(data_path) as (file,):  # which appears once the model is there
        write_npz(file, found.inputs)
        found.model.save(path, force=force, external=False)
    if batches.synthesised:
        note(f"inputs: {batches.source}")
    console = stdout_console()
    console.print(f"wrote {path}: {len(found.nodes)} nodes, and their inputs to {data_path}", soft_wrap=True)
    again = ["planner", "diff", str(path), str(path), "--inputs", str(data_path), "--layers"]
    if not is_typed_low(found.model):  # a typed graph is simulated as it is typed
        again += ["--simulate", "fp16"]
    print_command(console, shlex.join(again), "reproduce:")
    return 0


def _nodes_of(text: str) -> list[str]:
    """A node's name as it is; of a saved report the node that it points at."""
    path = Path(text)
    if path.suffix != ".json" or not path.is_file():
        return [text]
    data = read_report(path)
    first = data.get("first_divergence") or {}
    if first.get("value"):
        return [str(first["value"])]
    for finding in data.get("findings") or ():
        nodes = finding.get("nodes") or ([finding["subject"]] if finding.get("subject") else [])
        if nodes:
            return [str(node) for node in nodes]
    raise SelectorError(f"--around {text}: it has neither a first divergence nor a finding with nodes; name a node")


def _selected(model: Model, text: str) -> list[str]:
    """The names of the main graph's nodes that a selector means; a name or value of the main graph means itself."""
    from precision_planner.model import GraphIndex, display_name
    from precision_planner.patterns.selecting import select

    index = GraphIndex(model.proto)
    main = index.main
    if any(display_name(node) == text or text in node.output for node in main.nodes):
        return [text]
    try:
        chosen = select(model, text, index=index)
    except SelectorError:
        return [text]  # perhaps a node inside a function, which the cut inlines; the cut says so if it is none
    return [display_name(node) for at, node in enumerate(main.nodes) if index.node_id(main, at) in chosen] or [text]
