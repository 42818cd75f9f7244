"""python -m evidence.exporters: export, plan, judge; the table, and the results as JSON lines.

It takes about ten minutes on two idle cores. `--table` prints the table of results that there are. It ends with 1 where a
plan came out wrong: not finite, or further off than it said. What an exporter does not take is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evidence.exporters.export import names
from evidence.exporters.rows import Row

RESULTS = Path(__file__).parent / "results.jsonl"
SLACK = 3.0
"""How much further off than predicted a plan may be by the evaluation: sums in FP16 are predicted, and not evaluated."""
SECONDS = 900.0
"""For one model in all precisions and for all targets; what takes longer is said to."""


def is_wrong(row: Row) -> bool:
    """Whether the plan is not what it said: worse by far, or lost where it promised an answer."""
    if "evaluated" not in row or row["evaluated"] is None:
        return False
    if not math.isfinite(row["evaluated"]):
        return row["grade"] != "NONFINITE"
    return row["evaluated"] > max(SLACK * (row["predicted"] or 0.0), 2e-3) or row["verdict"] in ("GARBAGE", "NONFINITE")


def one_model(name: str, exporter: str, folder: Path) -> list[Row]:
    """The rows of one model, made by a process of its own: torch's exporters leave much behind."""
    command = [sys.executable, "-m", "evidence.exporters", "--one", name, exporter, "--folder", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return [{"model": name, "exporter": exporter, "failure": f"over {SECONDS:.0f} s"}]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        rows.append({"model": name, "exporter": exporter, "failure": last[:300]})
    return rows


def table(rows: Iterable[Row]) -> str:
    """Markdown: one line a model and exporter, one cell a precision and target, and the sums below."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["model"], row["exporter"]), []).append(row)
    asked = list(
        dict.fromkeys((r["precision"], r["target"]) for group in found.values() for r in group if "target" in r)
    )
    lines = ["| model | nodes | rules | " + " | ".join(f"{p} {t}" for p, t in asked) + " |"]
    lines.append("|---" * (3 + len(asked)) + "|")
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for (name, exporter), group in sorted(found.items()):
        by = {(r["precision"], r["target"]): r for r in group if "target" in r}
        if not by:
            said = group[0].get("not_exported") or group[0].get("failure")
            lines.append(f"| {name}, {exporter} |  | not exported: {said} |" + "  |" * len(asked))
            counts["not exported"] += 1
            continue
        rules = ", ".join(sorted({rule for r in group for rule in r.get("rules", ())}))
        lines.append(
            f"| {name}, {exporter} | {group[0].get('nodes', '')} | {rules} | "
            + " | ".join(_cell(by.get(key, {}), counts, refused) for key in asked)
            + " |"
        )
    lines += ["", "A cell: error by the evaluation of every node alone (predicted; nodes kept in FP32).", ""]
    lines += [f"{count} {what}" for what, count in counts.most_common()]
    lines += ["", *(f"- refused, {count} plans: {reason}" for reason, count in refused.most_common())]
    return "\n".join(lines)


def _cell(row: Row, counts: Counter[str], refused: Counter[str]) -> str:
    if not row or "failure" in row:
        counts["failed"] += 1
        return "failed"
    if "refused" in row:
        refused[row["refused"]] += 1
        counts["plans refused"] += 1
        return "refused"
    counts["plans"] += 1
    if row.get("nodes_refused"):
        counts["plans that name nodes which the target does not take"] += 1
    if row.get("evaluated") is None:
        counts["plans not evaluated"] += 1
        return f"not evaluated ({row['predicted'] or 0:.1e}; {row['kept']})"
    counts[f"verdict {row['verdict']}"] += 1
    mark = "**WRONG** " if is_wrong(row) else ""
    counts["plans that came out wrong"] += bool(mark)
    taken = f"; {', '.join(row['nodes_refused'])} not taken" if row.get("nodes_refused") else ""
    return f"{mark}{row['evaluated']:.1e} ({row['predicted'] or 0:.1e}; {row['kept']}{taken})"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m evidence.exporters", description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS, help="results, a JSON line each")
    parser.add_argument("--only", nargs="*", default=[], help="models")
    parser.add_argument("--exporters", nargs="*", default=[], help="torchscript, dynamo, skl2onnx")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print what there is, and make nothing")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where the models are written; a temporary one")
    args = parser.parse_args()
    if args.one:
        from evidence.exporters.rows import rows_of

        for row in rows_of(args.one[0], args.one[1], args.folder):
            print(json.dumps(row), flush=True)
        return 0
    if not args.table:
        wanted = [(n, e) for n, e in names(tuple(args.exporters)) if not args.only or n in args.only]
        with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(args.jobs) as pool:
            folder = args.folder or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            jobs = [pool.submit(one_model, name, exporter, folder) for name, exporter in wanted]
            with open(args.json, "w") as file:
                for job in jobs:
                    file.writelines(json.dumps(row) + "\n" for row in job.result())
                    file.flush()
    rows = [json.loads(line) for line in args.json.read_text().splitlines()]
    print(table(rows))
    return 1 if any(is_wrong(row) or "failure" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
