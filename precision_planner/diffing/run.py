"""Runs one side of a comparison: by onnxruntime, by honest simulation, from saved outputs, by TensorRT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np

from precision_planner._extras import require
from precision_planner.diffing.sources import Side
from precision_planner.errors import ConversionError, InputsError
from precision_planner.model import Model
from precision_planner.model.inputs import cast_batch, input_specs
from precision_planner.model.session import Session
from precision_planner.simulation import Simulation, is_typed_low, prepare
from precision_planner.simulation.accumulation import Accumulation
from precision_planner.simulation.simulate import Semantics, WeightPolicy, prove_rounding
from precision_planner.simulation.tf32 import Tf32
from precision_planner.targets.lowering import Lowering

Provider = Literal["cpu", "cuda", "tensorrt"]

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
}


class Runner:
    """Gives a side's outputs batch by batch; a context manager.

    Attributes:
      simulation: how the side is simulated, None where it is run as it is.
      precision: the 16-bit type it computes in, "fp32" where it has none.
      description: how it is run.
    """

    def __init__(self, side: Side, *, provider: Provider = "cpu") -> None:
        self.side = side
        self.simulation: Simulation | None = None
        self.precision = "fp32"
        self.description = ""
        self._provider = provider
        self._stack = ExitStack()
        self._session: Session | None = None
        self._model: Model | None = None
        self._saved: Iterator[dict[str, np.ndarray]] | None = None
        self._engine: Any = None

    def open(
        self,
        *,
        simulate: str | None = None,
        semantics: Semantics = "typed",
        weights: WeightPolicy | None = None,
        keep_fp32: tuple[Any, ...] = (),
        keep_bf16: tuple[Any, ...] = (),
        keep_sum32: tuple[Any, ...] = (),
        tf32: Tf32 = False,
        accumulation: Accumulation = "fp32",
        lowering: tuple[Lowering, ...] = (),
    ) -> Runner:
        """Decide how to run, and load.

        Args:
          simulate: "fp16", "bf16", "none", or None to follow the model's own types: a typed graph is simulated, an
            FP32 one run as it is.
          semantics: see `precision_planner.simulation.prepare`, as for the next two.
          weights: how constants are rounded.
          keep_fp32: what stays FP32.
          keep_bf16: what is BF16 instead of FP16.
          keep_sum32: products that add up in FP32 whatever `accumulation` says.
          tf32: products that stay FP32 are simulated in TF32, "nearest" (True) or "truncated".
          accumulation: of products that are simulated in FP16, "fp32" or "fp16".
          lowering: what the target's parser writes operators out as.
        """
        if self.side.outputs is not None:
            self._saved = self.side.outputs()
            self.description = "saved outputs"
        elif self.side.engine is not None or self._provider == "tensorrt":
            self._open_tensorrt()
        else:
            self._open_model(
                simulate, semantics, weights, keep_fp32, keep_bf16, keep_sum32, tf32, accumulation, lowering
            )
        return self

    def run(self, batch: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """The outputs of one batch; saved ones are read in order."""
        if self._saved is not None:
            try:
                return next(self._saved)
            except StopIteration:
                raise InputsError(
                    f"{self.side.label} holds fewer batches than the other side; save the outputs of every batch"
                ) from None
        assert batch is not None
        if self._engine is not None:
            return dict(self._engine.infer(dict(batch)))
        if self._session is None:
            self._session = Session(self.model, providers=PROVIDERS[self._provider])
        return self._session.run(self.feeds(batch))

    def check_all_read(self) -> None:
        """Refuse saved batches that the other side had no partner for: they would go unjudged."""
        if self._saved is not None and next(self._saved, None) is not None:
            raise InputsError(
                f"{self.side.label} holds more batches than the other side; give both the same batches, in one order"
            )

    @property
    def model(self) -> Model:
        """What is really run: the simulation's model, or the side's own."""
        assert self._model is not None, "only models are run by onnxruntime"
        return self._model

    @property
    def shows_values(self) -> bool:
        """Whether the values inside can be fetched: a model on a CPU."""
        return self._model is not None and self._provider == "cpu"

    def release(self) -> None:
        """Let go of the session; it is loaded again when it is needed."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def feeds(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch in the types that the side's model takes."""
        if self.simulation is not None:
            return self.simulation.feeds(batch)
        assert self.side.model is not None
        return cast_batch(batch, input_specs(self.side.model))

    def close(self) -> None:
        """Let go of sessions and engines."""
        self.release()
        self._stack.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_model(
        self,
        simulate: str | None,
        semantics: Semantics,
        weights: WeightPolicy | None,
        keep_fp32: tuple[Any, ...],
        keep_bf16: tuple[Any, ...],
        keep_sum32: tuple[Any, ...],
        tf32: Tf32,
        accumulation: Accumulation,
        lowering: tuple[Lowering, ...],
    ) -> None:
        model = self.side.model
        assert model is not None
        typed = is_typed_low(model)
        if simulate not in (None, "fp16", "bf16", "tf32", "none"):
            raise ConversionError(f"simulate {simulate!r} is unknown; use fp16, bf16, tf32 or none")
        on_cpu = self._provider == "cpu"
        if simulate == "tf32":
            if typed:
                raise ConversionError("TF32 is how FP32 products are computed, and this model is typed already")
            simulate, tf32, on_cpu = None, tf32 or "nearest", True
        if tf32 and not typed and simulate is None and on_cpu:
            simulate, keep_fp32 = "fp16", ("*",)  # nothing is low, and the products are TF32's all the same
        if simulate in ("fp16", "bf16") or (typed and simulate is None and on_cpu):
            self.simulation = prepare(
                model,
                precision=simulate if not typed else None,
                keep_fp32=keep_fp32,
                keep_bf16=keep_bf16,
                sums32=keep_sum32,
                semantics=semantics,
                weights=weights,
                tf32=tf32,
                accumulation=accumulation,
                lowering=lowering,
            )
            prove_rounding()
            kinds = set(self.simulation.rounded.values())
            self.precision = "bf16" if 16 in kinds and 10 not in kinds else "fp16"
            self.description = f"simulated: {self.simulation.description}"
            model = self.simulation.model
        else:
            self.precision = "fp16" if typed else "fp32"
            self.description = f"onnxruntime {self._provider}, optimizations off"
            if typed and on_cpu:
                self.description += " (which computes 16-bit graphs in FP32: not an FP16 result)"
        self._model = model

    def _open_tensorrt(self) -> None:
        trt = require("polygraphy.backend.trt", extra="tensorrt", purpose="running TensorRT engines")
        require("tensorrt", extra="tensorrt", purpose="running TensorRT engines")
        if self.side.engine is not None:
            loader = trt.EngineFromBytes(self.side.engine.read_bytes())
        else:
            assert self.side.model is not None
            if self.side.model.path is None:
                raise InputsError("a model in memory cannot be built by TensorRT here; save it and give its path")
            network = trt.NetworkFromOnnxPath(str(self.side.model.path), strongly_typed=is_typed_low(self.side.model))
            loader = trt.EngineFromNetwork(network, trt.CreateConfig())
        self._engine = self._stack.enter_context(trt.TrtRunner(loader))
        self.precision = "fp16"
        self.description = "TensorRT through Polygraphy"
