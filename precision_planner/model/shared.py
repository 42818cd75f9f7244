"""Many small onnxruntime sessions over one set of weights: nothing is written to disk, copied or converted twice.

A session of its own for every part of a model, and for every variant of a part, would each time serialize the weights
that it reads. Here they are handed over as `OrtValue`s that all sessions of a `TensorPool` share, and values pass from
one session to the next without a copy.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from precision_planner._extras import require
from precision_planner.errors import ModelError
from precision_planner.model.model import MAX_IR_VERSION, Model
from precision_planner.model.payloads import LazyPayload
from precision_planner.model.session import is_onnxruntime_error, reason_of, run_arrays
from precision_planner.model.tensors import marker_key
from precision_planner.writing import Scratch

__all__ = ["SharedSession", "TensorPool", "Value", "as_value"]

Value: TypeAlias = Any
"""onnxruntime's OrtValue, which ships no types."""

_TYPE = onnx.TensorProto
_NUMBERS = frozenset(
    [
        *(_TYPE.FLOAT, _TYPE.FLOAT16, _TYPE.DOUBLE, _TYPE.BOOL),
        *(_TYPE.INT8, _TYPE.INT16, _TYPE.INT32, _TYPE.INT64),
        *(_TYPE.UINT8, _TYPE.UINT16, _TYPE.UINT32, _TYPE.UINT64),
    ]
)
"""Element types that onnxruntime takes from numpy."""

_AS_REQUESTED = 1
"""onnxruntime's kSameAsRequested: an arena grows by what is asked for rather than by powers of two."""

_PLACE = "shared"
"""An empty file: onnxruntime wants a weight's file to exist, and does not open it where it is handed the values."""


class TensorPool:
    """The weights of a model and of everything derived from it, each held once, as onnxruntime's values.

    Weights that lie in a mapped file stay there; only computed ones (rounded weights) take memory. Two stored tensors
    are the same where the weight stores of their models share the key, so a pool is for one model and its parts.

    Args:
      one_store: all models given have one weight store, so that a key says which weight it is even where a computed
        one does not say what it computes.
    """

    def __init__(self, *, one_store: bool = False) -> None:
        self._one_store = one_store
        self._ort = require("onnxruntime", extra="cpu", purpose="running the model")
        self._values: dict[Hashable, tuple[Value, int]] = {}
        self._folder = Scratch()
        (self._folder.path / _PLACE).touch()

    @property
    def folder(self) -> Path:
        """Where sessions put the structure of their models for onnxruntime to load."""
        return self._folder.path

    def close(self) -> None:
        """Let go of the weights and remove the folder."""
        self._values.clear()
        self._folder.close()

    def __len__(self) -> int:
        """How many weights are held."""
        return len(self._values)

    @property
    def held_bytes(self) -> int:
        """Bytes of the computed weights held; those in a mapped file take no memory."""
        return sum(size for _, size in list(self._values.values()))

    @staticmethod
    def takes(tensor: onnx.TensorProto) -> bool:
        """Whether a tensor is stored, and of a type that onnxruntime takes from numpy."""
        return marker_key(tensor) is not None and tensor.data_type in _NUMBERS

    def of(self, model: Model, tensor: onnx.TensorProto) -> Value:
        """The value of a stored tensor."""
        place = self._place(model, tensor)
        if place is None:  # nobody says whose bytes these are
            return self._ort.OrtValue.ortvalue_from_numpy(model.array(tensor))
        if place not in self._values:
            computed = isinstance(model.weights[str(marker_key(tensor))], LazyPayload)
            value = self._ort.OrtValue.ortvalue_from_numpy(model.array(tensor))
            self._values[place] = (value, value.tensor_size_in_bytes() if computed else 0)
        return self._values[place][0]

    def forget(self, model: Model, tensors: Iterable[onnx.TensorProto]) -> None:
        """Let go of the weights of these tensors; sessions that have them keep them."""
        for tensor in tensors:
            if self.takes(tensor):
                self._values.pop(self._place(model, tensor), None)

    def _place(self, model: Model, tensor: onnx.TensorProto) -> Hashable:
        """What identifies the bytes of a stored tensor; None where nothing does."""
        key = marker_key(tensor)
        assert key is not None, "only stored tensors are pooled"
        payload = model.weights[key]
        identity: Hashable = ("stored", key)
        if isinstance(payload, LazyPayload) and not self._one_store:
            if payload.identity is None:
                return None
            identity = payload.identity
        return (identity, tuple(tensor.dims), tensor.data_type)


