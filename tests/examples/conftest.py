"""Fixtures of the sample models' tests."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from examples.bert_classifier.minilm import PACKAGE, minilm_folder


@pytest.fixture(scope="session")
def minilm_files() -> None:
    """Skip where MiniLM's weights are not installed."""
    if find_spec("safetensors") is None:
        pytest.skip("safetensors is not installed")
    try:
        minilm_folder()
    except ModuleNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed")
