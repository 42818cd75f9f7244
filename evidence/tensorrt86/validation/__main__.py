"""Print the table of prediction against TensorRT 8.6, from the committed measurements; or merge new ones into them.

python -m evidence.tensorrt86.validation                                the table
python -m evidence.tensorrt86.validation --parts                        the engines of parts of SegFormer's graph
python -m evidence.tensorrt86.validation CASES results.jsonl...         merge, then the table
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidence.tensorrt86.validation.parts import part_of, parts_line, parts_table
from evidence.tensorrt86.validation.table import KINDS, WAYS, rows_of, summary, table

RESULTS = Path(__file__).with_name("results.json")
KEPT = ("rel_l2", "sad", "max_abs", "rows", "flipped", "nonfinite", "nonfinite_reference")


def merge(found: dict[str, Any], cases: Path, results: list[Path]) -> None:
    """Add predictions of the case folders and lines of results.jsonl, in place.

    Of an engine measured twice the later one stays; one that failed does not replace one that was built. Predictions
    are kept of models that have an engine.
    """
    for path in results:
        for line in path.read_text().splitlines():
            # a diverged engine writes NaN, which JSON does not have
            result = json.loads(line, parse_constant=lambda _: None)
            if "cut" in result.get("job", {}):
                name, part = part_of(result)
                found["parts"][name] = part
                continue
            name, engine = engine_of(result)
            if engine["kind"] in (*KINDS, "fp32") and ("outputs" in engine or name not in found["engines"]):
                found["engines"][name] = engine
    built = {engine["case"] for engine in found["engines"].values() if "outputs" in engine}
    for path in sorted(cases.glob("*/case.json")):
        about = json.loads(path.read_text(), parse_constant=lambda _: None)
        entry = {key: about[key] for key in ("exporter", "opset")}
        if about["case"] in built:
            entry["predicted"] = {
                way: {"outputs": slim(about["predicted"][way]["outputs"])} for way in (*WAYS, "typed")
            }
        found["cases"][about["case"]] = entry


def slim(outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The metrics that the table is made of."""
    return {name: {key: metrics[key] for key in KEPT} for name, metrics in outputs.items()}


def engine_of(result: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name, what is kept of an engine); an error is kept where nothing was measured."""
    job = result.get("job", {})
    level = result.get("level", job.get("level", 3))
    kind = result.get("kind", job.get("kind")) or result["id"].rpartition(".")[2]
    engine: dict[str, Any] = {"case": result["case"], "kind": kind, "level": level}
    if "outputs" in result:
        engine["outputs"] = slim(result["outputs"])
        timings = list(result.get("ms", {}).values())
        engine |= {key: result[key] for key in ("counts", "relaxed", "mode", "tensorrt") if key in result}
        if timings:
            engine["ms"] = round(timings[-1], 3)
    else:
        engine["error"] = result["error"]
    return f"{result['case']}.{kind}.L{level}", engine


def report(found: Mapping[str, Any]) -> str:
    """The table and what it comes to, in Markdown: as docs/simulation.md has it."""
    rows = rows_of(found)
    lines = [*summary(rows, found), *([parts_line(found["parts"])] if found["parts"] else [])]
    return "\n".join([*table(rows), "", *(f"- {line}" for line in lines)])


def main(arguments: list[str]) -> None:
    """Merge what is named, and print."""
    empty: dict[str, Any] = {"cases": {}, "engines": {}, "parts": {}}
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else empty
    if arguments == ["--parts"]:
        print("\n".join(parts_table(found["parts"])))
        return
    if arguments:
        merge(found, Path(arguments[0]), [Path(name) for name in arguments[1:]])
        RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(report(found))


if __name__ == "__main__":
    main(sys.argv[1:])
