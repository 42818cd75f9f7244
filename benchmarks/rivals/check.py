#!/usr/bin/env python3
"""Polygraphy's --check: is an engine's answer within the tolerance?

    check.py ENGINE CASE LOG BOUND      exit code 0 where the worst row's SAD of `probability` is at most BOUND

Appends {"sad": ...} to LOG, a line each evaluation. Runs under the Python that has TensorRT 8.6.
"""

import json
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "tensorrt86"))
import engine


def main():
    path, case, log, bound = sys.argv[1:]
    with np.load(os.path.join(case, "inputs.npz")) as file:
        arrays = dict(file)
    with np.load(os.path.join(case, "expected.npz")) as file:
        expected = file["probability"]
    with open(path, "rb") as file:
        outputs, _ = engine.run(file.read(), arrays, engine.Log())
    sad = engine.compare(expected, outputs["probability"])["sad"]
    good = bool(np.isfinite(sad) and sad <= float(bound))
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps({"sad": sad if np.isfinite(sad) else None, "good": good}) + "\n")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
