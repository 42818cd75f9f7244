"""Random models: where everything in FP32 meets a tolerance, does the plan? Prints every counterexample.

    python -m benchmarks.plans_keep_promises --plans 3000

The oracle is the plan of the model as it is, in which the user keeps every node in FP32.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter

import precision_planner as pp
from precision_planner.targets import TARGETS
from tests.planning.random_models import random_model

TOLERANCES = ({"rel_l2": 1e-2}, {"rel_l2": 1e-3}, {"max_abs": 1e-2}, {"sad": 1e-3}, {"cosine": 0.9999})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first model")
    options = parser.parse_args()
    started, found, counts = time.perf_counter(), 0, Counter[str]()
    choices = list(itertools.product(TARGETS, TOLERANCES))
    for number in range(options.first, options.first + options.plans):
        target, tolerance = choices[number * 7 % len(choices)]
        model, inputs = random_model(number)
        asked = {"inputs": inputs, "target": target, "tolerance": tolerance, "verify": False}
        try:
            planned = pp.plan(model, **asked)
            counts["passed" if planned.passed else "missed"] += 1
            if planned.passed:
                continue
            if pp.plan(model, keep_fp32=["*"], fuse=(), **asked).passed:
                found += 1
                print(f"{number} {target} {tolerance}: {planned.summary}; search: {planned.plan.search['stopped']!r}")
        except Exception as error:
            counts["error"] += 1
            print(f"{number} {target} {tolerance}: {type(error).__name__}: {error}")
    seconds = time.perf_counter() - started
    said = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{options.plans} plans ({said}): {found} missed what everything in FP32 meets; {seconds:.0f} s")


if __name__ == "__main__":
    main()
