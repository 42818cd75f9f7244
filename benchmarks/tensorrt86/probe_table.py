"""Print the probes' errors beside the predicted ones: `python -m benchmarks.tensorrt86.probe_table [FILE.json]`.

Relative L2 errors. *ideal*: inputs and weights rounded to half, exact arithmetic, the result rounded. *typed*, *fused*,
*fused-fp16*: the planner's simulation, the last one with products that add up in FP16. The last figures are the larger
engine's error over those of the fused simulations: above 1.3 the simulation lacks something (marked). *products*: the
types in the names of the engine's matrix products, where these are kernels of their own: of the operands, of result
and accumulator, of the scaling.

With `--store FILE.json` the figures go into probes.json, without the lists of layers and predicted anew.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("probes.json")
MARK = 1.3
ENGINES = ("fp16", "half")
SIMULATED = ("typed", "fused", "fused-fp16")
_KERNEL = re.compile(r"_gemm_((?:[a-z]+\d+){2}_(?:[a-z]+\d+){2}_[a-z]+\d+)_")


def number(value: float | None) -> str:
    """An error as it is printed; NaN and infinity are None in JSON."""
    return "NaN" if value is None else f"{value:.2g}"


def ratio(value: float | None, to: float | None) -> str:
    return "" if value is None or not to else f"{value / to:.2f}"


def marked(text: str) -> str:
    return f"**{text}**" if text and float(text) > MARK else text


def products(engine: dict[str, Any]) -> set[str]:
    """The types of an engine's matrix products."""
    layers = (layer for layer in engine.get("layers", []) if isinstance(layer, dict))
    kernels = engine.get("kernels") or [layer.get("tactic", "") for layer in layers]
    return {found.group(1) for kernel in kernels if (found := _KERNEL.search(kernel))}


def row(result: dict[str, Any]) -> str:
    predicted = {name: figures["rel_l2"] for name, figures in result["predicted"].items()}
    engines = [result.get(kind, {}) for kind in ENGINES]
    measured = [engine.get("rel_l2") for engine in engines]
    cells = [result["probe"], *(number(predicted.get(name)) for name in ("ideal", *SIMULATED))]
    cells += ["failed" if "error" in engine else number(m) for engine, m in zip(engines, measured, strict=True)]
    worst = max((m for m in measured if m is not None), default=None)
    cells += [ratio(worst, predicted["ideal"])]
    cells += [marked(ratio(worst, predicted.get(name))) for name in ("fused", "fused-fp16")]
    cells.append(", ".join(sorted(set[str]().union(*map(products, engines)))))
    return "| " + " | ".join(cells) + " |"


def table(results: list[dict[str, Any]]) -> str:
    """The Markdown table; probes without figures are named below it."""
    heads = ["probe", "ideal", *SIMULATED, "--fp16", "all half", "worst / ideal", "worst / fused"]
    heads += ["worst / fused-fp16", "products"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [row(result) for result in results if "predicted" in result]
    for result in results:
        for kind, found in ((kind, result.get(kind, {})) for kind in ENGINES):
            if "error" in found:
                lines.append(f"\n{result['probe']} {kind}: {found['error'][:300]}")
        if "error" in result:
            lines.append(f"\n{result['probe']}: {result['error'].strip()[-300:]}")
    return "\n".join(lines)


def slim(result: dict[str, Any]) -> dict[str, Any]:
    """A result without its layers; of their kernels the products stay."""
    from benchmarks.tensorrt86.probe_models import answer, predict, probes

    if "predicted" not in result:
        return {"probe": result["probe"], "error": result["error"].strip().splitlines()[-1]}
    probe = probes()[result["probe"]]()
    found = {**result, "predicted": predict(probe, answer(probe, rounded=False))}
    for kind in ENGINES:
        engine = dict(found[kind])
        layers = engine.pop("layers", [])
        named = {layer.get("tactic", "") for layer in layers if isinstance(layer, dict)}
        found[kind] = {**engine, "kernels": sorted(name for name in named if _KERNEL.search(name))}
    return found


def main(arguments: list[str]) -> None:
    """Print, or store and print."""
    if arguments[:1] == ["--store"]:
        measured = json.loads(Path(arguments[1]).read_text())
        RESULTS.write_text(json.dumps([slim(result) for result in measured], indent=1, sort_keys=True) + "\n")
        arguments = []
    print(table(json.loads(Path(arguments[0] if arguments else RESULTS).read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
