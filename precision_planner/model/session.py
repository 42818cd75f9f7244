"""Running a `Model` in onnxruntime: FP32 as it is written, nothing fused, weights mapped rather than copied.

Large models go through a temporary folder with external data, which onnxruntime maps; small ones through memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from precision_planner._extras import install_line, require
from precision_planner.errors import ModelError
from precision_planner.model.model import Model
from precision_planner.writing import Scratch

IN_MEMORY_BYTES = 16 << 20
"""Models up to this size are handed to onnxruntime as bytes; larger ones as files with external data."""

Providers = Sequence[str]

NUMBERS = frozenset(
    f"tensor({name})"
    for name in (
        *("float", "float16", "double", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
)
"""Types of values that numpy and onnxruntime have in common."""


class Session:
    """An onnxruntime session over a `Model`; a context manager, which removes its temporary files.

    Args:
      model: what to run. Its IR version is lowered where onnxruntime does not know it.
      outputs: values of the main graph to fetch; None takes the model's outputs. Any value may be named.
      optimize: let onnxruntime optimize; off by default, as its fusions change the numbers (and the graph).
      providers: execution providers; CPU by default.
      threads: threads inside an operator; 0 leaves the choice to onnxruntime.
      prepack: let onnxruntime rearrange weights for its kernels: faster with large weights, at the price of a copy of
        them, and of results that depend on how the graph is cut.
      lean: give memory back after each run rather than keep it for the next.

    Raises:
      MissingExtraError: onnxruntime is not installed.
      ModelError: onnxruntime cannot load the model; the message has its reason.
    """

    def __init__(
        self,
        model: Model,
        outputs: Sequence[str] | None = None,
        *,
        optimize: bool = False,
        providers: Providers = ("CPUExecutionProvider",),
        threads: int = 0,
        prepack: bool = False,
        lean: bool = False,
    ) -> None:
        self._ort = require("onnxruntime", extra="cpu", purpose="running the model")
        missing = [name for name in providers if name not in self._ort.get_available_providers()]
        if missing:
            raise ModelError(
                f"onnxruntime here has no {missing[0]} (it has {', '.join(self._ort.get_available_providers())}); "
                f"install the extra that brings it, in the checkout: {install_line('gpu')}"
            )
        self._folder: Scratch | None = None
        options = self._ort.SessionOptions()
        levels = self._ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if lean:
            options.enable_cpu_mem_arena = False
            options.enable_mem_pattern = False
            # many sessions take turns: one whose threads still spin would take a core from the next
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if outputs is not None:
            model = with_outputs(model, outputs)
        try:
            self._session = self._open(model, options, list(providers))
        except BaseException:
            self.close()
            raise
        self.input_names: tuple[str, ...] = tuple(item.name for item in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(item.name for item in self._session.get_outputs())
        self.output_types: dict[str, str] = {item.name: item.type for item in self._session.get_outputs()}

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run one batch.

        Args:
          feeds: input name -> array; names the session does not take are left out.
          outputs: which outputs to fetch; None takes all.

        Returns:
          Output name -> array (a list for a sequence, None for an empty optional).

        Raises:
          ModelError: onnxruntime stopped; the message has its reason.
        """
        names = list(self.output_names if outputs is None else outputs)
        taken = {name: feeds[name] for name in self.input_names if name in feeds}
        try:
            return run_arrays(self._session, names, taken, self.output_types)
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            if not is_onnxruntime_error(error):
                raise
            raise ModelError(f"onnxruntime stopped while running the model: {reason_of(error)}") from error

    def close(self) -> None:
        """Let go of the session and remove the temporary files."""
        self._session = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, model: Model, options: Any, providers: list[str]) -> Any:
        for _ in range(2):
            try:
                return self._ort.InferenceSession(self._source(model), options, providers=providers)
            except Exception as error:
                if not is_onnxruntime_error(error):
                    raise
                newest = re.search(r"max supported IR version: (\d+)", str(error))
                if newest is None:
                    name = model.path or "the model"
                    raise ModelError(f"onnxruntime cannot load {name}: {reason_of(error)}") from error
                proto = model.edit()
                proto.ir_version = int(newest.group(1))
                model = model.with_proto(proto)
        raise AssertionError("the IR version was lowered and is still too new")

    def _source(self, model: Model) -> bytes | str:
        if model.stored_bytes <= IN_MEMORY_BYTES:
            return model.to_bytes()
        if self._folder is not None:
            self._folder.close()
        self._folder = Scratch()
        path = self._folder.path / "model.onnx"
        model.save(path, external=True)
        return str(path)


def run_arrays(
    session: Any, names: Sequence[str], feeds: Mapping[str, Any], output_types: Mapping[str, str]
) -> dict[str, Any]:
    """Run onnxruntime's session on arrays; numbers go in and out without a copy.

    `InferenceSession.run` copies every output into fresh memory, whose pages can cost more than the node that made it.
    An output that is an input, or a view of one, lies in the caller's memory, which nobody keeps for it: it is copied.

    Args:
      session: onnxruntime's.
      names: outputs to fetch.
      feeds: input name -> array, or whatever else onnxruntime takes.
      output_types: of the outputs, as onnxruntime writes them.
    """
    from onnxruntime import OrtValue

    arrays = {name: np.asarray(value, order="C") for name, value in feeds.items() if not isinstance(value, list)}
    numbers = len(arrays) == len(feeds) and all(array.dtype.kind in "fiub" for array in arrays.values())
    if not numbers or any(output_types.get(name) not in NUMBERS for name in names):
        return dict(zip(names, session.run(list(names), dict(feeds)), strict=True))
    values = {name: OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    made = session.run_with_ort_values(list(names), values)
    found = {name: value.numpy() for name, value in zip(names, made, strict=True)}
    given = list(arrays.values())
    return {
        name: array.copy() if any(np.may_share_memory(array, other) for other in given) else array
        for name, array in found.items()
    }


def with_outputs(model: Model, outputs: Sequence[str]) -> Model:
    """The model with these values of the main graph as its outputs; onnxruntime finds their types itself."""
    known = {value.name: value for value in model.proto.graph.output}
    proto = model.edit()
    del proto.graph.output[:]
    for name in dict.fromkeys(outputs):
        proto.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
    return model.with_proto(proto)


def is_onnxruntime_error(error: Exception) -> bool:
    """Whether an exception is onnxruntime's; they share no base class of their own."""
    return type(error).__module__.partition(".")[0] == "onnxruntime" or isinstance(error, (RuntimeError, ValueError))


def reason_of(error: Exception) -> str:
    """What onnxruntime says is wrong, in one line."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"^Load model from \S+ failed:\s*", "", text)  # a temporary file's, or the one that is named anyway
    return text[:300]
