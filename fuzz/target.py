"""One fuzzing process: `python -m fuzz.target model|text SECONDS OUT`, guided by what the code covers.

model: a ModelProto, mutated as one, is loaded, given inputs, analyzed and rewritten twice; what becomes of a valid one
has to be valid. text: every reader of files. Whatever raises anything but a `PlannerError`, or takes over `HANG_S`
seconds of CPU time or `MEMORY_BYTES`, is written to OUT, once a place, as small as it was met. So is a leak: memory or
open files that grew over the run.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["precision_planner"]):
    from fuzz.running import MOST_BYTES

from fuzz.corpus import beginnings, models
from fuzz.mutation import mutated_bytes
from fuzz.recording import Recorder


def main() -> None:
    """Fuzz until time is up; libFuzzer ends the process."""
    kind, seconds, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    recorder = Recorder(kind, out, guided=True)
    begin = out / f"{kind}-seeds"
    begin.mkdir(exist_ok=True)
    for number, data in enumerate(beginnings(kind)):
        (begin / f"{number:04d}").write_bytes(data)
    seeds = models() if kind == "model" else []

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.05:
            return bytes(atheris.Mutate(data or b"\0", most))
        return mutated_bytes(data, most, rng, seeds)

    arguments = ["fuzz", str(begin), f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-timeout=120"]
    arguments += ["-print_final_stats=0", "-verbosity=0", "-rss_limit_mb=0"]
    if kind == "model":
        atheris.Setup(arguments, recorder.run, custom_mutator=mutated)
    else:
        atheris.Setup(arguments, recorder.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
