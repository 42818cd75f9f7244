"""Float tensors of another type as float32: in place, their weights computed while they are read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
from onnx import TensorProto

from precision_planner.model.model import Model
from precision_planner.model.payloads import LazyPayload, Payload, WeightStoreBuilder
from precision_planner.model.tensors import clear_values, marker_key, numpy_dtype, set_payload

__all__ = ["make_float", "map_payload"]


def make_float(tensor: TensorProto, model: Model, store: WeightStoreBuilder) -> None:
    """Turn a FLOAT16, BFLOAT16 or DOUBLE tensor into FLOAT: exact from 16 bits, rounded from 64.

    Args:
      tensor: of a copy of the model's proto; name, doc string and metadata stay.
      model: holds its values.
      store: of the copy; takes them in their new type.
    """
    dtype = numpy_dtype(tensor.data_type)
    key = marker_key(tensor)
    if key is None:
        array = _to_float32(model.array(tensor))
        clear_values(tensor)
        tensor.raw_data = np.ascontiguousarray(array).tobytes()
    else:
        payload = map_payload(model.weights[key], dtype, _to_float32, np.dtype(np.float32).itemsize / dtype.itemsize)
        set_payload(tensor, store.add(payload))
    tensor.data_type = TensorProto.FLOAT


def _to_float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def map_payload(
    payload: Payload,
    dtype: np.dtype[Any],
    function: Callable[[np.ndarray], np.ndarray],
    scale: float = 1.0,
    identity: Hashable = None,
) -> LazyPayload:
    """A payload computed from another, element by element, while it is streamed.

    Args:
      payload: the source, whole elements in every chunk.
      dtype: of the source.
      function: an array of the source's elements -> an array of as many.
      scale: bytes per source byte.
      identity: see `LazyPayload`.
    """

    def produce() -> Iterator[np.ndarray]:
        for chunk in payload.chunks():
            yield function(np.frombuffer(chunk, np.uint8).view(dtype))

    return LazyPayload(int(payload.nbytes * scale), produce, identity)
