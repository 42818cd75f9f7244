"""python -m evidence.table [islands|sums|weak|attention|operators|tf32|warnings|bert|zoo]: what was measured, as tables.

TensorRT 10.6 on an H200 (tensorrt106/results.json); the zoo and the BERT plans where their results are there
(zoo/results/*.jsonl). Errors are relative L2 against float64 unless a table says otherwise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Record = dict[str, Any]


def records(section: str) -> list[Record]:
    """The records of one section of tensorrt106."""
    return [one for one in json.loads((HERE / "tensorrt106/results.json").read_text()) if one["section"] == section]


def rows_of(path: Path) -> list[Record]:
    """The lines of a result file; nothing where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kernel(record: Record) -> str:
    """The kernel that computes a record's product or attention, by the part of its tactic's name that says types."""
    for layer in record.get("layers", ()):
        tactic = str(layer.get("TacticName", ""))
        for start in ("gemm_mha_v1", "gemm_mha_v2", "f16f16_", "f32f32_", "bf16bf16_"):
            if start in tactic:
                at = tactic.index(start)
                return tactic[at : at + (11 if "mha" in start else 18)].removesuffix("_")
    return "-"


def show(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A Markdown table."""
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(_text(cell) for cell in row)} |")


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def error(record: Record) -> float | None:
    """The first run's relative error."""
    return record["errors"][0]["rel_l2"] if record.get("errors") else None


def milliseconds(record: Record) -> float | None:
    """Its time, None where no engine was built."""
    return record["ms"] if isinstance(record.get("ms"), float) else None


def islands() -> None:
    """Which FP32 islands keep weights of 1e-8 and 1e5."""

    def rows(section: str) -> list[tuple[object, ...]]:
        measured = [(r["case"], r["measured"]) for r in records(section) if "measured" in r]
        return [(name, "kept" if m["kept"] else "lost", m["tiny"], m["huge"], m["usual"]) for name, m in measured]

    head = ("island", "weights", "error at 1e-8", "at 1e5", "others")
    show("FP32 islands between Casts, strongly typed", head, rows("islands"))
    show("FP32 layers between half ones, weakly typed, obeyed", head, rows("weak_islands"))


def timed(section: str, title: str) -> Callable[[], None]:
    """A table of kernels, errors and milliseconds."""

    def table() -> None:
        rows = [(r["case"], kernel(r), error(r), milliseconds(r)) for r in records(section)]
        show(title, ("spelling", "kernel", "error", "ms"), sorted(rows, key=lambda row: str(row[0])))

    return table


def operators() -> None:
    """Operators in half, between Casts in FP32, and weakly typed."""
    found: dict[str, dict[str, float | None]] = {}
    for r in records("operators"):
        name, _, how = r["case"].rpartition(": ")
        wrong = bool(r.get("errors")) and r["errors"][0]["nonfinite"] > 0
        found.setdefault(name, {})[how] = float("inf") if wrong else error(r)
    columns = ("half", "FP32 between Casts", "weak, fp16")
    show("Operators", ("operator", *columns), [(n, *(row.get(c) for c in columns)) for n, row in found.items()])


def tf32() -> None:
    """How TF32 rounds."""
    rows = [
        (r["case"], r["measured"]["nearest to"], min(r["measured"]["errors"].values()))
        for r in records("tf32")
        if "measured" in r
    ]
    show("TF32 operands", ("product", "equals operands rounded", "error"), rows)


def warnings() -> None:
    """What the log says of weights."""
    rows = [
        (r["case"], len([line for line in r.get("log", ()) if "eight" in line]))
        for r in records("warnings")
        if "failure" not in r
    ]
    show("Lines about weights in the log", ("network", "lines"), rows)


def bert() -> None:
    """BERT plans: predicted and measured."""
    predicted = {
        (r["preset"], f"{r['target']}.{r['plan']}"): r
        for r in rows_of(HERE / "zoo/results/bert_plans.jsonl")
        if "preset" in r
    }
    rows = []
    for r in rows_of(HERE / "zoo/results/bert.jsonl"):
        plan = predicted.get((r["preset"], r["engine"]), {})
        rows.append(
            (
                r["preset"],
                r["engine"],
                plan.get("predicted", {}).get("sad"),
                r.get("sad"),
                r.get("ms"),
                r.get("failure", ""),
            )
        )
    show("BERT, 40 x 300, SAD of the probability", ("model", "engine", "predicted", "measured", "ms", ""), rows)


def zoo() -> None:
    """onnxruntime and TensorRT: who loads, is right, and how fast."""
    converted = {
        f"{r['model']}.{r['exporter']}": r for r in rows_of(HERE / "zoo/results/convert.jsonl") if "model" in r
    }
    rows = []
    for r in rows_of(HERE / "zoo/results/ort.jsonl"):
        ours = r.get("ours", {})
        said = converted.get(r["folder"], {}).get("predicted_fp32")
        ratio = ours["rel_l2"] / said if said and "rel_l2" in ours else None
        peers = [
            f"{n}: {_peer(r.get(n), converted.get(r['folder'], {}), n)}"
            for n in ("ort_float16", "converter_common", "autocast")
        ]
        rows.append(
            (
                r["folder"],
                ours.get("rel_l2"),
                ratio,
                ours.get("ms_big"),
                r.get("tf32", {}).get("ms_big"),
                "; ".join(peers),
            )
        )
    show("onnxruntime, CUDA", ("model", "error", "by predicted", "ms", "TF32 ms", "peers"), rows)
    kinds = ("fp32", "tf32", "blind", "weak_plan", "strong", "strong_plan", "autocast")
    lines = [r for n in range(2) for r in rows_of(HERE / f"zoo/results/trt.{n}.jsonl")]
    show(
        "TensorRT 10.6: error, ms",
        ("model", *kinds),
        [(r["folder"], *(_engine(r.get(k)) for k in kinds)) for r in lines],
    )


def _peer(run: Record | None, converted: Record, name: str) -> str:
    if run is None:
        return "not converted" if "failure" in converted.get("tools", {}).get(name, {}) else "-"
    if not run.get("loads"):
        return "does not load"
    return f"{run['rel_l2']:.2g}" if "rel_l2" in run else "does not run"


def _engine(run: Record | None) -> str:
    if run is None:
        return "-"
    return f"{run['rel_l2']:.2g}, {run['ms']:.3f}" if "ms" in run else "failed"


TABLES: dict[str, Callable[[], None]] = {
    "islands": islands,
    "sums": timed("spellings", "Half products, strongly typed: Cast sandwich, bias in or out"),
    "weak": timed("weak", "Half products, weakly typed, by what a constraint says"),
    "attention": timed("attention", "Attention, strongly typed: where Casts to FP32 stand"),
    "operators": operators,
    "tf32": tf32,
    "warnings": warnings,
    "bert": bert,
    "zoo": zoo,
}


def main(names: Sequence[str]) -> None:
    """Print the tables named, or all."""
    for name in names or TABLES:
        TABLES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
