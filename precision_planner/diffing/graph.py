"""What a rewrite did to the graph: nodes added, removed, retyped; initializers, bytes, Casts, opset, interface."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from precision_planner.model import FLOAT_TYPES, GraphIndex, Model, dense_nbytes, display_name, type_name
from precision_planner.model.types import from_type_proto


def graph_diff(reference: Model, candidate: Model, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Compare two graphs by their nodes' names and results.

    Args:
      reference: the graph before.
      candidate: the graph after.
      names: old node name -> new: such nodes were fused or renamed, not removed.

    Returns:
      JSON-ready: `added` and `removed` (op type -> nodes), `fused` (new node -> the old ones), `retyped` (value ->
      [before, after] element types where both declare one), `initializers` (element type -> tensors and bytes),
      `casts`, `nodes`, `opset`, `bytes`, `interface` (each of before and after).
    """
    names = names or {}
    before, after = _nodes(reference), _nodes(candidate)
    fused: dict[str, list[str]] = {}
    for old, new in names.items():
        if old != new:
            fused.setdefault(new, []).append(old)
    renamed_away = {old for olds in fused.values() for old in olds}
    removed = {key: op for key, op in before.items() if key not in after and key not in renamed_away}
    added = {key: op for key, op in after.items() if key not in before and key not in fused}
    return {
        "nodes": [len(before), len(after)],
        "added": _by_op(added),
        "removed": _by_op(removed),
        "fused": fused,
        "retyped": _retyped(reference, candidate),
        "casts": [_count(reference, "Cast"), _count(candidate, "Cast")],
        "initializers": [_initializers(reference), _initializers(candidate)],
        "opset": [reference.opset, candidate.opset],
        "bytes": [reference.weight_bytes, candidate.weight_bytes],
        "interface": [_interface(reference), _interface(candidate)],
    }


def _nodes(model: Model) -> dict[str, str]:
    found: dict[str, str] = {}
    for scope, _, node in GraphIndex(model.proto).nodes():
        found["/".join((*scope.path, display_name(node)))] = node.op_type
    return found


def _by_op(nodes: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, op in nodes.items():
        grouped.setdefault(op, []).append(name)
    return dict(sorted(grouped.items()))


def _count(model: Model, op_type: str) -> int:
    return sum(node.op_type == op_type for _, _, node in GraphIndex(model.proto).nodes())


def _initializers(model: Model) -> dict[str, dict[str, int]]:
    tensors: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for scope in GraphIndex(model.proto).scopes:
        for tensor in scope.initializers.values():
            if tensor.data_type == 8:  # strings have no dense size
                continue
            name = type_name(tensor.data_type)
            tensors[name] += 1
            size[name] += dense_nbytes(tensor.data_type, tensor.dims)
    return {name: {"tensors": tensors[name], "bytes": size[name]} for name in sorted(tensors)}


def _interface(model: Model) -> dict[str, str]:
    graph = model.proto.graph
    found = {}
    for way, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            kind = from_type_proto(value.type)
            dims = "?" if kind.shape is None else ", ".join("?" if dim is None else str(dim) for dim in kind.shape)
            name = type_name(kind.elem_type) if kind.elem_type else kind.container
            found[f"{way} {value.name}"] = f"{name}[{dims}]"
    return found


def _retyped(reference: Model, candidate: Model) -> dict[str, list[str]]:
    before, after = _declared(reference), _declared(candidate)
    return {
        name: [type_name(kind), type_name(after[name])]
        for name, kind in before.items()
        if name in after and after[name] != kind and {kind, after[name]} <= FLOAT_TYPES
    }


def _declared(model: Model) -> dict[str, int]:
    graph = model.proto.graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    found.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    return {name: kind for name, kind in found.items() if kind}
