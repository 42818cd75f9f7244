"""What a plan costs over one that keeps nothing high, as estimated time on a reference GPU.

Only the ratios matter: they order the candidates. A kept region's result is written and read twice as wide, and so are
its weights; a product loses the 16-bit tensor cores; a product inside an attention takes the attention apart where the
target fuses it, so that the scores go through memory. A Cast beside a pointwise operator, a normalization or a softmax
is part of that kernel and costs nothing. Between two products it is a kernel of its own, which reads the value and
writes it again; and where the value is reshaped or transposed on its way, as an attention's heads are, that is no
longer part of a product's kernel either: three passes in all (`python -m evidence.tensorrt86.kernels
massive.plan-first`). So what a region costs depends on its neighbors, and two neighboring products may cost more with
one of them high than with both.

The reference is NVIDIA's A100: 312 TFLOP/s in FP16, 156 in TF32, 19.5 in FP32, 1,555 GB/s (NVIDIA A100 Tensor Core GPU
datasheet, https://www.nvidia.com/en-us/data-center/a100/). A kernel that is launched for nothing else takes 2 us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, prod
from typing import TypeAlias

from onnx import NodeProto

from precision_planner.model import GraphIndex, Scope
from precision_planner.operators import PRODUCTS, is_product, row_of
from precision_planner.planning.search.flow import Flow
from precision_planner.planning.search.regions import Region

__all__ = ["CostModel", "PlanCosts", "Seam", "Shapes", "plan_costs"]

Shapes = Mapping[str, Sequence[int]]
"""Value of the main graph -> its shape on the search's data."""

