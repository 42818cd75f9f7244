"""Print the Markdown tables of what was measured: results.json beside this file, or the one named.

python -m evidence.cuda.table [RESULTS.json]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")


def _number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.2g}"


def _head(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def tables(report: dict[str, Any]) -> list[str]:
    """Outputs per graph and accumulation; then, per operator, the nodes by themselves; then what is missing."""
    here = report["environment"]
    lines = [
        f"{here.get('device', '?')}, torch {here.get('torch')}, CUDA {here.get('cuda', 'none')}; SAD of the "
        "probabilities, worst row of "
        f"{max((result['rows'] for result in report['results']), default=0)}.",
        "",
        *_head("case", "graph", "sums in", "simulated", "SAD", "device", "SAD", "device - simulated", "agree"),
    ]
    for result in report["results"]:
        simulated = result.get("simulated", {"grade": "-", "sad": "-"})
        for mode, found in result["device"].items():
            agree = "-" if simulated["grade"] == "-" else "yes" if simulated["grade"] == found["grade"] else "NO"
            cells = [result["case"], result["kind"], mode, simulated["grade"], _number(simulated["sad"])]
            cells += [found["grade"], _number(found["sad"]), _number(found["against_simulation"]["sad"]), agree]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_nodes(report)]
    lines += [f"not measured: {lost['case']} {lost['kind']}: {lost['error']}" for lost in report["failed"]]
    return lines


def _nodes(report: dict[str, Any]) -> list[str]:
    """Every node alone, fed with the simulation's values: all graphs together, by type and operator."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for result in report["results"]:
        for op_type, entry in result.get("nodes", {}).items():
            kind = "BF16" if result["kind"] == "bf16" else "FP16"
            total = sums.setdefault((kind, op_type), dict.fromkeys(entry, 0))
            for key in ("elements", "equal", "within_1ulp", "nonfinite"):
                total[key] += entry[key]
            for key in ("max_of_amax", "rel_l2"):
                total[key] = max(total[key], entry[key])
    names = ["equal to the bit", "at most 1 ULP apart", "largest / amax", "worst relative L2", "finite on one side"]
    lines = _head("type", "operator", "elements", *names)
    for (kind, op_type), total in sorted(sums.items()):
        shares = [f"{100 * total[key] / max(total['elements'], 1):.4f} %" for key in ("equal", "within_1ulp")]
        cells = [
            kind,
            op_type,
            str(total["elements"]),
            *shares,
            _number(total["max_of_amax"]),
            _number(total["rel_l2"]),
        ]
        lines.append("| " + " | ".join([*cells, str(total["nonfinite"])]) + " |")
    return lines


def main(arguments: list[str]) -> None:
    """Print."""
    path = Path(arguments[0]) if arguments else RESULTS
    print("\n".join(tables(json.loads(path.read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main(sys.argv[1:])
