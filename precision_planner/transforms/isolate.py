"""Judging a fusion inside a body or a local function, where its values cannot be fetched from a run.

The matched nodes become a model of their own, which is fused again and run before and after on made-up values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from precision_planner.errors import MissingExtraError
from precision_planner.model import GraphIndex, Model, Scope, TypeTable, ValueType, infer_types, numpy_dtype
from precision_planner.patterns import Match, find_patterns
from precision_planner.patterns.functions import with_function_types
from precision_planner.transforms.fuse import fuse
from precision_planner.transforms.verify import judge

_FREE_SIZE = 3
"""What an axis of unknown size gets."""


def judge_isolated(model: Model, fused: Sequence[Match]) -> dict[int, str]:
    """Index of a fused match outside the main graph -> why it has to be rolled back.

    Args:
      model: the model in which the matches were found.
      fused: the matches; those of the main graph are passed over.
    """
    inner = [(at, match) for at, match in enumerate(fused) if match.scope]
    if not inner:
        return {}
    index = GraphIndex(model.proto)
    types = with_function_types(model, index, infer_types(model, index))
    worse: dict[int, str] = {}
    for at, match in inner:
        scope = index.by_path[match.scope]
        alone = isolate(model, index, types, scope, match)
        matches = [m for m in find_patterns(alone, kinds=[match.kind]) if m.fusable or m.rewrite is not None]
        result = fuse(alone, matches, kinds=[match.kind], channels_first=True, opset=model.opset)
        if not result.fused:
            continue
        try:
            judgement = judge(alone, result.model, result.fused, _feeds(alone))
        except MissingExtraError:
            return {}
        if judgement.worse:
            worse[at] = judgement.reason
    return worse


def isolate(model: Model, index: GraphIndex, types: TypeTable, scope: Scope, match: Match) -> Model:
    """The matched nodes as a model: constants come along, everything else they read is an input."""
    positions = sorted(found[1] for found in (index.find(node) for node in match.nodes) if found is not None)
    nodes = [scope.nodes[position] for position in positions]
    made = {name for node in nodes for name in node.output}
    proto = onnx.ModelProto(ir_version=model.proto.ir_version)
    versions = {entry.domain: entry.version for entry in getattr(_top(scope).container, "opset_import", ())}
    proto.opset_import.append(helper.make_opsetid("", versions.get("", model.opset)))
    proto.graph.name = "isolated"
    constants: list[NodeProto] = []
    seen: set[str] = set()
    work = [name for node in nodes for name in node.input if name and name not in made]
    for name in work:
        if name in seen:
            continue
        seen.add(name)
        holder = index.resolve(scope, name)
        node = None if holder is None else holder.producer_node(name)
        if holder is not None and name in holder.initializers and not holder.is_overridable(name):
            proto.graph.initializer.add().CopyFrom(holder.initializers[name])
        elif node is not None and node.op_type == "Constant":
            constants.append(node)
        else:
            proto.graph.input.append(_input(name, types.of(scope, name), match))
    proto.graph.node.extend([*constants, *nodes])
    proto.graph.output.append(ValueInfoProto(name=match.output))
    elem = types.of(scope, match.output).elem_type or TensorProto.FLOAT
    proto.graph.output[0].type.tensor_type.elem_type = elem
    return model.with_proto(proto)


def _top(scope: Scope) -> Scope:
    while scope.parent is not None:
        scope = scope.parent
    return scope


def _input(name: str, kind: ValueType, match: Match) -> ValueInfoProto:
    rewrite = match.rewrite
    shape: list[int] = []
    sizes = [] if rewrite is None else [size or _FREE_SIZE for size in rewrite.dims]
    if kind.shape is None:
        rank = (rewrite.rank if rewrite is not None else None) or 2 + len(sizes)
        shape = [_FREE_SIZE - 1] * rank
    else:
        shape = [dim if isinstance(dim, int) and dim > 0 else _FREE_SIZE for dim in kind.shape]
    if rewrite is not None and name == rewrite.x:
        for axis, size in zip(rewrite.axes, sizes, strict=True):
            shape[axis] = size
    return helper.make_tensor_value_info(name, kind.elem_type or TensorProto.FLOAT, shape)


def _feeds(model: Model) -> dict[str, np.ndarray]:
    """Normal values of mean 0.5, which a normalization without its mean would get wrong."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.proto.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = rng.normal(0.5, 1.5, shape)
        feeds[value.name] = array.astype(numpy_dtype(value.type.tensor_type.elem_type))
    return feeds
