"""The table of prediction against TensorRT 8.6, and what it comes to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evidence.tensorrt86.validation.metrics import verdict

KINDS = {"fp16": "`--fp16`", "half": "forced half"}
WAYS = {"fp16-sums": "FP16 sums", "fp32-sums": "FP32 sums"}
"""The predictions shown: the first one is judged, as plans for weakly typed targets are predicted so."""
DEFAULT = 3
"""TensorRT's builder optimization level where none is asked for."""
FACTOR = 3.0
"""A prediction within this factor of the measurement is close."""
USED = 2e-5
"""An engine whose error is below this has computed nothing in FP16 (FP32 without TF32: 1e-7 to 1e-5)."""
ALIKE = 0.01
"""A wrong engine whose relative error is within this share of the misread model's (`misread.py`) misread it so."""
RIGHT = 1e-3
"""A case whose FP32 engine is further off than this says nothing about FP16: its parser or builder is wrong."""


@dataclass(frozen=True)
class Row:
    """One FP16 engine beside its predictions: relative L2 errors, NaN where an output is not finite."""

    case: str
    exporter: str
    kind: str
    level: int
    predicted: Mapping[str, float]
    measured: float
    verdicts: tuple[str, str]
    ms: float | None

    @property
    def used(self) -> bool:
        """Whether the engine computed in FP16."""
        return not self.measured <= USED

    @property
    def right(self) -> bool:
        """Whether the verdict was predicted."""
        return self.verdicts[0] == self.verdicts[1]

    def ratio(self, way: str) -> float | None:
        """Predicted by measured; None where neither is finite, NaN where one is."""
        predicted = self.predicted[way]
        if math.isnan(predicted) and math.isnan(self.measured):
            return None
        return predicted / self.measured if self.measured else math.inf

    def close(self, way: str) -> bool:
        """Whether the prediction is within `FACTOR`; non-finite where that was predicted counts."""
        by = self.ratio(way)
        return by is None or 1 / FACTOR <= by <= FACTOR


def error(outputs: Mapping[str, Mapping[str, Any]]) -> float:
    """Relative L2 error of the worst output; NaN where one is not finite."""
    found = [math.nan if o["rel_l2"] is None else o["rel_l2"] for o in outputs.values()]
    return math.nan if any(map(math.isnan, found)) else max(found)


def rows_of(found: Mapping[str, Any]) -> list[Row]:
    """The engines that were built with FP16 allowed, by model; without those of models that are wrong in FP32 too.

    A model's first row is the one it is counted by: that of its highest level, nearest to TensorRT's default of 3.
    """
    engines = found["engines"].values()
    wrong = {e["case"] for e in engines if e["kind"] == "fp32" and "outputs" in e and not error(e["outputs"]) <= RIGHT}
    rows = []
    for engine in engines:
        about = found["cases"][engine["case"]]
        if engine["kind"] not in KINDS or "outputs" not in engine or engine["case"] in wrong:
            continue
        judged = about["predicted"][next(iter(WAYS))]
        rows.append(
            Row(
                case=engine["case"],
                exporter=f"{about['exporter']} {about['opset']}",
                kind=engine["kind"],
                level=engine["level"],
                predicted={way: error(about["predicted"][way]["outputs"]) for way in WAYS},
                measured=error(engine["outputs"]),
                verdicts=(verdict(judged["outputs"]), verdict(engine["outputs"])),
                ms=engine.get("ms"),
            )
        )
    return sorted(rows, key=lambda row: (row.level == 0, row.case, -row.level, list(KINDS).index(row.kind)))


def number(value: float | None) -> str:
    """Two digits; a dash for nothing."""
    return "–" if value is None else "NaN" if math.isnan(value) else f"{value:.2g}"


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown."""
    heads = ["model", "exporter, opset", "engine", "level"]
    heads += [*(f"predicted, {said}" for said in WAYS.values()), "measured"]
    heads += [*(f"ratio, {said}" for said in WAYS.values()), "verdict predicted", "measured", "ms"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row.case, row.exporter, KINDS[row.kind], str(row.level)]
        cells += [*(number(row.predicted[way]) for way in WAYS), number(row.measured)]
        cells += [number(row.ratio(way)) for way in WAYS]
        cells += [row.verdicts[0], row.verdicts[1] + ("" if row.used else " (FP32)"), f"{row.ms:.2f}" if row.ms else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def summary(rows: Sequence[Row], found: Mapping[str, Any]) -> list[str]:
    """How many models, verdicts right, predictions close; what missed; what was not built."""
    lines = []
    used = [row for row in rows if row.used]
    for said, kinds in (("`--fp16` or forced half", list(KINDS)), *((KINDS[kind], [kind]) for kind in KINDS)):
        # a model's first row counts: an engine more, of another kind or level, is no model more
        models = {row.case: row for row in reversed(used) if row.kind in kinds}.values()
        close = ", ".join(f"{sum(row.close(way) for row in models)} with {name}" for way, name in WAYS.items())
        both = sum(row.ratio(next(iter(WAYS))) is None for row in models)
        lines.append(
            f"{said}: {len(models)} models, verdict right in {sum(row.right for row in models)}, error within "
            f"{FACTOR:g}x in {close} (not finite in both, as predicted: {both})."
        )
    good = [row for row in used if row.right and row.ratio(next(iter(WAYS))) is not None]
    spread = (f"{number(min(r))} to {number(max(r))} with {name}" for way, name in WAYS.items()
              if (r := [row.ratio(way) or 0.0 for row in good]))  # fmt: skip
    lines.append(f"Predicted by measured, where the verdict is right: {', '.join(spread)}.")
    wrong = [row for row in used if not row.right or not row.close(next(iter(WAYS)))]
    missed = sorted({row.case + (f" at level {row.level}" if row.level != DEFAULT else "") for row in wrong})
    lines.append(f"Missed: {', '.join(missed) or 'none'}.")
    misread = found.get("misread", {})
    defect = [row for row in wrong if abs(row.measured / misread.get(row.case, math.inf) - 1) < ALIKE]
    lines.append(
        f"Of the {len(wrong)} engines missed {len(defect)} have the error of misread planes, the builder's defect "
        f"described below, which no prediction of rounding covers; missed otherwise: {len(wrong) - len(defect)}."
    )
    plain = sorted({f"{row.case} {KINDS[row.kind]}" for row in rows if not row.used})
    lines.append(f"Came out in FP32: {', '.join(plain) or 'none'}.")
    engines = found["engines"].values()
    tried = Counter((engine["case"], engine["kind"]) for engine in engines)
    failed: dict[str, list[str]] = {}
    for engine in engines:
        if "outputs" not in engine:
            name = "FP32" if engine["kind"] == "fp32" else KINDS[engine["kind"]]
            at = f" at level {engine['level']}" if tried[engine["case"], engine["kind"]] > 1 else ""
            failed.setdefault(engine["case"], []).append(name + at)
    said = ", ".join(f"{case} ({', '.join(kinds)})" for case, kinds in sorted(failed.items()))
    lines.append(f"Tried, but not built in the time there was: {said or 'none'}.")
    never = sorted(set(found["cases"]) - {engine["case"] for engine in engines})
    lines.append(f"Predicted, but never tried: {', '.join(never) or 'none'}.")
    return lines
