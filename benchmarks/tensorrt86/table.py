"""Print the Markdown table of the measurements in results.json, or merge the results.jsonl files named into it.

python -m benchmarks.tensorrt86.table [--gpu NAME results.jsonl...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
ORDER = ("fp32", "tf32", "fp16", "fp16-fused", "plan")


def merge(paths: list[str], gpu: str) -> None:
    """Add lines of results.jsonl; of a case and engine measured twice on one GPU the later one stays."""
    found = {(r["gpu"], r["case"], r["kind"]): r for r in (json.loads(RESULTS.read_text()) if RESULTS.exists() else [])}
    for path in paths:
        for line in Path(path).read_text().splitlines():
            # a diverged engine writes NaN, which JSON does not have
            result = json.loads(line, parse_constant=lambda _: None)
            result.pop("layers", None)
            found[gpu, result["case"], result["kind"]] = {**result, "gpu": gpu}
    RESULTS.write_text(json.dumps([found[key] for key in sorted(found)], indent=1, sort_keys=True) + "\n")


def holds(result: dict[str, Any], full: float) -> str:
    """What the engine came out as: FP32 where it is as large as the case's FP32 engine."""
    return "FP32" if result["engine_mb"] > 0.98 * full else "mixed" if result["kind"].startswith("plan") else "FP16"


def rows(results: list[dict[str, Any]]) -> list[str]:
    """One row an engine, the plain ones first."""

    def place(result: dict[str, Any]) -> tuple[str, str, int, str]:
        kind = result["kind"]
        return result["gpu"], result["case"], ORDER.index(kind) if kind in ORDER else len(ORDER), kind

    out = [
        "| GPU | case | engine | SAD worst | SAD mean | top-1 | not finite | ms at 1 | 8 | 40 | MB | came out |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    full = {(result["gpu"], result["case"]): result["engine_mb"] for result in results if result["kind"] == "fp32"}
    for result in sorted(results, key=place):
        output = result["outputs"].get("probability")
        if output is None:
            continue
        sad = [("NaN" if output[name] is None else f"{output[name]:.2g}") for name in ("sad", "sad_mean")]
        times = [f"{result['ms'][batch]:.2f}" for batch in ("1", "8", "40")]
        cells = [
            result["gpu"],
            result["case"],
            result["kind"],
            *sad,
            f"{output['top1']:.2f}",
            str(output["nonfinite"]),
            *times,
        ]
        cells += [f"{result['engine_mb']:.0f}", holds(result, full[result["gpu"], result["case"]])]
        out.append("| " + " | ".join(cells) + " |")
    return out


def main(arguments: list[str]) -> None:
    """Merge what is named, and print."""
    if arguments:
        if arguments[0] != "--gpu" or len(arguments) < 3:
            raise SystemExit("usage: python -m benchmarks.tensorrt86.table [--gpu NAME results.jsonl...]")
        merge(arguments[2:], arguments[1])
    print("\n".join(rows(json.loads(RESULTS.read_text()))))


if __name__ == "__main__":
    main(sys.argv[1:])
