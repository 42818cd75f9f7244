"""`--annotate`: an analysis of the model that came in, put on the nodes of the model that goes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precision_planner.model import Model


def annotated(
    source: Model,
    made: Model,
    *,
    decided: Iterable[Mapping[str, Any]],
    names: Mapping[str, str | None],
    inputs: Any,
    precision: str,
    target: str | None,
) -> Model:
    """The model that was made, with what an analysis says of its nodes; see `rewriting.metadata`.

    Args:
      source: the model that came in.
      made: what became of it.
      decided: {node, precision, reason} of nodes of `made`.
      names: node name in `source` -> in `made`.
      inputs: what ranges are measured on, as for `planner analyze`.
      precision: "fp16", "bf16", or "fp32", which is looked at as FP16.
      target: the build target; None takes the default.
    """
    from precision_planner.analysis import Analysis, analyze
    from precision_planner.cli.analyze import measured
    from precision_planner.cli.console import note
    from precision_planner.model.inputs import Inputs
    from precision_planner.rewriting.metadata import annotate
    from precision_planner.targets import DEFAULT_TARGET

    low = precision if precision != "fp32" else "fp16"

    def run(data: Inputs | None) -> Analysis:
        return analyze(source, inputs=data, precision=low, target=target or DEFAULT_TARGET)

    found = measured(source, inputs, run, note).to_dict()
    told = {str(entry["node"]): (str(entry["precision"]), str(entry["reason"])) for entry in decided}
    return annotate(made, told, found, names)
