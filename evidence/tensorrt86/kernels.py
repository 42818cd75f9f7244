"""Print which kernels an engine runs, and for how long: of kernels.json, or of Nsight Compute's CSV of `once.py`.

    python -m evidence.tensorrt86.kernels [NAME | FILE.ncu.csv]      without a name: the shares of what is kept
    python -m evidence.tensorrt86.kernels --store FILE.ncu.csv...    keep them, by the part of the name before .ncu

Of the two inferences that `once.py` makes the second one counts. Attention's products are those around a softmax; what
the other kernels compute is told from the operators in their names, three letters each (`Erf`: GELU; `Sqr`, or `Mea`
at the end: LayerNorm; `Cas`: Cast).
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

KERNELS = Path(__file__).with_name("kernels.json")
SOFTMAX = "MaxSubExpSumDiv"
PARTS = ("weight products", "attention products", "softmax", "GELU", "LayerNorm", "other")

Launch = tuple[str, float]
"""Kernel and microseconds."""


def read(path: Path) -> list[Launch]:
    """The second inference's launches.

    Raises:
      ValueError: the launches are not those of two equal inferences.
    """
    lines = path.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith('"ID"'))
    rows = list(csv.DictReader(lines[first:]))
    found = [(short(row["Kernel Name"]), float(row["Metric Value"].replace(",", "")) / 1000) for row in rows]
    half = len(found) // 2
    if {row["Metric Unit"] for row in rows} != {"ns"} or [n for n, _ in found[:half]] != [n for n, _ in found[half:]]:
        raise ValueError(f"{path} does not hold two equal inferences in ns")
    return found[half:]


def short(name: str) -> str:
    """A kernel's name without what says nothing: its number, its tiles, its arguments."""
    name = re.sub(r"^__myl_bb\d+_\d+_|_com(_vec)?$", "", name)
    name = re.sub(r"^void |<.*", "", name)
    return re.sub(r"_(tilesize|n_tilesize).*?(_split_k)?(_kernel.*)?$", r"\2", name)


def parts(launches: list[Launch]) -> list[str]:
    """What each launch belongs to."""
    products = [number for number, (name, _) in enumerate(launches) if "_gemm_" in name]
    attention: set[int] = set()
    for number, (name, _) in enumerate(launches):
        before, after = [n for n in products if n < number], [n for n in products if n > number]
        if SOFTMAX in name and after:  # the classifier's own softmax is the last one
            attention |= {before[-1], after[0]}

    def part(number: int, name: str) -> str:
        if number in products:
            return PARTS[1] if number in attention else PARTS[0]
        words = {"softmax": SOFTMAX in name, "GELU": "Erf" in name, "LayerNorm": "Sqr" in name or name.endswith("Mea")}
        return next((said for said, found in words.items() if found), PARTS[-1])

    return [part(number, name) for number, (name, _) in enumerate(launches)]


def table(launches: list[Launch]) -> str:
    """A row a launch."""
    total = sum(time for _, time in launches)
    lines = ["| kernel | part | us | share |", "|---|---|---|---|"]
    for (name, time), part in zip(launches, parts(launches), strict=True):
        lines.append(f"| {name} | {part} | {time:.1f} | {time / total:.1%} |")
    return "\n".join([*lines, f"| all | | {total:.0f} | |"])


def shares(kept: dict[str, list[Launch]]) -> str:
    """A row an engine: microseconds by part, the softmax kernels, kernels that do nothing but cast and move."""
    lines = ["| engine | kernels | us | " + " | ".join(PARTS) + " | each softmax | Casts alone |"]
    lines.append("|---" * (len(PARTS) + 5) + "|")
    for name, launches in kept.items():
        found = list(zip(launches, parts(launches), strict=True))
        times = [sum(time for (_, time), part in found if part == wanted) for wanted in PARTS]
        softmax = [f"{time:.0f}" for (kernel, time), part in found if part == "softmax"]
        casts = [time for kernel, time in launches if re.fullmatch(r"(Mov|Res|Tra|Cas)*Cas(Mov|Res|Tra|Cas)*", kernel)]
        cells = [name, str(len(launches)), f"{sum(times):.0f}", *(f"{time:.0f}" for time in times), ", ".join(softmax)]
        lines.append("| " + " | ".join([*cells, f"{len(casts)}: {sum(casts):.0f}"]) + " |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Keep, or print."""
    kept = json.loads(KERNELS.read_text()) if KERNELS.exists() else {}
    if arguments[:1] == ["--store"]:
        kept |= {Path(path).name.partition(".ncu")[0]: read(Path(path)) for path in arguments[1:]}
        lines = (f" {json.dumps(name)}: {json.dumps(kept[name])}" for name in sorted(kept))
        KERNELS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    elif arguments:
        print(table(kept[arguments[0]] if arguments[0] in kept else read(Path(arguments[0]))))
        return
    print(shares(kept))


if __name__ == "__main__":
    main(sys.argv[1:])