class SharedSession:
    """A session whose stored weights come from a pool. Optimizations and prepacking are off.

    Args:
      model: a model, or a part of one, without stored tensors outside the main graph's initializers and node bodies.
      pool: of the model that the part is of.
      threads: threads inside an operator; 0 leaves the choice to onnxruntime.

    Raises:
      MissingExtraError: onnxruntime is not installed.
      ModelError: onnxruntime cannot load the model; the message has its reason.
    """

    def __init__(self, model: Model, pool: TensorPool, *, threads: int = 0) -> None:
        ort = require("onnxruntime", extra="cpu", purpose="running the model")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        # a rearranged copy of the weights would be made for every session, and change the last bits
        options.add_session_config_entry("session.disable_prepacking", "1")
        # many sessions take turns: what one keeps for itself, memory or a spinning thread, the next one lacks
        options.enable_mem_pattern = False
        _common_arena(ort)
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        proto = model.edit()
        proto.ir_version = min(proto.ir_version, MAX_IR_VERSION)
        # onnxruntime keeps no reference of its own to what it is handed
        self._held = []
        for tensor in proto.graph.initializer:
            if not TensorPool.takes(tensor):
                continue
            value = pool.of(model, tensor)
            del tensor.external_data[:]
            for name, text in (("location", _PLACE), ("offset", "0"), ("length", str(value.tensor_size_in_bytes()))):
                tensor.external_data.add(key=name, value=text)
            options.add_initializer(tensor.name, value)
            self._held.append(value)
        path = pool.folder / "part.onnx"
        path.write_bytes(model.with_proto(proto).to_bytes())
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if not is_onnxruntime_error(error):
                raise
            raise ModelError(f"onnxruntime cannot load a part of the model: {reason_of(error)}") from error
        self.input_names: tuple[str, ...] = tuple(item.name for item in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(item.name for item in self._session.get_outputs())
        self._output_types = {item.name: item.type for item in self._session.get_outputs()}

    def run_arrays(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run on arrays, and fetch every output as one; see `precision_planner.model.session.run_arrays`.

        Raises:
          ModelError: onnxruntime stopped; the message has its reason.
        """
        taken = {name: feeds[name] for name in self.input_names if name in feeds}
        try:
            return run_arrays(self._session, self.output_names, taken, self._output_types)
        except Exception as error:
            if not is_onnxruntime_error(error):
                raise
            raise ModelError(f"onnxruntime stopped while running the model: {reason_of(error)}") from error

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str] | None = None) -> dict[str, Value]:
        """Run on values, without a copy in or out.

        Args:
          feeds: input name -> value; names the session does not take are left out.
          outputs: which outputs to fetch; None takes all.

        Raises:
          ModelError: onnxruntime stopped; the message has its reason.
        """
        names = list(self.output_names if outputs is None else outputs)
        taken = {name: feeds[name] for name in self.input_names if name in feeds}
        try:
            return dict(zip(names, self._session.run_with_ort_values(names, taken), strict=True))
        except Exception as error:
            if not is_onnxruntime_error(error):
                raise
            raise ModelError(f"onnxruntime stopped while running the model: {reason_of(error)}") from error


@cache
def _common_arena(ort: Any) -> None:
    """Give all sessions of this kind one arena, once a process.

    An arena each would keep what the others lack; none at all would have the system clear the same pages again for
    every block, which takes as long as the arithmetic.
    """
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(info, ort.OrtArenaCfg(0, _AS_REQUESTED, -1, -1))
    except Exception as error:
        if not is_onnxruntime_error(error):
            raise  # else the process has registered one of its own, which serves as well


def as_value(array: Any) -> Value:
    """An array as onnxruntime's value; it shares the array's memory.

    Raises:
      ModelError: strings, which onnxruntime cannot be handed so.
    """
    ort = require("onnxruntime", extra="cpu", purpose="running the model")
    if np.asarray(array).dtype.kind in "OUS":
        raise ModelError(
            "an input of strings cannot be handed from block to block, so nothing can be searched; plan by "
            "--policy rules, or without a tolerance"
        )
    return ort.OrtValue.ortvalue_from_numpy(array)
