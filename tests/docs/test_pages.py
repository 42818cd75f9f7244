"""The documentation's own steps, run as a reader would: every block marked `<!-- run -->`, page by page, in order.

`<!-- run: 1 -->` is a block that ends with that exit code.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"<!-- run(?:: (\d+))? -->\n```(\w+)\n(.*?)\n```", re.DOTALL)
PAGES = sorted(path for path in DOCS.rglob("*.md") if _BLOCK.search(path.read_text(encoding="utf-8")))


def test_some_pages_have_steps_that_run() -> None:
    assert "guides/export.md" in {page.relative_to(DOCS).as_posix() for page in PAGES}


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_the_steps_of_a_page_run(page: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    for code, language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        command = {"python": [sys.executable, "-c", text], "bash": ["bash", "-euo", "pipefail", "-c", text]}[language]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == int(code or 0), f"{text}\n{done.stdout}\n{done.stderr}"
