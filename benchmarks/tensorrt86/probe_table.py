"""Print the probes' errors beside the predicted ones: `python -m benchmarks.tensorrt86.probe_table [FILE.json]`.

Relative L2 errors. *ideal*: inputs and weights rounded to half, exact arithmetic, the result rounded. *fused*, *typed*:
the planner's simulation. The last column is the larger engine's error over that of the fused simulation: above 1.5 the
simulation lacks something (marked).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("probes.json")
MARK = 1.5


def number(value: float | None) -> str:
    """An error as it is printed; NaN and infinity are None in JSON."""
    return "NaN" if value is None else f"{value:.2g}"


def ratio(value: float | None, to: float | None) -> str:
    return "" if value is None or not to else f"{value / to:.2f}"


def kinds(result: dict[str, Any], kind: str) -> str:
    """How many layers the engine has, and how many are opaque (Myelin's)."""
    layers = result.get(kind, {}).get("layers", [])
    opaque = sum(isinstance(layer, dict) and layer["type"] == "Myelin" for layer in layers)
    return f"{len(layers)} ({opaque})"


def row(result: dict[str, Any]) -> str:
    predicted = {name: figures["rel_l2"] for name, figures in result["predicted"].items()}
    engines = [result.get(kind, {}) for kind in ("fp16", "half")]
    measured = [engine.get("rel_l2") for engine in engines]
    cells = [result["probe"], *(number(predicted[name]) for name in ("ideal", "fused", "typed"))]
    cells += ["failed" if "error" in engine else number(m) for engine, m in zip(engines, measured, strict=True)]
    cells += [ratio(m, predicted["ideal"]) for m in measured]
    worst = max((m for m in measured if m is not None), default=None)
    off = ratio(worst, predicted["fused"])
    cells += [f"**{off}**" if off and float(off) > MARK else off, kinds(result, "fp16"), kinds(result, "half")]
    return "| " + " | ".join(cells) + " |"


def table(results: list[dict[str, Any]]) -> str:
    """The Markdown table; probes without figures are named below it."""
    heads = ["probe", "ideal", "fused", "typed", "--fp16", "all half", "--fp16 / ideal", "all half / ideal"]
    heads += ["worst / fused", "layers (Myelin) --fp16", "all half"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [row(result) for result in results if "predicted" in result]
    for result in results:
        for kind, found in ((kind, result.get(kind, {})) for kind in ("fp16", "half")):
            if "error" in found:
                lines.append(f"\n{result['probe']} {kind}: {found['error'][:300]}")
        if "error" in result:
            lines.append(f"\n{result['probe']}: {result['error'][-300:]}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print."""
    print(table(json.loads(Path(arguments[0] if arguments else RESULTS).read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
