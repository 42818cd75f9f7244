"""python -m evidence.exporters.on_cuda FOLDER OUT.jsonl: what was planned for onnxruntime, by its CUDA provider.

FOLDER is that of `python -m evidence.exporters --folder FOLDER`, which leaves the planned models in it. Each is loaded at
onnxruntime's default level and with its optimizations off, run, and compared with FP32 and with its prediction.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np


def load_and_run(
    path: Path, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], level: str
) -> dict[str, Any]:
    """Whether it loads, its error, and its nodes that have no kernel on CUDA."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as failure:  # what it says is the record
        return {"loads": False, "failure": str(failure)[:400]}
    if "CUDAExecutionProvider" not in session.get_providers():
        return {"loads": False, "failure": "no CUDA provider"}
    try:
        found = dict(zip([out.name for out in session.get_outputs()], session.run(None, inputs), strict=True))
    except Exception as failure:
        return {"loads": True, "failure": str(failure)[:400]}
    worst = 0.0
    for name, right in expected.items():
        if right.dtype.kind == "f" and right.size:
            a, b = right.astype(np.float64), np.asarray(found[name], np.float64)
            finite = np.isfinite(a)
            lost = not np.isfinite(b[finite]).all()
            error = float("inf") if lost else float(np.linalg.norm((a - b)[finite]) / (np.linalg.norm(a[finite]) or 1))
            worst = max(worst, error)
    return {"loads": True, "rel_l2": worst}


def main() -> int:
    """The command: 1 where a planned model does not load or does not run."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    counts: Counter[str] = Counter()
    with open(out, "w") as file:
        for path in sorted(folder.glob("*.planned.onnx")):
            name, exporter, precision = path.name.split(".")[:3]
            with np.load(folder / f"{name}.{exporter}.inputs.npz") as stored:
                inputs = dict(stored)
            with np.load(folder / f"{name}.{exporter}.expected.npz") as stored:
                expected = dict(stored)
            record: dict[str, Any] = {"model": name, "exporter": exporter, "precision": precision}
            for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):
                record[level] = said = load_and_run(path, inputs, expected, level)
                counts[f"{precision}, {level}: {'loads' if said['loads'] else 'does not load'}"] += 1
                counts[f"{precision}, {level}: does not run"] += said["loads"] and "failure" in said
            file.write(json.dumps(record) + "\n")
            file.flush()
    for what, count in sorted(counts.items()):
        print(f"{what}: {count}")
    return 1 if any(count for what, count in counts.items() if "does not" in what) else 0


if __name__ == "__main__":
    sys.exit(main())
