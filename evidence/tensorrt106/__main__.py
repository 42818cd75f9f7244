"""python -m evidence.tensorrt106 OUT: builds, inspects and runs every case, and writes OUT/results.json.

Needs tensorrt 10.6, torch with a GPU, onnx and ml_dtypes; `TRT_MODULE=tensorrt_rtx` builds the strongly typed cases without
a GPU. Each record is written as soon as it is there (OUT/part.N.jsonl), so that a time-out loses little.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tarfile
import time
from pathlib import Path

from evidence.tensorrt106.harness import Machine, measure_time
from evidence.tensorrt106.runner import all_cases, work


def main() -> None:
    """Split the cases over processes and merge what they wrote."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--processes", type=int, default=3, help="Builders at once (4.7 GB each)")
    parser.add_argument("--only", nargs="*", default=[], help="sections")
    args = parser.parse_args()
    out = args.out / "work"
    out.mkdir(parents=True, exist_ok=True)
    rtx = "rtx" in os.environ.get("TRT_MODULE", "")
    cases = [
        (c.section, c.name) for c in all_cases() if (c.strong or not rtx) and (not args.only or c.section in args.only)
    ]
    deadline = time.time() + args.minutes * 60
    shares = [cases[n :: args.processes] for n in range(args.processes)]
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=work, args=(n, share, out, deadline)) for n, share in enumerate(shares) if share]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    records = [json.loads(line) for part in sorted(out.glob("part.*.jsonl")) for line in part.read_text().splitlines()]
    if not rtx:
        machine, known = Machine(), {(c.section, c.name): c for c in all_cases() if c.timed}
        for record in records:  # alone, after every build
            case = known.get((record["section"], record["case"]))
            if case is not None and "failure" not in record:
                record["ms"] = measure_time(machine, case, out)
    (args.out / "results.json").write_text(json.dumps(records, indent=0))
    with tarfile.open(args.out / "engines.tar.xz", "w:xz", preset=1) as archive:
        for pattern in ("*.engine", "*.onnx"):
            for path in sorted(out.glob(pattern)):
                archive.add(path, path.name)
    with tarfile.open(args.out / "logs.tar.xz", "w:xz", preset=1) as archive:
        for pattern in ("*.log.gz", "*.layers.json"):
            for path in sorted(out.glob(pattern)):
                archive.add(path, path.name)
    failed = [r for r in records if "failure" in r]
    print(
        f"{len(records)} cases, {len(failed)} failed:",
        *(f"{r['section']} {r['case']}: {r['failure'][:150]}" for r in failed[:20]),
        sep="\n",
    )


if __name__ == "__main__":
    main()
