"""What a caller may give for a model, for inputs, and for a side of a comparison."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from precision_planner.model.batches import InputRequest, Inputs
from precision_planner.model.model import Model

__all__ = ["Arrays", "InputSource", "ModelSource", "PathLike"]

PathLike: TypeAlias = str | os.PathLike[str]

ModelSource: TypeAlias = Model | onnx.ModelProto | PathLike
"""A path, a ModelProto, or a `Model`."""

Arrays: TypeAlias = Mapping[str, npt.ArrayLike] | Mapping[str, np.ndarray[Any, Any]]
"""One batch: arrays by name."""

InputSource: TypeAlias = (
    Inputs | InputRequest | Arrays | Iterable[Arrays] | Callable[[], Iterable[Arrays]] | PathLike | None
)
"""See `load_inputs`: a path, arrays by name, batches of them, or None where valid ones may be made up."""
