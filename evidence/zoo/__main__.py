"""python -m evidence.zoo OUT: export, convert, run; everything as JSON lines in OUT, at most ten minutes.

Stages: (1) sixteen processes export and convert, and search the BERT plans; (2) onnxruntime's CUDA provider alone on the
GPU; (3) TensorRT 10.6: one process for the BERT plans, two for the zoo. What is late is left out and counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WORK = Path(os.environ.get("ZOO_WORK", "/tmp/zoo"))


def _run(command: list[str], seconds: float, threads: str = "1") -> dict[str, Any]:
    environment = dict(os.environ, OMP_NUM_THREADS=threads, CUDA_VISIBLE_DEVICES="")
    try:
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=max(seconds, 1), env=environment
        )
    except subprocess.TimeoutExpired:
        return {"command": command[1:], "failure": f"over {seconds:.0f} s"}
    last = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        return dict(json.loads(last))
    except json.JSONDecodeError:
        return {"command": command[1:], "failure": (done.stderr or last)[-400:]}


def main() -> None:
    """All stages, or those named."""
    from evidence.zoo.architectures import ARCHITECTURES, ON_TENSORRT
    from evidence.zoo.bert import PLANS, PRESETS, TARGETS, prepare

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=9.3)
    parser.add_argument("--jobs", type=int, default=14)
    parser.add_argument("--exporters", nargs="*", default=["torchscript", "dynamo"])
    parser.add_argument("--only", nargs="*", default=[], help="models")
    parser.add_argument("--stages", nargs="*", default=["bert", "convert", "ort", "trt"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    started = time.time()
    end = started + args.minutes * 60
    names = [n for n in ARCHITECTURES if not args.only or n in args.only]
    names.sort(key=lambda n: n not in ON_TENSORRT)
    with ThreadPoolExecutor(args.jobs) as pool:
        plans = []
        if "bert" in args.stages:
            prepare(WORK / "bert")
            plans = [
                pool.submit(_run, ["-m", "evidence.zoo.bert", p, t, label, str(WORK / "bert")], 250, "2")
                for label in sorted(PLANS, key=lambda label: label == "rules") for p in PRESETS for t in TARGETS
            ]  # fmt: skip
        jobs = []
        if "convert" in args.stages:
            for name in names:
                for exporter in args.exporters:
                    extra = ["--plans"] if name in ON_TENSORRT and exporter == args.exporters[0] else []
                    command = ["-m", "evidence.zoo.convert", name, exporter, str(WORK / "models"), *extra]
                    jobs.append(pool.submit(_run, command, 120))
        with open(args.out / "convert.jsonl", "a") as file:
            for job in jobs:
                file.write(json.dumps(job.result()) + "\n")
                file.flush()
        with open(args.out / "bert_plans.jsonl", "a") as file:
            for plan in plans:
                file.write(json.dumps(plan.result()) + "\n")
                file.flush()
    print(f"converted after {time.time() - started:.0f} s", flush=True)
    if "ort" in args.stages:
        until = min(end - 20, time.time() + 130)
        with open(args.out / "ort.err", "w") as errors:
            subprocess.run(
                [sys.executable, "-m", "evidence.zoo.on_gpu", "ort", str(WORK / "models"), str(until)], stderr=errors
            )
        print(f"onnxruntime done after {time.time() - started:.0f} s", flush=True)
    if "trt" in args.stages:
        base = [sys.executable, "-m", "evidence.zoo.on_gpu"]
        commands = [[*base, "bert", str(WORK / "bert"), str(end - 25)]]
        commands += [[*base, "trt", str(WORK / "models"), str(end - 25), str(n), "2"] for n in range(2)]
        with open(args.out / "trt.err", "w") as errors:
            running = [subprocess.Popen(command, stderr=errors) for command in commands]
            for process in running:
                try:
                    process.wait(timeout=max(end - time.time(), 1))
                except subprocess.TimeoutExpired:
                    process.kill()
    for path in [*(WORK / "models").glob("*.jsonl"), *(WORK / "bert").glob("*.jsonl")]:
        (args.out / path.name).write_text(path.read_text())
    print(f"done after {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
