"""`python -m fuzz [SECONDS [SEED]]`: fuzz models and files for a stated time, and say what broke.

Both at once, on a core each. Exit 1 where something broke; the inputs lie in .fuzz/, and one that is mended goes
into fuzz/corpus/ under its kind's name, where the tests run it. .fuzz/*-seeds grow from run to run. With a SEED
nothing is learned from what the code covers, and the same inputs come in the same order, however far the time goes:
for CI.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

OUT = Path(".fuzz")
KINDS = ("model", "text")


def main(seconds: int, seed: str = "") -> int:
    """Run both targets, each in a process of its own, side by side."""
    broken = 0
    program = "fuzz.steady" if seed else "fuzz.target"
    words = [str(seconds), str(OUT), *([seed] if seed else [])]
    running = {
        kind: subprocess.Popen([sys.executable, "-m", program, kind, *words], stderr=subprocess.DEVNULL)
        for kind in KINDS
    }
    for kind, process in running.items():
        code = process.wait()
        told = json.loads((OUT / f"{kind}.json").read_text())
        if code:
            told["places"][f"the process ended with {code}"] = {"count": 1, "file": "see .fuzz/"}
        print(
            f"{kind}: {told['runs']} runs in {told['cpu_s']} CPU seconds: {told['answered']} answered, "
            f"{told['refused']} refused, {told['broken']} broken in {len(told['places'])} places; "
            f"{told['resident_bytes'] >> 20} MB and {told['open_files']} open files at the end",
            flush=True,
        )
        for place, found in told["places"].items():
            print(f"  {found['count']:5d}  {place}  ({OUT / found['file']}): {found.get('message', '')[:100]}")
        broken += len(told["places"])
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 600, *sys.argv[2:3]))
