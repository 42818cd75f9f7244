"""The distribution of a plan's prediction: what is built, drawn a few times, and judged as the prediction is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from precision_planner.judging.evidence import find_evidence
from precision_planner.judging.judge import ALWAYS, Judge
from precision_planner.judging.metrics import METRICS, json_number
from precision_planner.judging.quantiles import DRAWS, SHARE, TOLD, quantiles, upper
from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.planning.ground import Ground
from precision_planner.planning.request import Aim
from precision_planner.simulation import prepare
from precision_planner.simulation.draws import can_draw, draw_feeds

__all__ = ["Built", "spread"]


@dataclass(frozen=True)
class Built:
    """What a build computes, as it is simulated.

    Attributes:
      model: typed, or in FP32.
      how: options of `precision_planner.simulation.prepare`; None: nothing is rounded.
    """

    model: Model
    how: Mapping[str, Any] | None


def spread(ground: Ground, built: Built, aim: Aim) -> dict[str, Any]:
    """Draw a plan on the batches that plans are judged on.

    Returns:
      JSON-ready: {draws, share, batches, quantiles: output -> metric -> what a device will hardly exceed, passed:
      whether the tolerance holds there, None without one, reason: why nothing was drawn, ""}.
    """
    reason = ""
    if built.how is None:
        reason = "nothing is rounded to a shorter type"
    elif not can_draw(built.model):
        reason = f"opset {built.model.opset} has not what draws take; export the model at 7 or newer"
    told: dict[str, Any] = {"draws": 0, "share": SHARE, "batches": len(ground.answered), "quantiles": {}}
    if reason or built.how is None:
        return {**told, "passed": None, "reason": reason}
    evidence = find_evidence(ground.model).evidence
    measured = [record for name, record in METRICS.items() if name in {*TOLD, *ALWAYS}]
    simulation = prepare(built.model, draws=True, **built.how)
    judgements = []
    with Session(simulation.model) as session:
        for draw in range(1, DRAWS + 1):
            judge = Judge(aim.bounds, aim.metrics, evidence, measured)
            for batch, expected in zip(ground.batches, ground.references, strict=True):
                judge.add(expected, session.run({**simulation.feeds(batch), **draw_feeds(draw)}))
            judgements.append(judge.result())
    found = {
        output: {metric: json_number(float(f"{value:.9g}")) for metric, value in values.items()}
        for output, values in quantiles(judgements, aim.metrics).items()
    }
    passed = upper([judgement.score for judgement in judgements]) <= 1.0 if aim.bounds else None
    return {**told, "draws": DRAWS, "quantiles": found, "passed": passed, "reason": ""}
