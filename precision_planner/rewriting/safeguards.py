"""What is known to break without a search: `rewrite` and the converters' signatures keep it in FP32, with its reason.

1. Constants. What reads a constant that the type cannot hold (finite, past its range, or a tensor all of which would
   become zero) stays in FP32. Masks are none of these, for they become finite (`rewriting.weights`), nor is a bound of
   Clip, Max or Min, which cuts nothing off where it is out of range, nor an epsilon, which becomes the smallest number.
2. Angles. A Sin or Cos whose argument is computed from integers (positions, time steps, Range) stays in FP32 with the
   arithmetic behind it: an angle of 2000 is known to within 1 in FP16. Their results lie within 1 and go low.
3. Data. With inputs of the user's, what makes or reads a value past the range stays in FP32. A mask's values are left
   out: all that is past the range there is of one sign, negative.
4. Normalizations (`closed_norms`). One that is kept with FP32 statistics alone, and that reads what is kept in FP32,
   would round the very value that must not be rounded; it becomes an island.

Shapes and indices in floats are never low, whoever converts: see `precision_planner.typing.indices`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx

from precision_planner.calibration import ActivationRange, calibrate
from precision_planner.errors import CalibrationError
from precision_planner.model import FLOAT_TYPES, GraphIndex, Model, NodeId, Scope, TypeTable
from precision_planner.model.flow import Flow
from precision_planner.numerics.formats import Format, get_format
from precision_planner.operators import is_arithmetic, is_product, row_of
from precision_planner.rewriting.mask_constants import mask_constants
from precision_planner.typing import Decision, Key

__all__ = ["closed_norms", "safeguards"]

_BOUNDS = frozenset({"Max", "Min"})


def safeguards(
    model: Model,
    index: GraphIndex,
    types: TypeTable,
    precision: str,
    *,
    inputs: object = None,
    constants: bool = True,
) -> tuple[dict[NodeId, Decision], list[str]]:
    """Decide what stays in FP32 because it is known to break.

    Args:
      model: in FP32.
      index: of `model.proto`.
      types: of the model.
      precision: "fp16" or "bf16".
      inputs: the user's data; without it nothing is measured.
      constants: whether constants are looked at: not where the user chose what becomes of them.

    Returns:
      (decisions, notes: what could not be looked at and why).
    """
    fmt = get_format(precision)
    masks = mask_constants(index)
    found: dict[NodeId, Decision] = {}
    notes: list[str] = []
    reasons: Iterator[tuple[NodeId, str]] = _angles(index, types, fmt)
    for node, reason in reasons:
        found.setdefault(node, _kept(reason))
    if constants:
        for node, reason in _constants(model, index, fmt, masks):
            found.setdefault(node, _kept(reason))
    if inputs is not None:
        try:
            ranges = calibrate(model, inputs)
        except CalibrationError as error:
            notes.append(f"what overflows on the inputs was not looked for: {error}")
        else:
            for node, reason in _overflows(index, ranges, fmt, masks):
                found.setdefault(node, _kept(reason))
    return found, notes


def _kept(reason: str) -> Decision:
    return Decision("fp32", reason)


def _constants(model: Model, index: GraphIndex, fmt: Format, masks: frozenset[Key]) -> Iterator[tuple[NodeId, str]]:
    flow = Flow(index)
    for scope in index.scopes:
        for name in _constant_names(scope):
            if (scope.path, name) in masks:
                continue
            reason = _lost(model, index, scope, name, fmt)
            for read in flow.readers(scope, name)[0] if reason else ():
                if read.node.op_type not in _BOUNDS and not _is_bound(read.node, read.slot):
                    yield index.node_id(read.scope, read.position), reason


def _constant_names(scope: Scope) -> Iterator[str]:
    for name, tensor in scope.initializers.items():
        if tensor.data_type in FLOAT_TYPES:
            yield name
    for node in scope.nodes:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            yield node.output[0]


def _lost(model: Model, index: GraphIndex, scope: Scope, name: str, fmt: Format) -> str:
    """What of a constant the type cannot hold; "" for nothing."""
    array = index.constant(scope, name, model)
    if array is None or not array.size or array.dtype.kind not in "f":
        return ""
    largest, smallest = 0.0, np.inf
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        magnitude = np.abs(flat[start : start + _BLOCK])
        magnitude = magnitude[np.isfinite(magnitude) & (magnitude > 0)]
        if magnitude.size:
            largest, smallest = max(largest, float(magnitude.max())), min(smallest, float(magnitude.min()))
    if largest >= fmt.overflow_from:
        return f"constant '{name}' reaches {largest:.4g}, more than {fmt.name.upper()} holds"
    if flat.size > 1 and 0.0 < largest <= fmt.flush_until:
        return f"constant '{name}' is at most {largest:.4g}, all of which {fmt.name.upper()} makes zero"
    return ""


_BLOCK = 1 << 20


def _is_bound(node: onnx.NodeProto, slot: int) -> bool:
    return row_of(node).weights.get(slot) == "bound"


def _angles(index: GraphIndex, types: TypeTable, fmt: Format) -> Iterator[tuple[NodeId, str]]:
    flow = Flow(index)
    for scope, position, node in index.nodes():
        if node.op_type not in ("Sin", "Cos") or node.domain not in ("", "ai.onnx"):
            continue
        behind: set[NodeId] = set()
        counted = False
        for origin, _ in flow.trace([(scope, node.input[0])], _computes_angles):
            made = origin.node
            if made is None or not (is_arithmetic(made) or is_product(made)) or made.op_type == "Constant":
                continue
            counted = counted or made.op_type == "Range" or _reads_integers(origin.scope, made, types)
            if types.of(origin.scope, origin.value).elem_type in (0, *FLOAT_TYPES):
                behind.add(index.node_id(origin.scope, origin.position))
        if counted:
            reason = f"an angle computed from integers: {fmt.name.upper()} does not tell large angles apart"
            for identity in (*behind, index.node_id(scope, position)):
                yield identity, reason


def _computes_angles(node: onnx.NodeProto, slot: int) -> bool:
    return is_arithmetic(node) or is_product(node)


def _reads_integers(scope: Scope, node: onnx.NodeProto, types: TypeTable) -> bool:
    """Whether a node makes floats of integers."""
    if not row_of(node).converts or not node.input:
        return False
    return types.of(scope, node.input[0]).elem_type in (
        onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.INT16, onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64,
    )  # fmt: skip


def _overflows(
    index: GraphIndex, ranges: Mapping[Key, ActivationRange], fmt: Format, masks: frozenset[Key]
) -> Iterator[tuple[NodeId, str]]:
    for scope, position, node in index.nodes():
        if node.op_type == "Constant":
            continue
        for name in (*node.output, *node.input):
            holder = index.resolve(scope, name) if name else None
            seen = ranges.get((holder.path, name)) if holder is not None else None
            if holder is None or seen is None or seen.derived or seen.synthesised or seen.amax < fmt.overflow_from:
                continue
            if (holder.path, name) in masks and seen.maximum < fmt.overflow_from:
                continue
            what = "makes" if name in node.output else "reads"
            yield index.node_id(scope, position), f"{what} '{name}', which reaches {seen.amax:.4g} on the inputs"
            break


def closed_norms(index: GraphIndex, decisions: Mapping[NodeId, Decision]) -> dict[NodeId, Decision]:
    """The decisions with every kept normalization an island where it reads what is kept in FP32 (see 4 above).

    Where `keep_as` was said, it stays.
    """
    closed = dict(decisions)
    flow = Flow(index)
    for identity, decision in decisions.items():
        place = index.find(identity)
        if place is None or decision.precision != "fp32" or decision.keep_as is not None:
            continue
        scope, position = place
        node = scope.nodes[position]
        if not row_of(node).statistics_type or not node.input or not node.input[0]:
            continue
        makers = (
            index.node_id(origin.scope, origin.position)
            for origin in flow.origins(scope, node.input[0])
            if origin.node is not None
        )
        if any((made := decisions.get(maker)) is not None and made.precision == "fp32" for maker in makers):
            closed[identity] = replace(decision, keep_as="island")
    return closed
