"""`python -m fuzz [SECONDS]`: fuzz models and files for a stated time, and say what broke.

Two thirds of the time go to models. Exit 1 where something broke; the inputs lie in .fuzz/, and one that is mended goes
into fuzz/corpus/ under its kind's name, where the tests run it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

OUT = Path(".fuzz")
SHARES = {"model": 2 / 3, "text": 1 / 3}


def main(seconds: int) -> int:
    """Run each target in a process of its own, one after the other."""
    broken = 0
    for kind, share in SHARES.items():
        part = str(max(1, round(seconds * share)))
        process = subprocess.run([sys.executable, "-m", "fuzz.target", kind, part, str(OUT)], stderr=subprocess.DEVNULL)
        told = json.loads((OUT / f"{kind}.json").read_text())
        if process.returncode:
            told["places"][f"the process ended with {process.returncode}"] = {"count": 1, "file": "see .fuzz/"}
        print(
            f"{kind}: {told['runs']} runs in {told['cpu_s']} CPU seconds: {told['answered']} answered, "
            f"{told['refused']} refused, {told['broken']} broken in {len(told['places'])} places"
        )
        for place, found in told["places"].items():
            print(f"  {found['count']:5d}  {place}  ({OUT / found['file']}): {found.get('message', '')[:100]}")
        broken += len(told["places"])
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 600))
