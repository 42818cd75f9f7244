"""Print the probes' errors beside the predicted ones: `python -m evidence.tensorrt86.probe_table [FILE.json]`.

Relative L2 errors. *ideal*: inputs and weights rounded to half, exact arithmetic, the result rounded. *typed*, *fused*,
*fused-fp16*: the planner's simulation, the last one with products that add up in FP16. The last figures are the larger
engine's error over those of the fused simulations: above 1.3 the simulation lacks something (marked). *products*: the
types in the names of the engine's matrix products, where these are kernels of their own: of the operands, of result
and accumulator, of the scaling.

A second table has the probes that were built in TF32, or with products that write FP32 (*half-wide*), where the
builder could. Predicted TF32 is that of `tf32.py`; the products are the GPU that a kernel was written for, and which
operands it takes transposed (`nn`: attention's second product).

With `--store FILE.json...` figures are merged into probes.json, without the lists of layers and predicted anew; a
probe without figures replaces none.
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
OTHERS = ("tf32", "half-wide")
SIMULATED = ("typed", "fused", "fused-fp16")
_TARGET = re.compile(r"(sm\d+)_xmma_gemm_.*_([nt][nt])_n_")
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
    errors = [engine.get("rel_l2") for engine in engines]
    cells = [result["probe"], *(number(predicted.get(name)) for name in ("ideal", *SIMULATED))]
    cells += ["failed" if "error" in engine else number(m) for engine, m in zip(engines, errors, strict=True)]
    worst = max((m for m in errors if m is not None), default=None)
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


def measured(result: dict[str, Any], kind: str) -> str:
    """An engine's error, or that there is none."""
    engine = result.get(kind)
    return "" if engine is None else "not built" if "error" in engine else number(engine.get("rel_l2"))


def others(results: list[dict[str, Any]]) -> str:
    """The table of TF32 and of products that write FP32, and why the latter were not built."""
    heads = ["probe", "tf32 predicted", "truncated", "tf32 measured", "ratio", "products", "all half", "half-wide"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    reasons: dict[str, list[str]] = {}
    for result in results:
        if not any(kind in result for kind in OTHERS):
            continue
        predicted = {name: figures["rel_l2"] for name, figures in result["predicted"].items()}
        kernels = {_TARGET.search(kernel) for kernel in result["tf32"].get("kernels", [])} - {None}
        cells = [result["probe"], number(predicted["tf32"])]
        cells += [number(predicted["tf32-truncated"]) if "tf32-truncated" in predicted else ""]
        cells += [measured(result, "tf32"), ratio(result["tf32"].get("rel_l2"), predicted["tf32"])]
        cells += [", ".join(sorted({" ".join(found.groups()) for found in kernels if found}))]
        lines.append("| " + " | ".join([*cells, measured(result, "half"), measured(result, "half-wide")]) + " |")
        if "error" in result.get("half-wide", {}):
            reasons.setdefault(reason(result["half-wide"]["error"]), []).append(result["probe"])
    return "\n".join([*lines, "", *(f"half-wide, {said}: {', '.join(names)}" for said, names in reasons.items())])


def reason(error: str) -> str:
    """The sentence that says why there is no engine."""
    found = re.search(r"(No supported formats|Could not find any implementation) for (node )?[^.: ]*", error)
    return found.group(0) if found else error[:200]


def merge(kept: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results by probe; a failure replaces no measurement."""
    found = {result["probe"]: result for result in kept}
    for result in new:
        old = found.get(result["probe"], {})
        if "predicted" in result:
            found[result["probe"]] = slim({name: value for name, value in old.items() if name != "error"} | result)
        elif not old:
            found[result["probe"]] = slim(result)
    return [found[name] for name in sorted(found)]


def slim(result: dict[str, Any]) -> dict[str, Any]:
    """A result without its layers; of their kernels the products stay."""
    from evidence.tensorrt86.probe_models import answer, predict, probes

    if "predicted" not in result:
        return {"probe": result["probe"], "error": result["error"].strip().splitlines()[-1]}
    probe = probes()[result["probe"]]()
    found = {**result, "predicted": predict(probe, answer(probe, rounded=False))}
    for kind in (kind for kind in (*ENGINES, *OTHERS) if "layers" in found.get(kind, {})):
        engine = dict(found[kind])
        layers = engine.pop("layers", [])
        named = {layer.get("tactic", "") for layer in layers if isinstance(layer, dict)}
        found[kind] = {**engine, "kernels": sorted(name for name in named if _KERNEL.search(name))}
    return found


def main(arguments: list[str]) -> None:
    """Print, or store and print."""
    if arguments[:1] == ["--store"]:
        results = json.loads(RESULTS.read_text())
        for path in arguments[1:]:
            results = merge(results, json.loads(Path(path).read_text()))
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        arguments = []
    results = json.loads(Path(arguments[0] if arguments else RESULTS).read_text())
    print(f"{table(results)}\n\n{others(results)}")


if __name__ == "__main__":
    main(sys.argv[1:])
