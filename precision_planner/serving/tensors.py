"""What goes over the wire: a model's inputs and outputs as Triton names their types and counts their axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from precision_planner.errors import PlanError

Dim: TypeAlias = "int | str | None"

WIRE_TYPES: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "bfloat16": "BF16",
    "string": "BYTES",
}
"""ONNX's name of an element type -> the inference protocol's.

Source: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

ONNX_TYPES: Mapping[str, str] = {wire: name for name, wire in WIRE_TYPES.items()}
HALF = frozenset({"FP16", "BF16"})


@dataclass(frozen=True, slots=True)
class ServedTensor:
    """One input or output.

    Attributes:
      name: its name.
      wire: its type in the protocol: 'FP16', 'INT32', ...
      shape: one size, symbolic name or None per axis, the batch included.
    """

    name: str
    wire: str
    shape: tuple[Dim, ...]

    @property
    def config_type(self) -> str:
        """Its type in config.pbtxt."""
        return "TYPE_STRING" if self.wire == "BYTES" else f"TYPE_{self.wire}"

    def dims(self, batched: bool) -> tuple[int, ...]:
        """What config.pbtxt calls dims: without the batch, free axes as -1."""
        return tuple(size if isinstance(size, int) else -1 for size in self.shape[1 if batched else 0 :])

    def __str__(self) -> str:
        return f"{self.name}: {self.wire}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True, slots=True)
class Interface:
    """What a served model takes and gives, in the order of the model."""

    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]

    @property
    def tensors(self) -> tuple[ServedTensor, ...]:
        """Inputs, then outputs."""
        return (*self.inputs, *self.outputs)

    def with_int32(self) -> Interface:
        """INT64 as INT32: what an engine of TensorRT before version 10 takes and gives."""
        return self._retyped({"INT64": "INT32"})

    def with_fp32(self) -> Interface:
        """16-bit types as FP32: the interface of the same model built in FP32."""
        return self._retyped({"FP16": "FP32", "BF16": "FP32"})

    def _retyped(self, new: Mapping[str, str]) -> Interface:
        def change(tensors: tuple[ServedTensor, ...]) -> tuple[ServedTensor, ...]:
            return tuple(replace(tensor, wire=new.get(tensor.wire, tensor.wire)) for tensor in tensors)

        return Interface(change(self.inputs), change(self.outputs))


def read_interface(data: Mapping[str, Any], source: str) -> Interface:
    """The interface of a plan or a model, from `{inputs, outputs}`: name -> {dtype, shape} as a plan has it.

    Raises:
      PlanError: a type that the protocol has not, or a tensor whose rank is not known.
    """

    def tensors(kind: str) -> tuple[ServedTensor, ...]:
        found = []
        for name, facts in data[kind].items():
            wire, shape = WIRE_TYPES.get(facts["dtype"]), facts["shape"]
            if wire is None:
                raise PlanError(f"{source}: {kind[:-1]} '{name}' is {facts['dtype']}, which Triton has no type for")
            if shape is None:
                raise PlanError(
                    f"{source}: the rank of {kind[:-1]} '{name}' is not known, and config.pbtxt must say it; export "
                    "the model with that shape"
                )
            found.append(ServedTensor(name, wire, tuple(shape)))
        return tuple(found)

    return Interface(tensors("inputs"), tensors("outputs"))
