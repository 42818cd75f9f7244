"""The same inputs in the same order every time, for CI: `python -m fuzz.steady model|text SECONDS OUT SEED`.

Nothing is learned from what the code covers, so that a change to it changes no input: what breaks is the change's
doing. A slower machine comes less far in the same list.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from fuzz.corpus import beginnings, models
from fuzz.mutation import mutated_bytes, mutated_text
from fuzz.recording import Recorder
from fuzz.running import MOST_BYTES


def main() -> None:
    """Run until time is up: every input to begin with, then mutations of them."""
    kind, seconds, out, seed = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    recorder = Recorder(kind, out)
    begin, seeds = beginnings(kind), models() if kind == "model" else []
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        if number < len(begin):
            data = begin[number]
        else:
            rng = random.Random(f"{seed}/{number}")
            data = rng.choice(begin)
            for _ in range(rng.choice((1, 1, 2, 4))):
                data = (
                    mutated_bytes(data, MOST_BYTES, rng, seeds) if seeds else mutated_text(data, MOST_BYTES, rng, begin)
                )
        recorder.run(data)
        number += 1
    recorder.dump()


if __name__ == "__main__":
    main()
