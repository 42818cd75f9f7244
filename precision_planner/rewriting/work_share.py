"""How much of the multiply-add work a typed model does in 16 bits: the honest measure of what a conversion gained."""

from __future__ import annotations

from math import prod

from onnx import NodeProto

from precision_planner.model import GraphIndex, Scope, TypeTable
from precision_planner.operators import is_product, row_of
from precision_planner.typing import TypeAssignment


def work_share(index: GraphIndex, types: TypeTable, assignment: TypeAssignment) -> dict[str, float | int]:
    """Multiply-adds by precision, over products and convolutions whose shapes are known.

    Symbolic and unknown sizes count as 1, so that the shares compare layers of one model, not absolute cost.

    Returns:
      {"total": count, "fp32": share, "fp16": share, "bf16": share}; shares are 0 where nothing could be counted. fp16+
      counts as fp16: its values and weights are halves.
    """
    counts = {"fp32": 0, "fp16": 0, "bf16": 0}
    for scope, position, node in index.nodes():
        if not is_product(node) or 1 not in row_of(node).factors:
            continue
        typing = assignment.nodes.get(index.node_id(scope, position))
        if typing is not None:
            counts[typing.compute.rstrip("+")] += _multiply_adds(types, scope, node)
    total = sum(counts.values())
    return {"total": total, **{name: round(count / total, 6) if total else 0.0 for name, count in counts.items()}}


def _multiply_adds(types: TypeTable, scope: Scope, node: NodeProto) -> int:
    if len(node.input) < 2 or not node.output:
        return 0  # an operator of another version than the table's
    out = _sizes(types, scope, node.output[0])
    left, right = _sizes(types, scope, node.input[0]), _sizes(types, scope, node.input[1])
    if row_of(node).product == "matmul":
        is_gemm = "Gemm" in node.op_type
        inner = right[-2] if len(right) > 1 else (left[-1] if left else 1)
        if is_gemm:
            inner = prod(right) // max(out[-1] if out else 1, 1)
        return max(prod(out) * max(inner, left[-1] if left and not is_gemm else 1), prod(right))
    kernel = prod(right[1:]) if len(right) > 1 else 1
    return max(prod(left if node.op_type == "ConvTranspose" else out) * kernel, prod(right))


def _sizes(types: TypeTable, scope: Scope, value: str) -> list[int]:
    shape = types.of(scope, value).shape or ()
    return [dim if isinstance(dim, int) else 1 for dim in shape]