BYTES_PER_US = 1_555e9 / 1e6
FLOP_PER_US = {"fp16": 312e12 / 1e6, "tf32": 156e12 / 1e6, "fp32": 19.5e12 / 1e6}
LAUNCH_US = 2.0
CAST_BYTES = 6
MOVED_CAST_BYTES = 18
SUMS_SHARE = 0.1
"""Of a product's time in 16 bits, what sums in FP32 add; with all weight products so TensorRT 10.6 took 1.45 ms instead
of 1.36 (classifier with massive activations, 40 x 300, H200)."""
SCORES_SHARE = 0.5
"""Of the traffic of scores that leave a fused kernel, what sums in FP32 inside it add: another 0.33 ms there."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """How the build computes.

    Attributes:
      tf32: kept products run in TF32, else in FP32.
      fused_attention: an attention in 16 bits is one kernel.
      half_convolutions: a convolution of halves that sums in FP32 is a half kernel; else one in FP32.
    """

    tf32: bool = False
    fused_attention: bool = True
    half_convolutions: bool = True

    @property
    def product(self) -> float:
        """Microseconds more for one floating point operation of a kept product."""
        return 1 / FLOP_PER_US["tf32" if self.tf32 else "fp32"] - 1 / FLOP_PER_US["fp16"]


@dataclass(frozen=True, slots=True)
class Seam:
    """A value that one product hands to others, so that a Cast on it is a kernel of its own.

    Attributes:
      maker: number of the region that makes it.
      readers: those that read it and are products too.
      us: microseconds of the Cast.
    """

    maker: int
    readers: frozenset[int]
    us: float


class PlanCosts:
    """Microseconds that plans cost over one that keeps nothing high.

    Args:
      regions: what each costs by itself in FP32.
      seams: where a change of type costs more.
      standing: regions that are in FP32 whatever a plan raises.
      brain: regions that are in BF16; they cost nothing but their seams.
      sums: what each region costs in FP16 with its sums in FP32.
      summed: regions that sum in FP32 as long as they are not in FP32 themselves.
    """

    def __init__(
        self,
        regions: Sequence[float],
        seams: Sequence[Seam] = (),
        standing: frozenset[int] = frozenset(),
        brain: frozenset[int] = frozenset(),
        *,
        sums: Sequence[float] = (),
        summed: frozenset[int] = frozenset(),
    ) -> None:
        self.regions, self.seams = tuple(regions), tuple(seams)
        self.sums, self._summed = tuple(sums) or (0.0,) * len(self.regions), summed
        self._standing, self._brain = standing - brain, brain
        self._of: dict[int, list[int]] = {}
        for number, seam in enumerate(self.seams):
            for region in {seam.maker, *seam.readers}:
                self._of.setdefault(region, []).append(number)

    def within(
        self, standing: frozenset[int], brain: frozenset[int] = frozenset(), summed: frozenset[int] = frozenset()
    ) -> PlanCosts:
        """The same costs where other regions stand."""
        return PlanCosts(self.regions, self.seams, standing, brain, sums=self.sums, summed=summed)

    def total(self, raised: frozenset[int] = frozenset()) -> float:
        """Of the plan that raises these regions besides the standing ones."""
        high = (raised | self._standing) - self._brain
        own = fsum(self.regions[number] for number in high) + fsum(self.sums[n] for n in self._summed - high)
        return own + fsum(seam.us for seam in self.seams if self._is_crossed(seam, high))

    def added(self, more: frozenset[int], raised: frozenset[int]) -> float:
        """What raising more regions costs on top of those raised; negative where it saves Casts."""
        before = (raised | self._standing) - self._brain
        new = more - before - self._brain
        after = before | new
        own = fsum(self.regions[number] for number in new) - fsum(self.sums[n] for n in self._summed & new)
        touched = [self.seams[n] for n in sorted({n for region in new for n in self._of.get(region, ())})]
        return own + fsum(
            seam.us * (self._is_crossed(seam, after) - self._is_crossed(seam, before)) for seam in touched
        )

    def neighbors(self, region: int) -> frozenset[int]:
        """The regions on the seams of a region, itself among them."""
        found = (self.seams[n] for n in self._of.get(region, ()))
        return frozenset({region}).union(*({seam.maker, *seam.readers} for seam in found))

    def _is_crossed(self, seam: Seam, high: frozenset[int]) -> bool:
        def level(number: int) -> int:
            return 1 if number in self._brain else 2 if number in high else 0

        made = level(seam.maker)
        return any(level(reader) != made for reader in seam.readers)


def plan_costs(
    index: GraphIndex, regions: Sequence[Region], shapes: Shapes, model: CostModel | None = None
) -> PlanCosts:
    """What plans of a graph cost.

    Args:
      index: of the graph.
      regions: of the graph.
      shapes: of its values; a value without one (inside a body) counts as one element.
      model: how the build computes.
    """
    used, flow = model or CostModel(), Flow(index, regions)
    own: list[float] = []
    sums: list[float] = []
    seams: list[Seam] = []
    for number, region in enumerate(regions):
        handed = _handed_on(index, flow, number, region)
        own.append(_cost(index, region, handed, shapes, used))
        sums.append(_sums_cost(index, region, shapes, used))
        if region.kind != "gemm":
            continue
        for value, (readers, direct) in handed.items():
            products = frozenset(reader for reader in readers if regions[reader].kind == "gemm")
            if products:
                traffic = (CAST_BYTES if products & direct else MOVED_CAST_BYTES) * _elements(value, shapes)
                seams.append(Seam(number, products, traffic / BYTES_PER_US + LAUNCH_US))
    return PlanCosts(own, seams, sums=sums)


Readers: TypeAlias = tuple[frozenset[int], frozenset[int]]
"""The regions that read a value, and those among them that read it as it was made, nothing having moved it."""


def _handed_on(index: GraphIndex, flow: Flow, number: int, region: Region) -> dict[str, Readers]:
    """The values that leave a region, with the other regions that read them."""
    found: dict[str, Readers] = {}
    for identity in region.nodes:
        place = index.find(identity)
        if place is None:
            continue
        scope, position = place
        for value in scope.nodes[position].output:
            readers = flow.readers(scope, value) - {number} if value else frozenset()
            if value and (readers or scope.is_output(value)):
                direct = {flow.region(scope, use.position) for use in scope.consumers(value)}
                found[value] = readers, readers & direct
    return found


def _sums_cost(index: GraphIndex, region: Region, shapes: Shapes, model: CostModel) -> float:
    """What sums in FP32 cost: a part of the product's time, and of an attention's fused kernel the faster form."""
    flops = wide = scores = 0.0
    for identity in region.nodes:
        found = index.find(identity)
        node = None if found is None else found[0].nodes[found[1]]
        if found is None or node is None or not is_product(node):
            continue
        operations = _flops(found[0], node, shapes)
        flops += operations
        if not model.half_convolutions and is_product(node, frozenset({"convolution"})):
            wide += operations
        if region.attention and model.fused_attention:
            scores += max(_elements(name, shapes) for name in (*node.input, *node.output) if name)
    return (
        wide * model.product
        + SUMS_SHARE * flops / FLOP_PER_US["fp16"]
        + SCORES_SHARE * 2 * (4 + 4) * scores / BYTES_PER_US
    )


def _cost(index: GraphIndex, region: Region, handed: Mapping[str, Readers], shapes: Shapes, model: CostModel) -> float:
    weights = flops = scores = 0.0
    for identity in region.nodes:
        found = index.find(identity)
        if found is None:
            continue
        scope, position = found
        node = scope.nodes[position]
        weights += sum(prod(scope.initializers[name].dims) for name in node.input if name in scope.initializers)
        if is_product(node, PRODUCTS):
            flops += _flops(scope, node, shapes)
            if region.attention and model.fused_attention:
                scores += max(_elements(name, shapes) for name in (*node.input, *node.output) if name)
    stored = fsum(_elements(value, shapes) * (1 + len(readers)) for value, (readers, _) in handed.items())
    # two bytes more an element, written once and read by each; scores, once they leave a fused kernel, four and four
    traffic = 2 * (weights + stored) + 2 * (4 + 4) * scores
    return traffic / BYTES_PER_US + flops * model.product + (2 * LAUNCH_US if scores else 0.0)


def _elements(value: str, shapes: Shapes) -> int:
    return prod(shapes.get(value, (1,)))


def _flops(scope: Scope, node: NodeProto, shapes: Shapes) -> float:
    """Floating point operations: two for each multiply-add."""
    out = _elements(node.output[0], shapes) if node.output else 0
    if row_of(node).product in ("matmul", "einsum"):
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
