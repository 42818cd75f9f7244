"""The model: graph, weights on demand, who makes and who reads each value, types and shapes."""

from precision_planner.model.index import (
    GraphIndex,
    NodeId,
    Scope,
    Use,
    constant_value,
    display_name,
    first_output,
)
from precision_planner.model.model import Model
from precision_planner.model.order import sort_graph, sorted_copy, topological_order
from precision_planner.model.payloads import (
    BytesPayload,
    FileSlice,
    LazyPayload,
    Payload,
    WeightStore,
    WeightStoreBuilder,
    array_payload,
)
from precision_planner.model.tensors import (
    FLOAT_TYPES,
    TensorSite,
    dense_nbytes,
    iter_tensors,
    marker_key,
    numpy_dtype,
    set_payload,
    stored_tensor,
    type_name,
)
from precision_planner.model.types import TypeTable, ValueType, infer_types

__all__ = [
    "FLOAT_TYPES",
    "BytesPayload",
    "FileSlice",
    "GraphIndex",
    "LazyPayload",
    "Model",
    "NodeId",
    "Payload",
    "Scope",
    "TensorSite",
    "TypeTable",
    "Use",
    "ValueType",
    "WeightStore",
    "WeightStoreBuilder",
    "array_payload",
    "constant_value",
    "dense_nbytes",
    "display_name",
    "first_output",
    "infer_types",
    "iter_tensors",
    "marker_key",
    "numpy_dtype",
    "set_payload",
    "sort_graph",
    "sorted_copy",
    "stored_tensor",
    "topological_order",
    "type_name",
]
