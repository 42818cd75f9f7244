"""Warm-up requests with valid data: what the server runs before it says that a model is ready.

Random numbers are no data for a model that takes token ids; the golden cases of the plan are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from precision_planner.serving.config import WarmupSample
from precision_planner.serving.tensors import Interface, ServedTensor

NUMPY_TYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BYTES": np.dtype(object),
}
"""The protocol's name of a type -> numpy's (little endian, as on the wire)."""


@dataclass(frozen=True)
class Warmup:
    """Samples, and the contents of the files that they name.

    Attributes:
      samples: what config.pbtxt says of them.
      files: file name -> raw little-endian bytes.
    """

    samples: tuple[WarmupSample, ...]
    files: Mapping[str, bytes]


def make_warmup(
    interface: Interface, cases: Mapping[str, Mapping[str, np.ndarray]], batches: Sequence[int], batched: bool
) -> Warmup:
    """Samples of the first rows of golden cases.

    Args:
      interface: what the model takes.
      cases: name -> inputs, with the batch as the first axis where there is one.
      batches: how many rows each sample has; one sample each, of the usual case, and one of one row of every other
        case, whose free axes may have other sizes. Ignored without batching.
      batched: whether the model is served with a batch axis.

    Returns:
      Nothing where a case is missing or holds strings, which raw files cannot.
    """
    if not cases or any(tensor.wire == "BYTES" for tensor in interface.inputs):
        return Warmup((), {})
    usual = "usual" if "usual" in cases else next(iter(cases))
    plan: list[tuple[str, str, int]] = [(f"{usual}-{size}", usual, size) for size in batches] if batched else []
    plan += [(case, case, 1 if batched else 0) for case in cases if not batched or case != usual]
    samples, files = [], {}
    for name, case, size in plan:
        entries = {}
        for tensor in interface.inputs:
            array = as_wire(cases[case][tensor.name], tensor)
            if batched:
                # a file holds one row, which the server repeats
                array = array[0]
            file = f"{case}-{_plain(tensor.name)}"
            entries[tensor.name] = (file, tuple(array.shape))
            files[file] = array.tobytes()
        samples.append(WarmupSample(name, size, entries))
    return Warmup(tuple(samples), files)


def as_wire(array: np.ndarray, tensor: ServedTensor) -> np.ndarray:
    """The array in the tensor's type, contiguous; rounded to nearest even for 16 bits."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array, NUMPY_TYPES[tensor.wire])


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
