"""What a weakly typed build gets: an FP32 model, and the nodes whose layers are constrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx import NodeProto

from precision_planner.model import GraphIndex, Model, NodeId, Scope
from precision_planner.model.bodies import bodies_of
from precision_planner.model.inputs import Inputs
from precision_planner.operators import is_product, row, row_of
from precision_planner.plans import Constraint
from precision_planner.rewriting import RewriteResult, rewrite
from precision_planner.simulation.rounding import ValueKey

__all__ = [
    "constant_values",
    "constrained_nodes",
    "constraints_of",
    "is_cheaper",
    "layernorms",
    "left_to_gain",
    "weak_model",
    "with_norms",
]


def _is_untyped(op_type: str) -> bool:
    """Whether an operator's layers are not held to FP16: it computes nothing, has its own type, or FP32 inside."""
    found = row(op_type)
    return (found.exact and not found.pointwise) or found.converts or found.normalizes == "layer"


def _held(node: NodeProto, precision: str) -> tuple[str, str]:
    """(layer precision, output type) of a precision.

    FP32 with half outputs, between half layers, asks a weakly typed builder for a half kernel that sums in FP32
    (evidence/tensorrt106, weak); a convolution so held finds no engine, so that its sums in FP32 are an FP32 kernel's.
    """
    if precision != "fp16+":
        return precision, precision
    return "fp32", "fp16" if is_product(node, frozenset({"matmul"})) else "fp32"


def weak_model(model: Model, fuse: Sequence[str], data: Inputs | None, options: Mapping[str, Any]) -> Model:
    """What a weakly typed build parses: FP32 types, with the fusions."""
    result = rewrite(
        model,
        precision="fp32",
        fuse=fuse,
        int32_inputs=bool(options.get("int32_inputs")),
        inputs=None if data is None else data.first(),
        verify=data is not None,
    )
    return result.typed


def layernorms(model: Model) -> int:
    """How many LayerNormalization nodes the main graph has."""
    return sum(node.op_type == "LayerNormalization" for node in model.proto.graph.node)


def with_norms(options: Mapping[str, Any]) -> list[str]:
    """The user's --keep-fp32 and every LayerNorm."""
    given = options.get("keep_fp32") or ()
    return [*([given] if isinstance(given, str) else given), "layernorm"]


def constrained_nodes(result: RewriteResult, built: Model, *, hold_low: bool = False) -> tuple[dict[NodeId, str], bool]:
    """The nodes of which a weak build must be told, and their precision: those that a decision keeps above the low one.

    A normalization kept as `compute` needs no constraint, for TensorRT computes INormalizationLayer in FP32 by
    default. Where it reads what a constrained node stores in FP32, it gets one too; but TensorRT 8.6 compiles neither
    ("Could not infer output types ... normalizationScaled") and falls back to FP32 for the whole region, so there the
    LayerNorms are better left decomposed and constrained: the second result says that this is so. Nodes that no type
    but FP32 fits need none, TensorRT knows these itself; nor do nodes that read constants alone, which are computed
    before the engine is built. The nodes of bodies are layers of the one network and named as those of the main graph
    are, so they are constrained like them.

    Args:
      result: of the rewrite.
      built: the model that is built.
      hold_low: constrain what is low, too: products, and what computes with their results. Otherwise the builder may
        compute it in any type, and does where that is faster.
    """
    assert result.assignment is not None
    index = GraphIndex(built.proto)
    folded = constant_values(index)
    chosen: dict[NodeId, str] = {}
    following: list[NodeId] = []
    for typing in result.assignment.nodes.values():
        found = index.find(typing.node)
        if found is None or found[0].kind == "function" or tuple(typing.node) in folded:
            continue
        if typing.compute == result.assignment.options.precision:
            if hold_low and not typing.moves and not _is_untyped(typing.op_type):
                chosen[typing.node] = typing.compute
            continue
        if not typing.decided:
            continue
        if typing.keep_as == "compute":
            following.append(typing.node)
        else:
            chosen[typing.node] = typing.compute
    wide = (node for node, precision in chosen.items() if precision == "fp32")
    stored = {(node.scope, name) for node in wide for name in _node(index, node).output}
    # what picks from values in FP32 must not read them in FP16: ties would decide otherwise
    for identity in result.assignment.reading_wide:
        found = index.find(identity)
        if found is None or found[0].kind == "function" or tuple(identity) in folded:
            continue
        if row_of(found[0].nodes[found[1]]).picks_index:
            chosen[identity] = "fp32"
    chosen.update((node, "fp32") for node in following if stored.intersection(_read(index, node)))
    return chosen, any(_node(index, node).op_type == "LayerNormalization" for node in chosen)


def left_to_gain(search: Mapping[str, Any]) -> bool:
    """Whether FP32 residual sums with LayerNorms in FP32, which 8.6 has only decomposed, may give a cheaper plan."""
    return not search["passed"] or search["cost_us"] > 0


def is_cheaper(decomposed: Mapping[str, Any], fused: Mapping[str, Any] | None) -> bool:
    """Whether the search with decomposed LayerNorms found what the one with fused ones did not, or it for less."""
    if fused is None or not fused["passed"]:
        return True
    return bool(decomposed.get("passed")) and decomposed["cost_us"] < fused["cost_us"]


def constraints_of(nodes: Mapping[NodeId, str], built: Model) -> tuple[Constraint, ...]:
    """The constraints on nodes of the model that is built, node -> precision."""
    index = GraphIndex(built.proto)
    found = [(_node(index, node), precision) for node, precision in nodes.items()]
    return tuple(
        Constraint(node.name, tuple(name for name in node.output if name), *_held(node, precision))
        for node, precision in found
    )


def _read(index: GraphIndex, identity: NodeId) -> set[ValueKey]:
    """The values that a node reads, by the graphs that hold them."""
    scope = index.by_path[identity.scope]
    return {_key(index, scope, name) for name in _node(index, identity).input if name}


def _node(index: GraphIndex, identity: NodeId) -> NodeProto:
    found = index.find(identity)
    assert found is not None, "a constrained node is one of the model that is built"
    return found[0].nodes[found[1]]


def constant_values(index: GraphIndex) -> set[ValueKey]:
    """The values that depend on no input: constants, and what is computed from constants alone, in bodies too."""
    known: set[ValueKey] = set()
    for scope in index.scopes:  # graphs before their bodies
        held = {name for name in scope.initializers if not (scope.kind == "main" and scope.is_overridable(name))}
        known.update((scope.path, name) for name in held | set(scope.sparse_initializers))
        grown = True
        while grown:  # once, and once more to see that nothing is new: the nodes of a graph are sorted
            grown = False
            for node in scope.nodes:
                if bodies_of(node) or not node.output or (scope.path, node.output[0]) in known:
                    continue
                inputs = [_key(index, scope, name) for name in node.input if name]
                if all(key in known for key in inputs) and (inputs or node.op_type == "Constant"):
                    known.update((scope.path, name) for name in node.output)
                    grown = True
    return known


def _key(index: GraphIndex, scope: Scope, name: str) -> ValueKey:
    return ((index.resolve(scope, name) or scope).path, name)
