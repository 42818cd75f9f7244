"""What it costs to keep a region high, as estimated time on a reference GPU.

Only the ratios matter: they order the candidates. A kept region reads and writes twice the bytes; a product loses the
16-bit tensor cores; a product inside an attention takes the attention apart, so that the scores go through memory; and
every edge on which the type changes costs a Cast.

The reference is NVIDIA's A100: 312 TFLOP/s in FP16, 156 in TF32, 19.5 in FP32, 1,555 GB/s (NVIDIA A100 Tensor Core GPU
datasheet, https://www.nvidia.com/en-us/data-center/a100/). A kernel that is launched for nothing else takes 2 us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from onnx import NodeProto

from precision_planner.model import GraphIndex, Scope
from precision_planner.planning.policy import GEMM_OPS
from precision_planner.planning.search.regions import Region

__all__ = ["CostModel", "Shapes", "region_costs"]

Shapes = Mapping[str, Sequence[int]]
"""Value of the main graph -> its shape on the search's data."""

BYTES_PER_US = 1_555e9 / 1e6
FLOP_PER_US = {"fp16": 312e12 / 1e6, "tf32": 156e12 / 1e6, "fp32": 19.5e12 / 1e6}
LAUNCH_US = 2.0


@dataclass(frozen=True, slots=True)
class CostModel:
    """How kept products compute: in TF32 where the build allows it, else in FP32."""

    tf32: bool = False

    @property
    def product(self) -> float:
        """Microseconds more for one floating point operation of a kept product."""
        return 1 / FLOP_PER_US["tf32" if self.tf32 else "fp32"] - 1 / FLOP_PER_US["fp16"]


def region_costs(
    index: GraphIndex, regions: Sequence[Region], shapes: Shapes, cost: CostModel | None = None
) -> tuple[float, ...]:
    """Microseconds that keeping each region in FP32 costs, alone, over 16 bits.

    Args:
      index: of the graph.
      regions: of the graph.
      shapes: of its values; a value without one (inside a body) counts as one element.
      cost: how kept products compute.
    """
    used = cost or CostModel()
    return tuple(_cost(index, region, shapes, used) for region in regions)


def _cost(index: GraphIndex, region: Region, shapes: Shapes, cost: CostModel) -> float:
    inside = set(region.nodes)
    read: dict[str, None] = {}
    weights = flops = scores = 0.0
    written = 0.0
    for identity in region.nodes:
        found = index.find(identity)
        if found is None:
            continue
        scope, position = found
        node = scope.nodes[position]
        for value in node.input:
            maker = scope.producer(value)
            if value in scope.initializers:
                weights += prod(scope.initializers[value].dims)
            elif maker is not None and index.node_id(scope, maker) not in inside:
                read[value] = None
        written += sum(_elements(name, shapes) for name in node.output if name)
        if node.op_type in GEMM_OPS:
            flops += _flops(scope, node, shapes)
        if region.attention and node.op_type in GEMM_OPS:
            scores += max(_elements(name, shapes) for name in (*node.input, *node.output) if name)
    edges = sum(_elements(name, shapes) for name in read)
    # read and written twice as wide; a Cast before (2 bytes read, 4 written) and one behind; scores written and read
    traffic = 2 * (weights + edges + written) + 6 * (edges + written) + 2 * (4 + 4) * scores
    launches = len(read) + 1 + (2 if scores else 0)
    return traffic / BYTES_PER_US + flops * cost.product + launches * LAUNCH_US


def _elements(value: str, shapes: Shapes) -> int:
    return prod(shapes.get(value, (1,)))


def _flops(scope: Scope, node: NodeProto, shapes: Shapes) -> float:
    """Floating point operations: two for each multiply-add."""
    out = _elements(node.output[0], shapes) if node.output else 0
    if node.op_type in ("MatMul", "Gemm", "Einsum"):
        shape = _shape(scope, node.input[0], shapes)
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return 2.0 * out * (shape[0 if transposed else -1] if shape else 1)
    weight = _shape(scope, node.input[1], shapes) if len(node.input) > 1 else ()
    if node.op_type == "Conv" and weight:
        return 2.0 * out * prod(weight[1:])
    if node.op_type == "ConvTranspose" and weight:
        return 2.0 * _elements(node.input[0], shapes) * prod(weight[1:])
    return 2.0 * out * (weight[-1] if weight else 1)


def _shape(scope: Scope, value: str, shapes: Shapes) -> tuple[int, ...]:
    tensor = scope.initializers.get(value)
    return tuple(tensor.dims) if tensor is not None else tuple(shapes.get(value, ()))
