"""The planner's search beside Polygraphy's `debug precision` and ModelOpt AutoCast, as one Markdown table.

python -m benchmarks.rivals                                print what results.json holds
python -m benchmarks.rivals --measure massive,ffn          AutoCast and the planner on this CPU, merged into it
python -m benchmarks.rivals rivals.jsonl...                merge what gpu.sh wrote
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.rivals.cpu import measure

RESULTS = Path(__file__).with_name("results.json")
GPU = "TensorRT 8.6"
HEADS = (
    "model", "tool", "judged by", "SAD worst", "came out", "FP32 nodes", "GEMMs among them", "evaluations", "seconds",
    "note",
)  # fmt: skip
EXACT = 1e-5
"""SAD that only an engine in FP32 stays below: those with every layer marked have 1e-6 to 2e-6."""
LARGE = 1.9
"""An engine this many times as large as the `--fp16` one holds no 16-bit weights worth the name."""


def from_gpu(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """gpu.sh's lines as results: searches as they are, engines joined with what the planner said of the case."""
    planners = {line["case"]: line for line in lines if line.get("planner")}
    smallest = {line["case"]: line["engine_mb"] for line in lines if line.get("kind") == "fp16"}
    found = []
    for line in lines:
        if "tool" in line:
            found.append({name: value for name, value in line.items() if name != "steps"} | of_steps(line))
        if "kind" not in line:
            continue
        error = line["outputs"]["probability"]["sad"]
        result = {"case": line["case"], "judge": GPU, "sad": error, "note": "not finite" if error is None else ""}
        large = line["engine_mb"] > LARGE * smallest.get(line["case"], math.inf)
        exact = error is not None and error < EXACT
        result["came_out"] = "FP32" if exact else "TF32, by its size" if large else "mixed"
        if line["kind"] == "plan":
            facts = planners[line["case"]]
            result |= {"tool": "planner", "fp32": facts["constraints"], "fp32_gemms": facts["fp32_gemms"]}
            result |= {name: facts[name] for name in ("evaluations", "seconds")}
            if facts.get("predicted_sad") is not None:
                result["note"] = f"predicted {facts['predicted_sad']:.2g}"
        else:
            result |= {"tool": "--fp16", "fp32": 0, "fp32_gemms": 0, "came_out": "FP16"}
        found.append(result)
    return found


def of_steps(search: dict[str, Any]) -> dict[str, str]:
    """What the engine of a search's answer came out as, and whether the same layers failed when built again.

    A bisection in one direction marks the first or last layers, so their number says which ones.
    """
    same = [step for step in search["steps"] if step["layers"] == search["fp32"]]
    failed, notes = sum(not step["passed"] for step in same), [search["note"]]
    most = max(search["steps"], key=lambda step: step["layers"], default={})
    if most.get("sad") is not None:
        notes.append(f"all {most['layers']} layers marked: {most['sad']:.2g}")
    if failed:
        notes.append(f"the same layers failed in {failed} of {len(same)} builds")
    exact = search["sad"] is not None and search["sad"] < EXACT
    return {"came_out": "FP32" if exact else "mixed", "note": "; ".join(filter(None, notes))}


def load() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def merge(new: list[dict[str, Any]]) -> None:
    """Put results into the file; of the same case, tool and judge the later one stays."""
    found = {(r["case"], r["judge"], r["tool"]): r for r in [*load(), *new]}
    RESULTS.write_text(json.dumps([found[key] for key in sorted(found)], indent=1, sort_keys=True) + "\n")


def cell(value: Any) -> str:
    return "" if value is None else f"{value:.2g}" if isinstance(value, float) and value < 10 else str(value)


def table(results: list[dict[str, Any]]) -> str:
    """One row a tool and case."""
    keys = ("case", "tool", "judge", "sad", "came_out", "fp32", "fp32_gemms", "evaluations", "seconds", "note")
    lines = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    lines += ["| " + " | ".join(cell(result.get(key)) for key in keys) + " |" for result in results]
    return "\n".join(lines)


def read(path: str) -> list[dict[str, Any]]:
    # a diverged engine writes NaN, which JSON does not have
    return [json.loads(line, parse_constant=lambda _: None) for line in Path(path).read_text().splitlines()]


def main(arguments: list[str]) -> None:
    """Measure and merge what is asked for, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__)
    parser.add_argument("--measure", metavar="PRESET,...", default="")
    parser.add_argument("files", nargs="*", metavar="rivals.jsonl")
    options = parser.parse_args(arguments)
    for preset in filter(None, options.measure.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            merge(measure(Path(scratch) / preset, preset))
    for path in options.files:
        merge(from_gpu(read(path)))
    print(table(load()))


if __name__ == "__main__":
    main(sys.argv[1:])
