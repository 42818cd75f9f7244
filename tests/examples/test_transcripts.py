"""README's transcripts are what the commands print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples.transcripts import BLOCK, ROOT, filled

PAGE = """# Title

<!-- transcript -->
```text
$ planner fp16 {value}
something else
```
<!-- /transcript -->

$ planner not-run
"""


def test_a_block_is_filled_and_only_a_block(tmp_path: Path) -> None:
    page = filled(PAGE.format(value="65520"), tmp_path)
    assert "something else" not in page
    assert "inf" in page, "65520 is the first value that FP16 rounds to infinity"
    assert page.endswith("\n$ planner not-run\n")
    assert filled(page, tmp_path) == page


def test_a_mistake_is_no_transcript(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exit 2"):
        filled(PAGE.format(value="--no-such-flag"), tmp_path)
    with pytest.raises(ValueError, match="planner alone"):
        filled(PAGE.replace("$ planner fp16 {value}", "$ rm -r x"), tmp_path)


@pytest.mark.slow
def test_the_transcripts_are_what_the_commands_print() -> None:
    assert BLOCK.search((ROOT / "README.md").read_text("utf-8")), "README has a transcript"
    run = subprocess.run(
        [sys.executable, "-m", "examples.transcripts", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
