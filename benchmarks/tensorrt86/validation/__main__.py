"""Print the table of prediction against TensorRT 8.6, from the committed measurements; or merge new ones into them.

python -m benchmarks.tensorrt86.validation                                the table
python -m benchmarks.tensorrt86.validation CASES results.jsonl...         merge, then the table
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tensorrt86.validation.metrics import verdict

RESULTS = Path(__file__).with_name("results.json")
KINDS = ("fp16", "half")
FACTOR = 3.0
"""A prediction within this factor of the measurement is close."""
USED = 2e-5
"""An engine whose error is below this has computed nothing in FP16 (FP32 without TF32: 1e-7 to 1e-5)."""
RIGHT = 1e-3
"""A case whose FP32 engine is further off than this says nothing about FP16: its parser or builder is wrong."""


def merge(arguments: list[str]) -> None:
    """Predictions of the case folders and lines of results.jsonl; of an engine measured twice the later one stays."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cases": {}, "engines": {}}
    for path in sorted(Path(arguments[0]).glob("*/case.json")):
        about = json.loads(path.read_text())
        kept = ("case", "exporter", "opset", "predicted")
        found["cases"][about["case"]] = {key: about[key] for key in kept}
    for name in arguments[1:]:
        for line in Path(name).read_text().splitlines():
            # a diverged engine writes NaN, which JSON does not have
            result = json.loads(line, parse_constant=lambda _: None)
            job = result.pop("job", {})
            result.pop("said", None)
            if "search" in job:
                found.setdefault("cuts", {})[result["id"]] = cut_of(job, result)
            else:
                found["engines"][result.pop("id")] = result
    clean = json.loads(json.dumps(found), parse_constant=lambda _: None)
    RESULTS.write_text(json.dumps(clean, indent=1, sort_keys=True) + "\n")


def cut_of(job: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of an engine that a search built: what it was, and its error."""
    kept = {key: job[key] for key in ("kind", "level", "cut", "depth", "keep") if key in job}
    outputs = result.get("outputs", {})
    return {**kept, "rel_l2": [o["rel_l2"] for o in outputs.values()], "error": result.get("error")}


def error(outputs: Mapping[str, Mapping[str, Any]]) -> float:
    """Relative L2 error of the worst output; NaN where one is not finite."""
    found = [math.nan if o["rel_l2"] is None else o["rel_l2"] for o in outputs.values()]
    return math.nan if any(map(math.isnan, found)) else max(found)


def ratio(predicted: float, measured: float) -> float:
    """Predicted by measured; 1 where both are not finite."""
    if math.isnan(predicted) or math.isnan(measured):
        return 1.0 if math.isnan(predicted) and math.isnan(measured) else math.nan
    return predicted / measured if measured else math.inf


def number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.2g}"


def rows(found: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The table's lines, and what each engine comes to."""
    lines = [
        "| model | exporter, opset | engine | level | predicted fused | typed | measured | ratio | predicted "
        "| measured | SAD | layers half / float / mixed | ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    judged = []
    for name, about in sorted(found["cases"].items()):
        for kind in KINDS:
            engine = found["engines"].get(f"{name}.{kind}")
            full = found["engines"].get(f"{name}.fp32", {}).get("outputs")
            if engine is None or "outputs" not in engine or (full is not None and not error(full) <= RIGHT):
                continue
            fused, typed = (about["predicted"][semantics] for semantics in ("fused", "typed"))
            measured = error(engine["outputs"])
            by = ratio(error(fused["outputs"]), measured)
            says, said = fused["verdict"], verdict(engine["outputs"])
            used = not measured <= USED
            judged.append({"case": name, "kind": kind, "ratio": by, "right": says == said, "used": used})
            counts = engine.get("counts", {})
            ms = engine.get("ms", {})
            sad = max((o["sad"] or 0.0 for o in engine["outputs"].values()), default=0.0)
            cells = [
                name, f"{about['exporter']} {about['opset']}", kind, str(engine.get("level", 3)),
                number(error(fused["outputs"])),
                number(error(typed["outputs"])), number(measured), number(by), says, said if used else f"{said} (FP32)",
                number(sad), "/".join(str(counts.get(key, "?")) for key in ("half", "float", "mixed")),
                f"{list(ms.values())[-1]:.2f}" if ms else "",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return lines, judged


def summary(judged: list[dict[str, Any]]) -> list[str]:
    """A line for each kind of engine: verdicts right, predictions close."""
    lines = []
    for kind in KINDS:
        used = [j for j in judged if j["kind"] == kind and j["used"]]
        right = sum(j["right"] for j in used)
        close = sum(1 / FACTOR <= j["ratio"] <= FACTOR for j in used)
        other = sum(j["kind"] == kind and not j["used"] for j in judged)
        lines.append(
            f"{kind}: verdict right in {right} of {len(used)} models, error within {FACTOR:g}x in {close}; "
            f"{other} more came out in FP32"
        )
        missed = [f"{j['case']} ({number(j['ratio'])}{'' if j['right'] else ', verdict'})" for j in used
                  if not j["right"] or not 1 / FACTOR <= j["ratio"] <= FACTOR]  # fmt: skip
        if missed:
            lines.append(f"{kind} misses: {', '.join(missed)}")
    return lines


def main(arguments: list[str]) -> None:
    """Merge what is named, and print."""
    if arguments:
        merge(arguments)
    if not RESULTS.exists():
        raise SystemExit(f"{RESULTS} is not there yet: measure first, see the README beside it")
    lines, judged = rows(json.loads(RESULTS.read_text()))
    print("\n".join([*lines, "", *summary(judged)]))


if __name__ == "__main__":
    main(sys.argv[1:])
