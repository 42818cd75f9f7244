"""How much of the multiply-add work a typed model does in 16 bits: the honest measure of what a conversion gained."""

from __future__ import annotations

from math import prod

from precision_planner.model import GraphIndex, Scope, TypeTable
from precision_planner.typing import TypeAssignment


def work_share(index: GraphIndex, types: TypeTable, assignment: TypeAssignment) -> dict[str, float | int]:
    """Multiply-adds by precision, over MatMul, Gemm, Conv and ConvTranspose whose shapes are known.

    Symbolic and unknown sizes count as 1, so that the shares compare layers of one model, not absolute cost.

    Returns:
      {"total": count, "fp32": share, "fp16": share, "bf16": share}; shares are 0 where nothing could be counted.
    """
    counts = {"fp32": 0, "fp16": 0, "bf16": 0}
    for scope, position, node in index.nodes():
        if node.op_type not in ("MatMul", "Gemm", "Conv", "ConvTranspose") or node.domain not in ("", "ai.onnx"):
            continue
        typing = assignment.nodes.get(index.node_id(scope, position))
        if typing is not None:
            counts[typing.compute] += _multiply_adds(types, scope, node.op_type, list(node.input), node.output[0])
    total = sum(counts.values())
    return {"total": total, **{name: round(count / total, 6) if total else 0.0 for name, count in counts.items()}}


def _multiply_adds(types: TypeTable, scope: Scope, op_type: str, inputs: list[str], output: str) -> int:
    out = _sizes(types, scope, output)
    left, right = _sizes(types, scope, inputs[0]), _sizes(types, scope, inputs[1])
    if op_type in ("MatMul", "Gemm"):
        inner = right[-2] if len(right) > 1 else (left[-1] if left else 1)
        if op_type == "Gemm":
            inner = prod(right) // max(out[-1] if out else 1, 1)
        return max(prod(out) * max(inner, left[-1] if left and op_type == "MatMul" else 1), prod(right))
    kernel = prod(right[1:]) if len(right) > 1 else 1
    return max(prod(out if op_type == "Conv" else left) * kernel, prod(right))


def _sizes(types: TypeTable, scope: Scope, value: str) -> list[int]:
    shape = types.of(scope, value).shape or ()
    return [dim if isinstance(dim, int) else 1 for dim in shape]
