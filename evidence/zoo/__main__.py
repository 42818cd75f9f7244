"""python -m evidence.zoo OUT --stages convert=280 ort=200 trt=300: export, convert, run; JSON lines in OUT.

Stages, each with the seconds that it may take: `convert` exports and converts with every tool, sixteen at once; `ort` runs
all of it on onnxruntime's CUDA provider; `trt` builds and runs a part on TensorRT 10.6; `bert` searches the BERT plans and
`bert_trt` builds and runs those. Models stay in $ZOO_WORK, so that a later call goes on. What is late is left out and counted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WORK = Path(os.environ.get("ZOO_WORK", "/tmp/zoo"))


def _run(command: list[str], end: float, threads: str = "1") -> dict[str, Any]:
    """The last line that a process prints, as JSON; killed where the stage ends."""
    seconds = end - time.time()
    if seconds < 5:
        return {"command": command[1:], "failure": "no time"}
    environment = dict(os.environ, OMP_NUM_THREADS=threads, CUDA_VISIBLE_DEVICES="")
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        printed, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its own children too
        process.communicate()
        return {"command": command[1:], "failure": "the stage ended"}
    last = (printed.strip().splitlines() or [""])[-1]
    try:
        return dict(json.loads(last))
    except json.JSONDecodeError:
        return {"command": command[1:], "failure": (errors or last)[-400:]}


def convert(args: argparse.Namespace, seconds: float) -> None:
    """Sixteen processes export and convert, and search the BERT plans."""
    from evidence.zoo.architectures import ARCHITECTURES, ON_TENSORRT
    from evidence.zoo.bert import PLANS, PRESETS, TARGETS, prepare
    from evidence.zoo.convert import ENGINE_PLANS, TOOLS

    end = time.time() + seconds
    names = [n for n in ARCHITECTURES if not args.only or n in args.only]
    names.sort(key=lambda n: n not in ON_TENSORRT)
    with ThreadPoolExecutor(args.jobs) as pool:
        plans, jobs = [], []
        if "bert" in args.stages:
            prepare(WORK / "bert")
            plans = [
                pool.submit(_run, ["-m", "evidence.zoo.bert", p, t, label, str(WORK / "bert")], end, "2")
                for label in sorted(PLANS, key=lambda label: label == "rules") for p in PRESETS for t in TARGETS
            ]  # fmt: skip
        if "convert" in args.stages:
            for exporter in args.exporters:
                for name in names:
                    tools = [t for t in TOOLS if t != "ours_planned" or exporter == "torchscript"]
                    tools += list(ENGINE_PLANS) if name in ON_TENSORRT and exporter == "torchscript" else []
                    command = ["-m", "evidence.zoo.convert", name, exporter, str(WORK / "models"), ",".join(tools)]
                    jobs.append(pool.submit(_run, command, end))
        for file_name, running in (("convert", jobs), ("bert_plans", plans)):
            with open(args.out / f"{file_name}.jsonl", "a") as file:
                for job in running:
                    file.write(json.dumps(job.result()) + "\n")
                    file.flush()


def on_tensorrt(args: argparse.Namespace, seconds: float) -> None:
    """Four processes build and run; then one measures times alone."""
    end = time.time() + seconds
    base = [sys.executable, "-m", "evidence.zoo.on_gpu"]
    stop = end - seconds * 0.12
    commands = [
        [*base, "trt", str(WORK / "models"), str(stop - 25), str(n), str(args.builders)] for n in range(args.builders)
    ]
    with open(args.out / "trt.err", "w") as errors:
        running = [subprocess.Popen(command, stderr=errors) for command in commands]
        for process in running:
            try:
                process.wait(timeout=max(stop - time.time(), 1))
            except subprocess.TimeoutExpired:
                process.kill()
        subprocess.run([*base, "times", str(WORK / "models"), str(end)], stderr=errors)


def main() -> None:
    """All stages, or those named, each with its seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=15)
    parser.add_argument("--builders", type=int, default=4)
    parser.add_argument("--exporters", nargs="*", default=["torchscript", "dynamo"])
    parser.add_argument("--only", nargs="*", default=[], help="models")
    parser.add_argument("--stages", nargs="*", default=["convert=280", "ort=200", "trt=300"], help="NAME=SECONDS")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    stages = {name: float(seconds or 0) for name, _, seconds in (stage.partition("=") for stage in args.stages)}
    args.stages = stages
    started = time.time()
    if "convert" in stages or "bert" in stages:
        convert(args, stages.get("convert") or stages["bert"])
        print(f"converted after {time.time() - started:.0f} s", flush=True)
    with open(args.out / "ort.err", "w") as errors:
        for name, folder in (("ort", "models"), ("bert_trt", "bert")):
            if name in stages:
                what = ["ort" if name == "ort" else "bert", str(WORK / folder), str(time.time() + stages[name])]
                subprocess.run([sys.executable, "-m", "evidence.zoo.on_gpu", *what], stderr=errors)
                print(f"{name} done after {time.time() - started:.0f} s", flush=True)
    if "trt" in stages:
        on_tensorrt(args, stages["trt"])
    for path in [*(WORK / "models").glob("*.jsonl"), *(WORK / "bert").glob("*.jsonl")]:
        (args.out / path.name).write_text(path.read_text())
    print(f"done after {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
