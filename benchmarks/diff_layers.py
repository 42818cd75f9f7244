"""Time and memory of `planner diff --layers` on a 12-layer BERT base, beside one plain inference.

    python -m benchmarks.diff_layers [--rows 4,32]

Memory is anonymous memory (mapped files are the kernel's to drop), sampled every 20 ms. A plain inference is one run
of a session that has run before; a line of its own compares whole processes, in which both sides import, load, create
their sessions and touch their memory for the first time.

What a comparison cannot do without has a line, too: both models run block by block, every value fetched and looked at
once by the shortest loop that numpy has (its maximum), and nothing compared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.diffing.layers import BLOCK_BYTES
from precision_planner.model import Model
from precision_planner.model.blocks import BlockChain, fetchable
from precision_planner.model.session import Session
from precision_planner.simulation import prepare


def anonymous_gb() -> float:
    """Anonymous memory of this process, GB (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1e6


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="4,32")
    parser.add_argument("--infer", nargs=2, metavar=("MODEL", "NPZ"), help="only run a model once, plainly")
    arguments = parser.parse_args()
    if arguments.infer:
        infer(*map(Path, arguments.infer))
        return
    sizes = [int(text) for text in arguments.rows.split(",")]
    spec = PRESETS["base"]
    peak = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous_gb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base.onnx"
        onnx.save(build_bert_classifier(spec), path)
        model = Model.load(path)
        pp.diff(model, model, sample_inputs(spec, rows=1), simulate="fp16", self_check=False)  # imports what it needs
        for rows in sizes:
            inputs = sample_inputs(spec, rows=rows)
            plain = plain_seconds(model, inputs)
            print(f"plain FP32 inference, batch {rows} x {spec.sequence}: {plain[0]:.2f} s ({plain[1]:.2f} s of CPU)")
            for batches in (1, 3):
                peak[0] = 0.0
                start = clocks()
                found = pp.diff(
                    model, model, [inputs] * batches, simulate="fp16", semantics="fused", layers=True, self_check=False
                )
                took = [(now - then) / batches for now, then in zip(clocks(), start, strict=True)]
                print(
                    f"  diff --layers, {batches} batches, {len(found.layers)} values: {took[0]:.1f} s a batch, "
                    f"{took[0] / plain[0]:.1f} inferences ({took[1] / plain[1]:.1f} by CPU time), {peak[0]:.2f} GB"
                )
            least = [seconds / plain[0] for seconds in least_seconds(model, inputs)]
            print(
                f"  least, 3 batches: both models run {least[0]:.1f} inferences, every value read once {least[1]:.1f}: "
                f"{sum(least):.1f}"
            )
            print(whole_processes(path, inputs))
    done.set()
    watcher.join()


def least_seconds(model: Model, inputs: dict[str, np.ndarray], batches: int = 3) -> tuple[float, float]:
    """Seconds a batch of running a model and its simulation with every value fetched, and of reading these once."""
    wanted = set(fetchable(model))
    running = reading = 0.0
    simulated = prepare(model, precision="fp16", semantics="fused").model
    with (
        BlockChain(model, wanted, block_bytes=BLOCK_BYTES) as left,
        BlockChain(simulated, wanted, block_bytes=BLOCK_BYTES) as right,
    ):
        for number in range(batches):
            for chain in (left, right):
                start = time.perf_counter()
                for _, value in chain.run(inputs, last=number == batches - 1):
                    made = time.perf_counter()
                    value.max(initial=0)
                    running, reading = running + made - start, reading + time.perf_counter() - made
                    start = time.perf_counter()
                running += time.perf_counter() - start
    return running / batches, reading / batches


def whole_processes(model: Path, inputs: dict[str, np.ndarray]) -> str:
    """One line: a process that infers once beside `planner diff --layers`, which does its self-check too."""
    given = str(model.with_suffix(".npz"))
    np.savez(given, allow_pickle=False, **inputs)
    options = ["--simulate", "fp16", "--semantics", "fused", "--layers", "--quiet"]
    plain = process_seconds(["benchmarks.diff_layers", "--infer", str(model), given])
    diff = process_seconds(["precision_planner", "diff", str(model), str(model), "--inputs", given, *options])
    return (
        f"  whole processes: one inference {plain[0]:.1f} s, planner diff --layers {diff[0]:.1f} s: "
        f"{diff[0] / plain[0]:.1f} times ({diff[1] / plain[1]:.1f} by CPU time)"
    )


def process_seconds(arguments: list[str]) -> tuple[float, float]:
    """(seconds, seconds of CPU) of a `python -m` command."""
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, spent


def infer(model: Path, inputs: Path) -> None:
    """Load a model and run it once, as it is."""
    with np.load(inputs) as batch, Session(Model.load(model)) as session:
        session.run(dict(batch))


def clocks() -> tuple[float, float]:
    """(seconds, seconds of CPU) so far."""
    spent = os.times()
    return time.perf_counter(), spent.user + spent.system


def plain_seconds(model: Model, inputs: dict[str, np.ndarray]) -> tuple[float, float]:
    """One run of a ready session: (seconds, seconds of CPU)."""
    with Session(model) as session:
        session.run(inputs)
        start = clocks()
        session.run(inputs)
        wall, cpu = (now - then for now, then in zip(clocks(), start, strict=True))
        return wall, cpu


if __name__ == "__main__":
    main()
