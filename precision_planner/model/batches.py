"""What a model takes, and batches of it, as values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from precision_planner.errors import InputsError
from precision_planner.model.model import Model
from precision_planner.model.tensors import numpy_dtype, type_name
from precision_planner.model.types import Dim, from_type_proto

Batch = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model.

    Attributes:
      name: its name.
      elem_type: TensorProto.DataType.
      shape: a size, a symbolic name or None per axis; None where the rank is not known.
    """

    name: str
    elem_type: int
    shape: tuple[Dim, ...] | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy (or ml_dtypes) type of its arrays."""
        return numpy_dtype(self.elem_type)

    @property
    def is_dynamic(self) -> bool:
        """Whether any axis is free."""
        return self.shape is None or any(not isinstance(dim, int) for dim in self.shape)

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {type_name(self.elem_type)}[{dims}]"


@dataclass(frozen=True)
class Inputs:
    """Batches of inputs, read one at a time and as often as needed.

    Attributes:
      source: where they come from, for people: a path, "arrays", or how they were synthesised.
      synthesised: whether the planner made them up; decisions that rest on them say so.
      labels: a name for each batch where they are known beforehand (files, shapes).
    """

    open: Callable[[], Iterator[Batch]] = field(repr=False)
    source: str
    synthesised: bool = False
    labels: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Batch]:
        return self.open()

    def first(self) -> Batch:
        """The first batch; InputsError if there is none."""
        for batch in self:
            return batch
        raise InputsError(f"{self.source} gave no batch; give at least one")


@dataclass(frozen=True)
class InputRequest:
    """Where inputs come from, or how they are made up.

    Attributes:
      source: as `load_inputs` takes it; None: they are made up.
      batch_size: rows of each batch that larger ones are split into.
      shapes: of made-up inputs: the label of a batch ('smallest', 'usual', 'longest'; '' for all) -> input -> shape.
      seed: other values of the same kind.
      ranges: input ('' for every float input) -> (lowest, highest) made-up value.
    """

    source: Any = None
    batch_size: int | None = None
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    seed: int = 0
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def input_specs(model: Model) -> tuple[InputSpec, ...]:
    """The inputs that a caller must give: those without an initializer behind them.

    Raises:
      InputsError: an input is a sequence, an optional or a map.
    """
    graph = model.proto.graph
    given = {tensor.name for tensor in graph.initializer}
    given.update(sparse.values.name for sparse in graph.sparse_initializer)
    specs = []
    for value in graph.input:
        if value.name in given:
            continue
        found = from_type_proto(value.type)
        if found.container != "tensor":
            raise InputsError(f"input '{value.name}' is a {found.container}; only tensors can be given as inputs")
        # an input without elements is none, but for a cache that is empty yet: a size of 0 is how some exporters write
        # a free axis
        shape = found.shape
        if shape is not None and not re.search(r"past|cache", value.name.lower()):
            shape = tuple(None if dim == 0 else dim for dim in shape)
        specs.append(InputSpec(value.name, found.elem_type, shape))
    return tuple(specs)
