"""The emitted script under Polygraphy 0.49 and 0.53: by itself, and driven by `polygraphy convert`.

    python -m benchmarks polygraphy_versions

Makes a small environment a version (from the package index) with TensorRT-RTX, and builds one plan folder in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from examples.bert_classifier import PRESETS, build_bert_classifier
from precision_planner.model import Model
from precision_planner.planning import plan

VERSIONS = ("0.49.26", "0.53.6")
CONVERT = (
    "convert", "build.py", "--model-type", "trt-network-script", "--trt-config-script", "build.py",
    "--convert-to", "trt", "-o", "by_polygraphy.engine",
)  # fmt: skip


def run(command: list[str], folder: Path) -> str:
    """'ok', or the last line of what went wrong."""
    environment = {
        **os.environ,
        "POLYGRAPHY_USE_TENSORRT_RTX": "1",
        "PLAN_COMPUTE_CAPABILITIES": "SM89",
        "PYTHONPATH": "",
    }
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return "ok" if found.returncode == 0 else (found.stdout + found.stderr).strip().splitlines()[-1]


def main() -> None:
    print("| Polygraphy | build.py | polygraphy convert build.py |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "plan"
        model = Model.load(build_bert_classifier(PRESETS["tiny"]))
        plan(model, target="tensorrt-rtx", verify=False).save(folder)
        for version in VERSIONS:
            place = Path(scratch) / version
            venv.create(place, with_pip=True)
            python = place / "bin" / "python"
            packages = [f"polygraphy=={version}", "numpy", "tensorrt-rtx"]
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, stderr=sys.stderr)
            results = [
                run([str(python), "build.py"], folder),
                run([str(place / "bin" / "polygraphy"), *CONVERT], folder),
            ]
            print(f"| {version} | {results[0]} | {results[1]} |", flush=True)


if __name__ == "__main__":
    main()
