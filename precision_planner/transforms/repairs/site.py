"""Where a repair is asked for, and what it may ask there.

A repair never changes a graph: it returns an `Edit`. Edits that touch the same nodes are applied in turns, each turn
planned anew on what the one before it left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import GraphIndex, Model, NodeId, Scope, TypeTable
from precision_planner.model.flow import Flow
from precision_planner.model.names import FreshNames

if TYPE_CHECKING:
    from precision_planner.patterns import Match

__all__ = ["Site", "constant"]


@dataclass(frozen=True)
class Site:
    """Where a repair is asked for.

    Attributes:
      model: the FP32 model.
      index: of `model.proto`.
      types: as inferred.
      scope: the graph that holds the nodes or the tensor.
      nodes: the nodes of the action.
      value: the tensor, for repairs of a constant; "" otherwise.
      parameters: of the repair.
      match: the pattern, for repairs of one.
      amax: (scope path, value) -> the largest magnitude measured in FP32; empty where nothing was measured.
      memo: what repairs remember about the same model from one place to the next.
    """

    model: Model
    index: GraphIndex
    types: TypeTable
    scope: Scope
    nodes: tuple[NodeId, ...] = ()
    value: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    match: Match | None = None
    amax: Mapping[tuple[tuple[str, ...], str], float] = field(default_factory=dict)
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def flow(self) -> Flow:
        """The walks along the model's values, made once for all sites of a model."""
        found: Flow = self.memo.setdefault("flow", None) or Flow(self.index)
        self.memo["flow"] = found
        return found

    def place(self, node: NodeId) -> tuple[Scope, int] | None:
        """Scope and position of a node."""
        return self.index.find(node)

    def fresh(self, wish: str) -> str:
        """A name that nothing has in any graph, body or function, and that no other repair of this turn was given."""
        names: FreshNames = self.memo.get("names") or FreshNames.of(self.model.proto)
        self.memo["names"] = names
        return names.fresh(wish)

    def array(self, value: str, max_elements: int | None = None) -> np.ndarray[Any, Any] | None:
        """A constant's values; None for anything else."""
        return self.index.constant(self.scope, value, self.model, max_elements)

    def constant_of(self, scope: Scope, value: str) -> np.ndarray[Any, Any] | None:
        """The same, of a constant that another graph of the model may hold."""
        return self.index.constant(scope, value, self.model)

    def number(self, value: str) -> float | None:
        """The value of a constant of one element; None for anything else."""
        array = self.array(value, 1) if value else None
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def elem_type(self, value: str) -> int:
        """Element type of a value; FLOAT where inference gave none."""
        return self.types.of(self.scope, value).elem_type or TensorProto.FLOAT


def constant(name: str, value: Any, elem_type: int, dims: tuple[int, ...] = ()) -> TensorProto:
    """A small constant of a float type.

    Args:
      name: of the value.
      value: a number or array.
      elem_type: TensorProto.DataType.
      dims: its shape; () is a scalar.
    """
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    return numpy_helper.from_array(np.asarray(value, np.float64).astype(dtype).reshape(dims), name)
