"""Shape inference whose cost does not grow with the tensors.

onnx.shape_inference with `data_prop` follows integers through shape arithmetic (Shape, Gather, Concat, ...), which is
wanted. But it looks at every operand of arithmetic, of Cast, Concat, Gather, Slice and the like, and where
that is of one axis of known length it makes a record for each element: ten additions of float[10^7] take 10 GB. So
inference runs without it first; where there is integer arithmetic it runs again, and sees long values and floats
through operators of the same shape rule that it does not follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import onnx
from onnx import GraphProto, NodeProto, TensorProto

from precision_planner.model.bodies import graphs_of

LONGEST_FOLLOWED = 4096
"""Elements of a value of one axis that may be part of shape arithmetic."""

_SAME_SHAPE = "Div"
"""Has the shapes and types of the other element-wise arithmetic, and is not followed."""

_OPAQUE = "precision-planner.not-followed"
_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.UNDEFINED})
_ERRORS = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError)


def infer(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model (sorted, stripped) with what shape inference finds as value_info; itself where inference stops.

    Operators in the result may be others than the model's: only types and shapes are to be read from it.
    """
    try:
        plain = onnx.shape_inference.infer_shapes(proto)
    except _ERRORS:
        # a model whose own annotations contradict each other: what it says itself is all there is
        return proto
    known = _Known(plain)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if not any(_is_followed(node, opset) and known.integer(node) for node in known.nodes()):
        return plain
    followed = onnx.ModelProto()
    followed.CopyFrom(proto)
    for imports in (followed.opset_import, *(function.opset_import for function in followed.functions)):
        imports.add(domain=_OPAQUE, version=1)
    for graph, found in zip(graphs_of(followed), graphs_of(plain), strict=True):
        for node in graph.node:
            if not _is_followed(node, opset):
                continue
            long = any(known.longest(name) > LONGEST_FOLLOWED for name in (*node.input, *node.output))
            if _is_arithmetic(node.op_type, opset) and (long or not known.integer(node)):
                node.op_type = _SAME_SHAPE
            elif long:
                node.domain = _OPAQUE
                made = set(node.output) - {info.name for info in graph.value_info}
                graph.value_info.extend(info for info in found.value_info if info.name in made)
    try:
        return onnx.shape_inference.infer_shapes(followed, data_prop=True)
    except _ERRORS:
        return plain


def contradiction(proto: onnx.ModelProto) -> str:
    """What strict inference of types and shapes has against a (stripped) model, in one line; '' if nothing."""
    try:
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except _ERRORS as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _is_followed(node: NodeProto, opset: int) -> bool:
    """Whether data propagation looks at the values of a node's operands."""
    return bool(node.input) and node.domain in ("", "ai.onnx") and _has_propagation(node.op_type, opset)


@cache
def _has_propagation(op_type: str, opset: int) -> bool:
    schema = _schema(op_type, opset)
    # Shape and Size look at shapes alone
    return schema is not None and schema.has_data_propagation_function and op_type not in ("Shape", "Size")


@cache
def _is_arithmetic(op_type: str, opset: int) -> bool:
    """Whether an operator has the signature of `_SAME_SHAPE`, and so its rule."""
    schema, same = _schema(op_type, opset), _schema(_SAME_SHAPE, opset)
    if schema is None or same is None:
        return False
    return [item.name for item in schema.inputs] == [item.name for item in same.inputs] and set(
        schema.attributes
    ) == set(same.attributes)


def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


class _Known:
    """Element types and sizes by name, of every graph; names are as good as unique, and nothing is decided by them."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto = proto
        self._types: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        for graph in graphs_of(proto):
            if isinstance(graph, GraphProto):
                for tensor in graph.initializer:
                    self._add(tensor.name, tensor.data_type, {len(tensor.dims): list(tensor.dims)})
                infos = (*graph.input, *graph.output, *graph.value_info)
            else:
                infos = (*graph.value_info,)
            for info in infos:
                tensor_type = info.type.tensor_type
                dims = [int(dim.dim_value) for dim in tensor_type.shape.dim]
                self._add(info.name, tensor_type.elem_type, {len(dims): dims})

    def _add(self, name: str, elem_type: int, dims: Mapping[int, list[int]]) -> None:
        if elem_type not in _INTEGERS:
            self._types[name] = elem_type
        if 1 in dims:
            self._sizes[name] = max(self._sizes.get(name, 0), dims[1][0])

    def nodes(self) -> Iterator[NodeProto]:
        return _nodes(self._proto)

    def integer(self, node: NodeProto) -> bool:
        """Whether a node's result may be part of shape arithmetic: integers, or nobody knows."""
        return all(name not in self._types for name in node.output)

    def longest(self, name: str) -> int:
        """The length of a value of one axis, 0 where there is another number of axes or nothing is known."""
        return self._sizes.get(name, 0)


def _nodes(proto: onnx.ModelProto) -> Iterator[NodeProto]:
    for graph in graphs_of(proto):
        yield from graph.node
