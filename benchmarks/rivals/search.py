#!/usr/bin/env python3
"""Run `polygraphy debug precision` on a case, and say what it found as one JSON line.

    search.py CASE DIRECTION MODE OUT     DIRECTION: forward, reverse; MODE: bisect, linear; BOUND=1e-3 LIMIT=440

Prints RESULT {...}. The search is ended after LIMIT seconds; what it had found until then counts, with a note. Runs
under the Python that has TensorRT 8.6 and Polygraphy 0.49.
"""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import polygraphy

HERE = os.path.dirname(os.path.abspath(__file__))
POLYGRAPHY = os.path.join(os.path.dirname(os.path.dirname(polygraphy.__file__)), "bin", "polygraphy")
BOUND = os.environ.get("BOUND", "1e-3")
STARTED = re.compile(r"RUNNING \| Iteration (\d+)")
MARKED = re.compile(r"Running layer in higher precision: Layer\s+\d+\s+\| .*\[Op: (?:LayerType\.)?(\w+)\]")
ENDED = re.compile(r"(PASSED|FAILED) \| Iteration (\d+) \| Duration ([\d.]+)s")


def command(case, direction, mode, log):
    with np.load(os.path.join(case, "inputs.npz")) as file:
        shapes = {name: list(file[name].shape) for name in file.files}
    small = {name: [1, *shape[1:]] for name, shape in shapes.items()}

    def told(shapes):
        return ["%s:%s" % (name, str(shape).replace(" ", "")) for name, shape in shapes.items()]

    return [
        sys.executable, POLYGRAPHY, "debug", "precision", os.path.abspath(os.path.join(case, "model.onnx")),
        "--fp16", "--precision-constraints", "obey", "--mode", mode, "--dir", direction, "--tactic-sources",
        "--trt-min-shapes", *told(small), "--trt-opt-shapes", *told(shapes), "--trt-max-shapes", *told(shapes),
        "--verbosity", "INFO", "tools/debug:EXTRA_VERBOSE", "--log-format", "no-colors", "--hide-fail-output",
        "--check", sys.executable, os.path.join(HERE, "check.py"), "polygraphy_debug.engine", os.path.abspath(case),
        log, BOUND,
    ]  # fmt: skip


def iterations(text):
    """[{layers, gemms, passed, seconds}] of the search's log, in order; an iteration that was cut off is left out."""
    found, layers = [], []
    for line in text.splitlines():
        if STARTED.search(line):
            layers = []
        marked, ended = MARKED.search(line), ENDED.search(line)
        if marked:
            layers.append(marked.group(1))
        if ended:
            gemms = sum(kind in ("MATRIX_MULTIPLY", "CONVOLUTION", "FULLY_CONNECTED") for kind in layers)
            passed, seconds = ended.group(1) == "PASSED", float(ended.group(3))
            found.append({"layers": len(layers), "gemms": gemms, "passed": passed, "seconds": round(seconds, 1)})
    return found


def main():
    case, direction, mode, out = sys.argv[1:]
    folder = os.path.abspath(os.path.join(out, "%s.%s.%s" % (os.path.basename(case.rstrip("/")), direction, mode)))
    os.makedirs(folder, exist_ok=True)
    log, limit = os.path.join(folder, "evaluations.jsonl"), float(os.environ.get("LIMIT", "440"))
    start, note = time.time(), ""
    with open(os.path.join(folder, "log"), "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command(case, direction, mode, log),
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            note = "ended after %d s" % limit
    with open(os.path.join(folder, "log"), encoding="utf-8", errors="replace") as file:
        text = file.read()
    steps, errors = iterations(text), []
    if os.path.exists(log):
        with open(log, encoding="utf-8") as file:
            errors = [json.loads(line) for line in file]
    if len(errors) >= len(steps):  # an iteration whose engine could not be built is not checked
        for step, error in zip(steps, errors):
            step["sad"] = error["sad"]
    else:
        note += " %d engines not built" % (len(steps) - len(errors))
    if process.returncode and not note:
        note = " ".join(text.splitlines()[-2:])[-300:]
    good = [step for step in steps if step["passed"]]
    best = min(good, key=lambda step: step["layers"]) if good else {}
    result = {
        "case": os.path.basename(case.rstrip("/")),
        "tool": "polygraphy %s debug precision %s %s" % (polygraphy.__version__, mode, direction),
        "judge": "TensorRT 8.6",
        "sad": best.get("sad"),
        "fp32": best.get("layers"),
        "fp32_gemms": best.get("gemms"),
        "evaluations": len(steps),
        "seconds": round(time.time() - start, 1),
        "note": note.strip(),
        "steps": steps,
    }
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
