"""The way in, timed: a fresh environment, the wheel, the first verdict on one's own model, the plan.

    python -m benchmarks newcomer
    NEWCOMER_MODEL=model.onnx NEWCOMER_INPUTS=data.npz python -m benchmarks newcomer

Builds the wheel, makes an environment in a temporary folder, installs the wheel with the extra `cpu` as pip is set up
here (its cache included: NEWCOMER_COLD=1 leaves the cache out), and runs what `planner` itself says is next. Without a
model of one's own it is the sample classifier with massive activations. Every step is printed with its seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def step(title: str, command: Sequence[str | Path], folder: Path) -> tuple[float, str]:
    """Run a command; its seconds and what it printed. What fails ends the benchmark with its output."""
    begun = time.perf_counter()
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode not in (0, 1):
        sys.exit(f"{title} failed with exit code {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    print(f"{seconds:7.1f} s  {title}", flush=True)
    return seconds, done.stdout


def sample(folder: Path) -> tuple[Path, Path]:
    """The sample classifier and its inputs, made here: the fresh environment has no examples."""
    import numpy as np
    import onnx

    from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs

    spec = PRESETS["tiny-massive"]
    onnx.save(build_bert_classifier(spec), folder / "model.onnx")
    np.savez(folder / "data.npz", **sample_inputs(spec, rows=8, sequence=spec.sequence))
    return folder / "model.onnx", folder / "data.npz"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="newcomer-") as made:
        folder = Path(made)
        own = os.environ.get("NEWCOMER_MODEL")
        if own:
            model, given = Path(own).resolve(), os.environ.get("NEWCOMER_INPUTS")
            inputs = Path(given).resolve() if given else None
        else:
            model, inputs = sample(folder)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        step("build the wheel (once, by us)", [*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], folder)
        wheel = next(folder.glob("precision_planner-*.whl"))
        fresh, bin_ = folder / "env", folder / "env" / "bin"
        planner = bin_ / "planner"
        cold = ["--no-cache-dir"] if os.environ.get("NEWCOMER_COLD") else []
        data = ["--inputs", inputs] if inputs else []
        total = step("python -m venv", [sys.executable, "-m", "venv", fresh], folder)[0]
        install = [bin_ / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *cold]
        total += step("pip install precision-planner[cpu]", [*install, f"{wheel}[cpu]"], folder)[0]
        total += step("planner --help", [planner, "--help"], folder)[0]
        seconds, said = step("planner analyze: the first verdict", [planner, "analyze", model, *data], folder)
        total += seconds
        print(f"{total:7.1f} s  from nothing to: {said.splitlines()[0]}")
        step("planner plan: the decision", [planner, "plan", model, "-o", folder / "plan", *data], folder)
        print(f"          the environment takes {size(fresh) / 1e6:.0f} MB")


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
