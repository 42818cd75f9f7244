"""Rounding plans: from a selection of nodes, and from a type assignment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto

from precision_planner.model import GraphIndex, Model, NodeId, Scope, TypeTable, infer_types
from precision_planner.model.bodies import bodies_of
from precision_planner.model.index import constant_value
from precision_planner.numerics.rounding import Overflow
from precision_planner.operators import domain_of, is_exact, is_pointwise, is_product, row_of
from precision_planner.simulation.accumulation import product_of
from precision_planner.simulation.lowering import steps_of
from precision_planner.simulation.rounding import EdgeKey, RoundingPlan, ValueKey
from precision_planner.simulation.schemas import (
    LOW_TYPES,
    TF32,
    TF32_TRUNCATED,
    low_slots,
    output_like_input,
)
from precision_planner.simulation.tf32 import TRUNCATION_OPSET, Tf32, check_tf32
from precision_planner.targets.lowering import Lowering, in_half
from precision_planner.typing.assignment import TypeAssignment


def element_types(model: Model, index: GraphIndex, types: TypeTable | None = None) -> dict[ValueKey, int]:
    """(scope, value) -> element type, with what shape inference leaves open filled in from the schemas.

    Only tensors are listed; values of unknown type (behind custom operators) are missing.
    """
    types = infer_types(model, index) if types is None else types
    found: dict[ValueKey, int] = {
        key: value.elem_type for key, value in types.items() if value.container == "tensor" and value.elem_type
    }
    containers = {key for key, value in types.items() if value.container != "tensor"}
    for scope, _, node in index.nodes():
        if all((scope.path, output) in found for output in node.output if output):
            continue
        sources = output_like_input(node, model.opsets)
        for position, output in enumerate(node.output):
            key = (scope.path, output)
            if not output or key in found or key in containers:
                continue
            source = sources.get(position)
            if node.op_type == "Cast":
                found[key] = next((a.i for a in node.attribute if a.name == "to"), 0)
            elif isinstance(source, int):
                holder = index.resolve(scope, node.input[source])
                if holder is not None and (holder.path, node.input[source]) in found:
                    found[key] = found[holder.path, node.input[source]]
            elif source == "tensor(float)":
                found[key] = TensorProto.FLOAT
    return found


def all_low(
    model: Model,
    index: GraphIndex,
    elem_type: int,
    keep: Collection[NodeId] = (),
    weights: Overflow = "inf",
    bf16: Collection[NodeId] = (),
) -> RoundingPlan:
    """Everything float that can go low is low, but for the nodes kept.

    Args:
      model: FP32, without local functions.
      index: of its proto.
      elem_type: FLOAT16 or BFLOAT16.
      keep: nodes that read, compute and store FP32.
      weights: how constants are rounded.
      bf16: nodes in BFLOAT16 instead, where they have it.
    """
    kept, in_bf16 = frozenset(keep), frozenset(bf16)
    found = element_types(model, index)
    low: dict[ValueKey, int] = {}
    values: dict[ValueKey, int] = {}
    edges: dict[EdgeKey, int] = {}
    for scope, position, node in index.nodes():
        identity = index.node_id(scope, position)
        kind = TensorProto.BFLOAT16 if identity in in_bf16 else elem_type
        slots = None if identity in kept else low_slots(node, model.opsets, kind)
        if slots is None or row_of(node).picks_index:  # a selection reads what is there, and plans hold it to that
            continue
        if row_of(node).converts and found.get((scope.path, node.output[0])) != TensorProto.FLOAT:
            continue  # so does a Cast to doubles or integers
        for slot in slots[0]:
            holder = index.resolve(scope, node.input[slot])
            if holder is None:
                continue
            key = (holder.path, node.input[slot])
            if found.get(key) == TensorProto.FLOAT and low.get(key) != kind:
                edges[scope.path, position, slot] = kind
        for output_slot in slots[1]:
            key = (scope.path, node.output[output_slot])
            if found.get(key) == TensorProto.FLOAT:
                low[key] = kind
                if not is_exact(node):
                    values[key] = kind
    return RoundingPlan(values, edges, weights, low)


def from_assignment(assignment: TypeAssignment, index: GraphIndex, weights: Overflow = "inf") -> RoundingPlan:
    """Round where the assignment stores low, and on the edges where it casts down.

    Args:
      assignment: of this very model (types are looked up by its scopes and names).
      index: of the model's proto.
      weights: how constants are rounded.
    """
    values: dict[ValueKey, int] = {}
    edges: dict[EdgeKey, int] = {}
    for key, elem_type in assignment.storage.items():
        scope = index.by_path.get(key[0])
        if elem_type not in LOW_TYPES or scope is None or key in assignment.constants:
            continue
        node = scope.producer_node(key[1])
        if node is not None and not bodies_of(node):
            values[key] = elem_type
    for (node_id, slot), elem_type in assignment.reads.items():
        at = index.find(node_id)
        if elem_type not in LOW_TYPES or at is None:
            continue
        scope, position = at
        value = scope.nodes[position].input[slot]
        holder = index.resolve(scope, value)
        if holder is None:
            continue
        if values.get((holder.path, value)) != elem_type:
            edges[scope.path, position, slot] = elem_type
    return RoundingPlan(values, edges, weights, dict(values))


def with_tf32(
    plan: RoundingPlan, index: GraphIndex, types: Mapping[ValueKey, int], tf32: Tf32 = "nearest"
) -> RoundingPlan:
    """Round the operands of products that stay in FP32 to TF32, as a build that allows TF32 does.

    Args:
      plan: what is rounded to 16 bits.
      index: of the FP32 graph.
      types: (scope, value) -> element type; see `element_types`.
      tf32: "nearest", or "truncated" for products both of whose operands are computed; below `TRUNCATION_OPSET` these
        are rounded to nearest too. False changes nothing.

    Raises:
      ConversionError: `tf32` is none of these.
    """
    check_tf32(tf32)
    if not tf32:
        return plan
    constants = _constant_values(index) if tf32 == "truncated" and _opset(index) >= TRUNCATION_OPSET else None
    edges = dict(plan.edges)
    for scope, position, node in index.nodes():
        if not is_product(node) or domain_of(node) or (scope.path, node.output[0]) in plan.stored:
            continue
        operands = [_key(index, scope, value) for value in node.input[:2]]
        truncating = constants is not None and not any(key is None or key in constants for key in operands)
        for slot, key in enumerate(operands):
            is_wide = key is not None and types.get(key) == TensorProto.FLOAT and key not in plan.stored
            if is_wide and (scope.path, position, slot) not in edges:
                edges[scope.path, position, slot] = TF32_TRUNCATED if truncating else TF32
    return replace(plan, edges=edges)


def _key(index: GraphIndex, scope: Scope, value: str) -> ValueKey | None:
    holder = index.resolve(scope, value)
    return None if holder is None else (holder.path, value)


def _opset(index: GraphIndex) -> int:
    return next((entry.version for entry in index.proto.opset_import if entry.domain in ("", "ai.onnx")), 1)


def _constant_values(index: GraphIndex) -> set[ValueKey]:
    """What is constant or computed from constants alone. Nodes with bodies, and what bodies are given, count as not."""
    found: set[ValueKey] = set()
    for scope in index.scopes:  # graphs before their bodies, and nodes in topological order
        names = (*scope.initializers, *scope.sparse_initializers)
        found.update((scope.path, name) for name in names if not (scope.kind == "main" and scope.is_overridable(name)))
        for node in scope.nodes:
            inputs = [_key(index, scope, name) for name in node.input if name]
            known = all(key in found for key in inputs) if inputs else node.op_type == "Constant"
            if known and not bodies_of(node):
                found.update((scope.path, name) for name in node.output if name)
    return found


def fuse_chains(plan: RoundingPlan, index: GraphIndex) -> RoundingPlan:
    """Leave unrounded what never leaves a kernel: values made by a pointwise node and read by pointwise nodes alone.

    Reductions, GEMMs, convolutions, softmax and normalizations end a chain on both sides: what they read and write
    is stored. A value that anything else reads, a body or the caller, is stored too. Constants are converted before
    any kernel runs, so their rounding stays.
    """
    inside = {key for key in plan.values if _stays_inside(index.by_path[key[0]], key[1])}
    return replace(
        plan,
        values={key: kind for key, kind in plan.values.items() if key not in inside},
        stored={key: kind for key, kind in plan.stored.items() if key not in inside},
    )


def with_accumulation(
    plan: RoundingPlan,
    model: Model,
    index: GraphIndex,
    types: TypeTable | None = None,
    sums32: Collection[NodeId] = (),
) -> RoundingPlan:
    """A plan in which the products that read and write FP16 also add up in it, but for those promised FP32 sums.

    Products that read or write FP32 or BF16 have FP32 accumulators. So have, for want of better, those whose
    operands' ranks are unknown, and at an opset below 13 those whose length is known only at run time (all, below 7).

    Args:
      plan: of the model.
      model: in FP32, without local functions.
      index: of its proto.
      types: of its values, where they are known.
      sums32: products in FP16 that add up in FP32 (fp16+).
    """
    exempt = frozenset(sums32)
    known = infer_types(model, index) if types is None else types
    found = dict(plan.accumulated)
    for scope, position, node in index.nodes():
        if not all(_reads_half(plan, index, scope, position, slot) for slot in (0, 1)):
            continue
        if plan.stored.get((scope.path, node.output[0])) != TensorProto.FLOAT16:
            continue
        product = product_of(node, scope, known, model.opset)
        if product is not None and index.node_id(scope, position) not in exempt:
            found[scope.path, position] = product
    return replace(plan, accumulated=found)


def with_lowering(plan: RoundingPlan, model: Model, index: GraphIndex, lowerings: Iterable[Lowering]) -> RoundingPlan:
    """A plan in which operators that read and write 16 bits are written out as a target's parser does.

    Args:
      plan: of the model.
      model: in FP32, without local functions.
      index: of its proto.
      lowerings: the target's.
    """
    forms = in_half(lowerings)
    found = dict(plan.accumulated)
    for scope, position, node in index.nodes() if forms else ():
        lowering = forms.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        elem_type = plan.stored.get((scope.path, node.output[0])) if node.output else None
        if lowering is None or elem_type is None or _type_read(plan, index, scope, position, 0) != elem_type:
            continue
        constants = dict(_constants_beside(model, index, scope, node))
        steps = steps_of(node, lowering.form, elem_type, constants, model.opset)
        if steps is not None:
            found[scope.path, position] = steps
    return replace(plan, accumulated=found)


def _constants_beside(
    model: Model, index: GraphIndex, scope: Scope, node: NodeProto
) -> Iterator[tuple[str, np.ndarray]]:
    """The single numbers among a node's inputs but the first: its axis."""
    for name in node.input[1:]:
        holder = index.resolve(scope, name) if name else None
        tensor = None if holder is None else holder.initializers.get(name)
        maker = None if holder is None else holder.producer_node(name)
        if tensor is not None and not tensor.dims:
            yield name, model.array(tensor)
        elif maker is not None and maker.op_type == "Constant":
            value = constant_value(maker, model, 1)
            if value is not None:
                yield name, value


def _reads_half(plan: RoundingPlan, index: GraphIndex, scope: Scope, position: int, slot: int) -> bool:
    return _type_read(plan, index, scope, position, slot) == TensorProto.FLOAT16


def _type_read(plan: RoundingPlan, index: GraphIndex, scope: Scope, position: int, slot: int) -> int | None:
    """The 16-bit type in which a node reads an input; None for FP32."""
    inputs = scope.nodes[position].input
    if slot >= len(inputs):
        return None
    edge = plan.edges.get((scope.path, position, slot))
    if edge is not None:
        return edge
    holder = index.resolve(scope, inputs[slot])
    return None if holder is None else plan.stored.get((holder.path, inputs[slot]))


def _stays_inside(scope: Scope, value: str) -> bool:
    node = scope.producer_node(value)
    if node is None or not is_pointwise(node):
        return False
    if scope.is_output(value) or value in scope.captures or value in scope.body_outputs:
        return False
    readers = [scope.nodes[use.position] for use in scope.consumers(value)]
    return bool(readers) and all(map(is_pointwise, readers))
