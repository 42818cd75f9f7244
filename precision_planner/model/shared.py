"""Many small onnxruntime sessions over one set of weights: nothing is written to disk, copied or converted twice.

A session of its own for every part of a model, and for every variant of a part, would each time serialize the weights
that it reads. Here they are handed over as `OrtValue`s that all sessions of a `TensorPool` share, and values pass from
one session to the next without a copy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import onnx

from precision_planner._extras import require
from precision_planner.errors import ModelError
from precision_planner.model.model import MAX_IR_VERSION, Model
from precision_planner.model.payloads import LazyPayload
from precision_planner.model.session import is_onnxruntime_error, reason_of
from precision_planner.model.tensors import marker_key

__all__ = ["SharedSession", "TensorPool", "Value", "as_value"]

Value: TypeAlias = Any
"""onnxruntime's OrtValue, which ships no types."""

_PLACE = "shared"
"""An empty file: onnxruntime wants a weight's file to exist, and does not open it where it is handed the values."""


class TensorPool:
    """The weights of a model and of everything derived from it, each held once, as onnxruntime's values.

    Weights that lie in a mapped file stay there; only computed ones (rounded weights) take memory. Two stored tensors
    are the same where the weight stores of their models share the key, so a pool is for one model and its parts.
    """

    def __init__(self) -> None:
        self._ort = require("onnxruntime", extra="cpu", purpose="running the model")
        self._values: dict[Hashable, Value] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="precision-planner-")
        (Path(self._folder.name) / _PLACE).touch()

    @property
    def folder(self) -> Path:
        """Where sessions put the structure of their models for onnxruntime to load."""
        return Path(self._folder.name)

    def close(self) -> None:
        """Let go of the weights and remove the folder."""
        self._values.clear()
        self._folder.cleanup()

    def __len__(self) -> int:
        """How many weights are held."""
        return len(self._values)

    def of(self, model: Model, tensor: onnx.TensorProto) -> Value:
        """The value of a stored tensor."""
        key = marker_key(tensor)
        assert key is not None, "only stored tensors are pooled"
        payload = model.weights[key]
        identity: Hashable = ("stored", key)
        if isinstance(payload, LazyPayload):
            if payload.identity is None:  # nobody says whose bytes these are
                return self._ort.OrtValue.ortvalue_from_numpy(model.array(tensor))
            identity = payload.identity
        place = (identity, tuple(tensor.dims), tensor.data_type)
        if place not in self._values:
            self._values[place] = self._ort.OrtValue.ortvalue_from_numpy(model.array(tensor))
        return self._values[place]


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
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        proto = model.edit()
        proto.ir_version = min(proto.ir_version, MAX_IR_VERSION)
        # onnxruntime keeps no reference of its own to what it is handed
        self._held = []
        for tensor in proto.graph.initializer:
            if marker_key(tensor) is None:
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


def as_value(array: Any) -> Value:
    """An array as onnxruntime's value; it shares the array's memory."""
    ort = require("onnxruntime", extra="cpu", purpose="running the model")
    return ort.OrtValue.ortvalue_from_numpy(array)
