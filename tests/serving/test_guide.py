"""docs/serving.md: each of its blocks is run as it stands, in order."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.conftest import stand_in_engine
from tests.serving.server import ROOT, RunningServer, running

pytestmark = [pytest.mark.slow, pytest.mark.triton, pytest.mark.torch]

GUIDE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[list[str]]:
    for block in blocks("sh"):
        for line in block.splitlines():
            yield shlex.split(line)


def test_from_export_to_client(installation, tmp_path, monkeypatch, planner):
    export, client = blocks("python")
    monkeypatch.chdir(tmp_path)
    ran = subprocess.run([sys.executable, "-c", export], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    todo = list(commands())
    serve = next(at for at, words in enumerate(todo) if words[0] == "tritonserver")
    for words in todo[:serve]:
        if words[:2] == ["planner", "build"]:
            # the builder needs a GPU; tests/emitting/test_build.py runs it for TensorRT-RTX, which does not
            stand_in_engine(Path(words[2]))
            continue
        assert words[0] == "planner"
        ran = planner(*words[1:])
        assert ran.exit_code == 0, (words, ran.stderr)
    option, _, repository = todo[serve][1].partition("=")
    assert option == "--model-repository"
    (tmp_path / "scratch").mkdir()
    with running(installation, Path(repository), tmp_path / "scratch") as server:
        for words in todo[serve + 1 :]:
            fewer = ["--requests", "50"] if "load" in words else []
            ran = planner(*(_placed(word, server) for word in words[1:]), *fewer)
            assert ran.exit_code == 0, (words, ran.stdout, ran.stderr)
        assert Path("load.html").is_file()
        code = _placed(client, server)
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        # the README's own snippet, too
        snippet = re.search(r"```python\n(.*?)```", Path(repository, "bert", "README.md").read_text(), re.DOTALL)
        code = _placed(snippet[1] + "\nprint(logits.dtype, probability.shape)", server)
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (ran.returncode, ran.stdout) == (0, "float16 (1, 11)\n"), ran.stderr


def _placed(text: str, server: RunningServer) -> str:
    """The ports of the guide's server are the default ones, this one's are free ones."""
    return text.replace("localhost:8000", server.http).replace("localhost:8001", server.grpc)


def test_every_refusal_that_it_lists_is_one_that_is_known():
    from precision_planner.serving.refusals import find_refusal

    rows = re.findall(r"^\| `(.+?)` \|", GUIDE, re.MULTILINE)
    assert len(rows) == 7
    examples = {
        "data-type is 'FP32', but model ... expects 'FP16'": (
            "input 'x' data-type is 'FP32', but model 'm' expects 'FP16'"
        ),
        "input byte size mismatch": "input byte size mismatch for input 'x' for model 'm'. Expected 8, got 16",
        "unexpected shape for input": "unexpected shape for input 'x' for model 'm'. Expected [-1,4], got [4]",
        "unknown model ... has no available versions": "unknown model: 'm' has no available versions",
    }
    for row in rows:
        assert find_refusal(examples.get(row, row)) is not None, row
