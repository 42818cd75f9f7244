"""What once broke something is answered or refused, and what became of a valid model is valid."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click
import pytest

from fuzz.corpus import CORPUS
from fuzz.running import run_model, run_text
from precision_planner.errors import PlannerError


@pytest.mark.parametrize("path", sorted(CORPUS.glob("model-*")), ids=lambda path: path.name)
def test_models(path: Path) -> None:
    with contextlib.suppress(PlannerError):  # a refusal is an answer too; anything else fails here
        run_model(path.read_bytes(), lambda stage: None)


@pytest.mark.parametrize(
    "path", sorted(set(CORPUS.glob("*")) - set(CORPUS.glob("model-*"))), ids=lambda path: path.name
)
def test_files(path: Path, tmp_path: Path) -> None:
    with contextlib.suppress(PlannerError, click.ClickException):
        run_text(path.read_bytes(), lambda stage: None, tmp_path)
