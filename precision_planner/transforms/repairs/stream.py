"""Which values a rescaling takes along: the connected stream around a value that comes near FP16's limit.

Downstream every reader hands the power on or takes it up (`homogeneity`). Upstream, what a residual sum adds has to
come in the same power: a summand is taken along if its own producer can make it so for nothing, and gets one Mul on
the way in otherwise (a LayerNormalization's result that the attention reads too).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from onnx import NodeProto, TensorProto

from precision_planner.model import Scope
from precision_planner.numerics.formats import FP16
from precision_planner.operators import RESHAPES, carries, is_sum
from precision_planner.transforms.repairs.homogeneity import Treatment, can_take_up, treat
from precision_planner.transforms.repairs.site import Site

__all__ = ["Stream"]

_LARGEST = 200_000
"""Steps after which a stream is given up."""


class Stream:
    """The stream around some values, and how each node that it touches is written.

    Args:
      site: gives the graph and what was measured.
      headroom: what was asked for, as a factor below the largest finite value.
      through: whether products of the stream that are past the limit themselves are taken along too.
    """

    def __init__(self, site: Site, headroom: float, through: bool = True) -> None:
        self.site = site
        self._through = through
        self.scope: Scope = site.scope
        self.treatments: dict[int, Treatment] = {}
        self._limit = FP16.max_finite / headroom
        self._forced: set[str] = set()
        self._offered: dict[str, int] = {}
        self._waiting: list[int] = []
        self._constants: dict[str, str] = {}

    # -- facts ------------------------------------------------------------------------------------------------------

    def degree(self, value: str) -> int:
        """The degree in which a value is offered to its readers."""
        return self._offered.get(value, 0)

    def is_constant(self, value: str) -> bool:
        """Whether it is a float32 constant that nobody can override."""
        return bool(self.constant(value))

    def constant(self, value: str) -> str:
        """The initializer or Constant output that holds a float32 constant, seen through Identity; "" for none."""
        if value not in self._constants:
            self._constants[value] = self._find_constant(value)
        return self._constants[value]

    def number(self, value: str) -> float | None:
        """The number in a constant of one element."""
        return self.site.number(value)

    def is_forced(self, value: str) -> bool:
        """Whether it has to be offered in degree 1."""
        return value in self._forced

    def is_wide(self, value: str) -> bool:
        """Whether it was measured beyond the headroom."""
        return self.amax(value) > self._limit

    def goes_through(self, value: str) -> bool:
        """Whether the result of a product is to be taken along for its own sake."""
        return self._through and self.amax(value) > FP16.max_finite

    def amax(self, value: str) -> float:
        """The largest magnitude measured, 0 where nothing was; a constant is no activation, measured or not."""
        if self.is_constant(value):
            return 0.0
        return self.site.amax.get((self.scope.path, value), 0.0)

    def elem_type(self, value: str) -> int:
        """TensorProto.DataType, FLOAT where it is unknown."""
        return self.site.elem_type(value)

    def _find_constant(self, value: str) -> str:
        if self.scope.is_overridable(value):
            return ""
        if value in self.scope.initializers:
            return value if self.scope.initializers[value].data_type == TensorProto.FLOAT else ""
        node = self.scope.producer_node(value)
        if node is None or node.domain not in ("", "ai.onnx"):
            return ""
        if node.op_type == "Identity":
            return self._find_constant(node.input[0])
        array = self.site.array(value, 0) if node.op_type != "Constant" else self.site.array(value)
        return value if array is not None and array.dtype.name == "float32" else ""

    # -- growth -----------------------------------------------------------------------------------------------------

    def grow(self, seeds: Iterable[str]) -> str:
        """Take along everything that the seeds ask for; the reason why that cannot be done, "" if it can."""
        for seed in seeds:
            if self.elem_type(seed) != TensorProto.FLOAT:
                return f"{seed} is no float32"
            self._force(seed)
        steps = 0
        while self._waiting:
            position = heapq.heappop(self._waiting)
            while self._waiting and self._waiting[0] == position:
                heapq.heappop(self._waiting)
            self._visit(position)
            steps += 1
            if steps > _LARGEST:
                return "the stream has no end"
        return ""

    def held(self) -> list[str]:
        """The values that are offered in degree 1."""
        return [value for value, degree in self._offered.items() if degree == 1]

    def _visit(self, position: int) -> None:
        node = self.scope.nodes[position]
        treatment = treat(node, self)
        self.treatments[position] = treatment
        for slot, degree in treatment.needs.items():
            value = node.input[slot]
            if degree == 1 and not self.degree(value) and self._comes_along(value):
                self._force(value)
        for output, value in enumerate(node.output):
            if value and treatment.offered(output) != self.degree(value):
                self._offer(value, treatment.offered(output))

    def _force(self, value: str) -> None:
        if value in self._forced:
            return
        self._forced.add(value)
        producer = self.scope.producer(value)
        if producer is not None:
            heapq.heappush(self._waiting, producer)
        self._offer(value, 1)

    def _offer(self, value: str, degree: int) -> None:
        self._offered[value] = degree
        for use in self.scope.consumers(value):
            heapq.heappush(self._waiting, use.position)

    def _comes_along(self, value: str) -> bool:
        """Whether a summand is made in the stream's power rather than brought to it by a Mul."""
        node = self.scope.producer_node(value)
        if node is None or self.elem_type(value) != TensorProto.FLOAT or not can_take_up(node, value, self):
            return False
        return self.is_wide(value) or self._is_sum(node) or self._is_read_once(value)

    def _is_read_once(self, value: str) -> bool:
        uses = self.scope.consumers(value)
        return len(uses) == 1 and not self.scope.is_read_elsewhere(value, {uses[0].position})

    def _is_sum(self, node: NodeProto) -> bool:
        """Whether a value is an earlier sum of the same residual stream."""
        for _ in range(16):
            if is_sum(node):
                return sum(not self.is_constant(name) for name in node.input) > 1
            producer = self.scope.producer_node(node.input[0]) if carries(node, 0, RESHAPES) else None
            if producer is None:
                return False
            node = producer
        return False
