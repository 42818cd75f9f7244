"""README's transcripts: what the commands in them print, put there by running them.

A transcript is a block of Markdown between two comments:

    <!-- transcript -->
    ```text
    $ planner fp16 65519
    (what the command prints)
    ```
    <!-- /transcript -->

Every line that begins with "$ " is run, in the order of the file, in one folder that holds `model.onnx` (a BERT
classifier with massive activations) and `data.npz`. Run as `make readme`, or with --check, which changes nothing and
fails where a block says something else than its commands do.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/*.md")
BLOCK = re.compile(r"(<!-- transcript -->\n```\w*\n)(.*?)(```\n<!-- /transcript -->)", re.DOTALL)
WIDTH = 100


def sample(folder: Path) -> None:
    """Write the model and the data that transcripts are about."""
    from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs

    spec = PRESETS["tiny-massive"]
    onnx.save(build_bert_classifier(spec), folder / "model.onnx")
    np.savez(folder / "data.npz", **sample_inputs(spec, rows=8, sequence=24))


def run(command: str, folder: Path) -> str:
    """What a command line prints on stdout; ValueError for one that is no `planner` or that fails by a mistake."""
    words = shlex.split(command)
    if not words or words[0] != "planner":
        raise ValueError(f"a transcript runs planner alone, not {command!r}")
    environment = {**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-m", "precision_planner", *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if found.returncode > 1:
        raise ValueError(f"{command}: exit {found.returncode}: {found.stderr.strip()}")
    return "".join(f"{line.rstrip()}\n" for line in found.stdout.splitlines())


def filled(text: str, folder: Path) -> str:
    """A page with every transcript as its commands print it now."""

    def block(found: re.Match[str]) -> str:
        commands = [line[2:] for line in found[2].splitlines() if line.startswith("$ ")]
        if not commands:
            raise ValueError(f"a transcript without a command: {found[2][:80]!r}")
        return found[1] + "\n".join(f"$ {command}\n{run(command, folder)}" for command in commands) + found[3]

    return BLOCK.sub(block, text)


def main() -> int:
    """Fill the pages, or check them."""
    parser = argparse.ArgumentParser(description="run the transcripts of README and docs")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a page is out of date")
    check = parser.parse_args().check
    stale = []
    for page in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        before = page.read_text(encoding="utf-8")
        if not BLOCK.search(before):
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sample(folder)
            after = filled(before, folder)
        if after != before:
            stale.append(page)
            if not check:
                page.write_text(after, encoding="utf-8")
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'out of date; run make readme' if check else 'filled'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
