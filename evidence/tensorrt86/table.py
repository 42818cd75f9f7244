"""Print the Markdown table of the measurements in results.json, or merge the results.jsonl files named into it.

python -m evidence.tensorrt86.table [--gpu NAME results.jsonl...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
ORDER = ("fp32", "tf32", "tf32-again", "fp16", "fp16-again", "fp16-fused", "plan")
EXACT, ALIKE = 1e-5, 0.01
"""Mean SAD that only FP32 stays below; what share TF32 engines of the same kernels differ by."""


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


def holds(result: dict[str, Any], plain: dict[str, list[dict[str, Any]]]) -> str:
    """What the engine came out as, by its size and error beside the case's plain engines (kind -> engines).

    FP32, or wholly TF32, where it is as large and as exact; FP32 weights where it is only as large.
    """
    error = result["outputs"]["probability"]["sad_mean"]
    if result["engine_mb"] > 0.98 * plain["fp32"][0]["engine_mb"] and error is not None:
        if error < EXACT:
            return "FP32"
        tf32 = [engine["outputs"]["probability"]["sad_mean"] for engine in plain["tf32"]]
        return "TF32" if any(abs(error / other - 1) < ALIKE for other in tf32) else "mixed, FP32 weights"
    return "mixed" if result["kind"].startswith("plan") else "FP16"


def rows(results: list[dict[str, Any]]) -> list[str]:
    """One row an engine, the plain ones first."""

    def place(result: dict[str, Any]) -> tuple[str, str, int, str]:
        kind = result["kind"]
        return result["gpu"], result["case"], ORDER.index(kind) if kind in ORDER else len(ORDER), kind

    out = [
        "| GPU | case | engine | SAD worst | of the rows searched | predicted | SAD mean "
        "| top-1 | not finite | ms at 1 | 8 | 40 | MB | came out |",
        "|" + "---|" * 14,
    ]
    plain: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for result in results:
        engines = plain.setdefault((result["gpu"], result["case"]), {"fp32": [], "tf32": []})
        engines.setdefault(result["kind"].partition("-again")[0], []).append(result)
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
            sad[0],
            f"{output['sad_searched']:.2g}" if output.get("sad_searched") is not None else "",
            f"{result['predicted']['sad']:.2g}" if "predicted" in result else "",
            sad[1],
            f"{output['top1']:.2f}",
            str(output["nonfinite"]),
            *times,
        ]
        cells += [f"{result['engine_mb']:.0f}", holds(result, plain[result["gpu"], result["case"]])]
        out.append("| " + " | ".join(cells) + " |")
    return out


def main(arguments: list[str]) -> None:
    """Merge what is named, and print."""
    if arguments:
        if arguments[0] != "--gpu" or len(arguments) < 3:
            raise SystemExit("usage: python -m evidence.tensorrt86.table [--gpu NAME results.jsonl...]")
        merge(arguments[2:], arguments[1])
    print("\n".join(rows(json.loads(RESULTS.read_text()))))


if __name__ == "__main__":
    main(sys.argv[1:])
