"""python -m evidence.coverage [--runs]: how many of the errors measured on GPUs lie under the quantile of their draws.

Fresh runs (spread/fresh.jsonl) and stored ones whose models could be made again (spread/remade.jsonl) have draws; of
others there is only the one prediction that was stored, and they are counted by it alone. "Lost" are runs in which
something finite became infinite or NaN: they count as covered where that was predicted. `--runs` lists those beyond.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evidence.spread.drawing import Errors
from evidence.spread.remade import runs
from evidence.table import show
from precision_planner.judging.quantiles import DRAWS, SHARE, upper

HERE = Path(__file__).parent / "spread"
NOISE = 2e-6
"""Relative errors below this are FP32's own: such a run computed nothing in a shorter type."""


@dataclass(frozen=True)
class Measured:
    """One metric of one run beside its prediction.

    Attributes:
      source: where it was measured.
      name: of the run.
      metric: of the output.
      value: measured.
      nearest: predicted, rounded to nearest.
      quantile: of the draws; None where there are none.
    """

    source: str
    name: str
    metric: str
    value: float
    nearest: float
    quantile: float | None

    @property
    def covered(self) -> bool:
        """Whether it lies under the quantile."""
        return self.quantile is not None and (self.value <= self.quantile or math.isinf(self.quantile))


def measured() -> Iterator[Measured]:
    """Every metric of every run that has a prediction."""
    drawn = {(r["source"], r["name"]): r for r in _lines("remade.jsonl") if "nearest" in r}
    for run in runs():
        found = drawn.get((run.source, run.name), {})
        yield from _metrics(run.source, run.name, run.measured, found.get("nearest") or run.nearest, found.get("draws"))
    for record in _lines("fresh.jsonl"):
        if "measured" in record and "nearest" in record:
            level = f", optimizations {record['level']}" if "level" in record else ""
            source = f"{record['runtime']}, {'TF32' if record['kind'] == 'tf32' else 'FP16'}{level}"
            yield from _metrics(source, record["model"], record["measured"], record["nearest"], record["draws"])


def _metrics(
    source: str, name: str, found: Errors, nearest: Errors | None, draws: list[Errors] | None
) -> Iterator[Measured]:
    if nearest is None or found.get("rel_l2", 1.0) < NOISE:
        return
    for metric, value in found.items():
        if metric not in nearest:
            continue
        quantile = upper([draw[metric] for draw in draws[:DRAWS]]) if draws else None
        yield Measured(source, name, metric, value, nearest[metric], quantile)


def _lines(name: str) -> list[dict[str, object]]:
    path = HERE / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []  # type: ignore[misc]


def rows(found: list[Measured]) -> Iterator[tuple[object, ...]]:
    """A row for each source and metric."""
    for place in dict.fromkeys((one.source, one.metric) for one in found):
        here = [one for one in found if (one.source, one.metric) == place]
        drawn = [one for one in here if one.quantile is not None]
        ratios = [one.value / one.nearest for one in here if 0 < one.nearest < math.inf and one.value < math.inf]
        wide = [one.quantile / one.nearest for one in drawn if one.quantile and 0 < one.nearest < math.inf]
        wide = [ratio for ratio in wide if math.isfinite(ratio)]
        yield (
            *place,
            len(here),
            len(drawn),
            sum(one.covered for one in drawn),
            f"{sum(one.covered for one in drawn) / len(drawn):.1%}" if drawn else None,
            statistics.median(wide) if wide else None,
            statistics.median(ratios) if ratios else None,
            max(ratios, default=None),
        )


def main() -> None:
    """Print."""
    found = list(measured())
    show(
        f"Measured errors under the {SHARE:.0%} quantile of {DRAWS} draws",
        ("measured by", "metric", "runs", "drawn", "covered", "share", "quantile / predicted", "measured / predicted", "worst"),
        rows(found),
    )  # fmt: skip
    whole = [one for one in found if one.quantile is not None]
    if whole:
        print(f"\n{sum(one.covered for one in whole)} of {len(whole)} measured values lie under their quantile.")
    undrawn = {(one.source, one.name) for one in found if one.quantile is None}
    if undrawn:
        print(f"Of {len(undrawn)} stored runs only the prediction is known: their models cannot be made again here.")
    if "--runs" in sys.argv[1:]:
        beyond = [one for one in whole if not one.covered]
        head = ("measured by", "run", "metric", "measured", "predicted", "quantile")
        show(
            "Beyond the quantile", head, [(o.source, o.name, o.metric, o.value, o.nearest, o.quantile) for o in beyond]
        )


if __name__ == "__main__":
    main()
