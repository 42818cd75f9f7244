"""python -m evidence.spread OUT --stages make=240 ort=90 trt=200: draws and measures; OUT/fresh.jsonl, OUT/remade.jsonl.

Stages, each with the seconds that it may take: `make` exports the architectures, types them for both runtimes and draws
(no GPU); `ort` runs them on onnxruntime's CUDA provider, `trt` on TensorRT 10.6; `remade` makes stored runs' models again
and draws them (no GPU). Models stay in $SPREAD_WORK, so that a later call goes on. `python -m evidence.coverage` counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

WORK = Path(os.environ.get("SPREAD_WORK", "/tmp/spread"))


def _one(name: str, until: float) -> dict[str, Any]:
    left = until - time.time()
    if left < 3:
        return {"model": name, "failure": "no time"}
    command = [sys.executable, "-m", "evidence.spread.fresh", "make", name, str(WORK)]
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left, env=environment)
    except subprocess.TimeoutExpired:
        return {"model": name, "failure": "the stage ended"}
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return dict(json.loads(last)) if last.startswith("{") else {"model": name, "failure": done.stderr[-300:]}


def make(only: list[str], jobs: int, seconds: float) -> None:
    """Everything that needs no GPU, `jobs` at once."""
    from evidence.spread.fresh import CLASSIFIERS
    from evidence.zoo.architectures import ARCHITECTURES

    names = [name for name in (*CLASSIFIERS, *ARCHITECTURES) if not only or name in only]
    until = time.time() + seconds
    with ThreadPoolExecutor(jobs) as pool, open(WORK / "made.jsonl", "a") as file:
        for record in pool.map(lambda name: _one(name, until), names):
            file.write(json.dumps(record) + "\n")
            file.flush()


def _again(place: tuple[str, str]) -> dict[str, Any]:
    from evidence.spread.remade import runs

    run = next(run for run in runs() if (run.source, run.name) == place)
    try:
        assert run.predict is not None
        return {"source": run.source, "name": run.name, **run.predict()}
    except Exception as failure:  # recorded: one that cannot be made again costs itself alone
        return {"source": run.source, "name": run.name, "failure": f"{type(failure).__name__}: {failure}"[:300]}


def remade(out: Path, only: list[str], jobs: int, seconds: float) -> None:
    """Draws of stored runs; those that OUT/remade.jsonl has are left out."""
    from evidence.spread.remade import runs

    path, until = out / "remade.jsonl", time.time() + seconds
    known = (
        {(r["source"], r["name"]) for r in map(json.loads, path.read_text().splitlines())} if path.exists() else set()
    )
    wanted = [
        (run.source, run.name)
        for run in runs()
        if run.predict is not None and (run.source, run.name) not in known and (not only or run.source in only)
    ]
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
    futures = [pool.submit(_again, place) for place in wanted]
    with open(path, "a") as file:
        for future in futures:
            try:
                record = future.result(timeout=max(0.1, until - time.time()))
            except TimeoutError:
                break
            file.write(json.dumps(record) + "\n")
            file.flush()
    pool.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()


def measure(stages: dict[str, float], builders: int) -> None:
    """The stages that need a GPU."""
    base = [sys.executable, "-m", "evidence.spread.fresh"]
    with open(WORK / "errors.txt", "a") as errors:
        if "ort" in stages:
            subprocess.run([*base, "ort", str(WORK), str(time.time() + stages["ort"])], stderr=errors)
        if "trt" in stages:
            until = time.time() + stages["trt"]
            commands = [[*base, "trt", str(WORK), str(until - 25), str(n), str(builders)] for n in range(builders)]
            running = [subprocess.Popen(command, stderr=errors) for command in commands]
            for process in running:
                try:
                    process.wait(timeout=max(1.0, until - time.time()))
                except subprocess.TimeoutExpired:
                    process.kill()


def gather(out: Path) -> None:
    """One line a run: what was predicted and what was measured."""
    predicted = {r["model"]: r for r in _lines(WORK / "made.jsonl") if "predicted" in r}
    with open(out / "fresh.jsonl", "w") as file:
        for record in _lines(WORK / "made.jsonl"):
            if "failure" in record:
                file.write(json.dumps({"runtime": "made", "kind": "", **record}) + "\n")
        for path in sorted(WORK.glob("*.jsonl")):
            for record in _lines(path) if path.name != "made.jsonl" else ():
                drawn = predicted.get(record["model"], {}).get("predicted", {}).get(record["kind"], {})
                file.write(json.dumps({**record, **drawn}) + "\n")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    """All stages, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=15)
    parser.add_argument("--builders", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=[], help="models, or sources of stored runs")
    parser.add_argument("--stages", nargs="*", default=["make=240", "ort=90", "trt=200"], help="NAME=SECONDS")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    stages = {name: float(seconds) for name, _, seconds in (stage.partition("=") for stage in options.stages)}
    started = time.time()
    if "make" in stages:
        make(options.only, options.jobs, stages["make"])
        print(f"made after {time.time() - started:.0f} s", flush=True)
    measure(stages, options.builders)
    gather(options.out)
    print(f"measured after {time.time() - started:.0f} s", flush=True)
    if "remade" in stages:
        remade(options.out, options.only, options.jobs, stages["remade"])
    print(f"done after {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
