"""What the engine is given: the graph, and what was measured on it.

The engine measures nothing. Whoever calls it (the analysis, a rule's case) takes the census and the ranges and
hands them over; what is not handed over is unknown, and a rule that needs it stays undecided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from precision_planner.model import GraphIndex, Model, NodeId, Scope, TypeTable
from precision_planner.numerics.formats import Format, get_format
from precision_planner.targets import DEFAULT_TARGET, get_target

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

    from precision_planner.numerics.stats import TensorStats
    from precision_planner.patterns import Match

__all__ = [
    "DEFAULT_HEADROOM",
    "Evidence",
    "FactSource",
    "RangeLike",
    "Subject",
    "ValueKey",
    "measured_amax",
]

ValueKey: TypeAlias = tuple[tuple[str, ...], str]
"""(scope path, value name)."""
DEFAULT_HEADROOM = 4.0


class RangeLike(Protocol):
    """The range of one activation over the calibration data."""

    @property
    def amax(self) -> float:
        """The largest magnitude."""

    @property
    def amin(self) -> float | None:
        """The smallest magnitude above zero, None if there is none."""

    @property
    def minimum(self) -> float:
        """The smallest value."""

    @property
    def maximum(self) -> float:
        """The largest value."""


class FactSource(Protocol):
    """What the engine reads; `Evidence` is one."""

    @property
    def model(self) -> Model:
        """The FP32 model."""

    @property
    def index(self) -> GraphIndex:
        """Its index."""

    @property
    def types(self) -> TypeTable:
        """Its inferred types."""

    @property
    def matches(self) -> Sequence[Match]:
        """Every pattern found, near misses included."""

    @property
    def census(self) -> Mapping[ValueKey, TensorStats] | None:
        """The weights' statistics; None where no census was taken."""

    @property
    def ranges(self) -> Mapping[ValueKey, RangeLike] | None:
        """The activations' ranges; None without calibration data."""

    def saw(self, scope: tuple[str, ...]) -> bool:
        """Whether anything was measured in a graph."""

    @property
    def synthesized(self) -> bool:
        """Whether the calibration data was made up."""

    @property
    def precision(self) -> str:
        """The low precision."""

    @property
    def target(self) -> str:
        """The build target."""

    @property
    def headroom(self) -> float:
        """How far below the largest finite value an activation must stay, as a factor."""

    @property
    def accumulation(self) -> str | None:
        """Type of the accumulator in GEMM and Conv, None if unknown."""


@dataclass(frozen=True, repr=False)
class Evidence:
    """The graph and what was measured on it.

    Attributes:
      model: the FP32 model.
      index: of `model.proto`.
      types: as inferred.
      matches: every pattern found, near misses included.
      census: (scope path, tensor) -> statistics; None: no census was taken.
      ranges: (scope path, value) -> range in the FP32 model; None: no calibration data.
      unseen: path of a body in which nothing was measured, though there is data -> why.
      synthesized: the calibration data was made up.
      precision: "fp16" or "bf16".
      target: the build target.
      headroom: an activation is near the limit when largest finite / amax is below this.
      accumulation: "fp16" or "fp32", how GEMM and Conv accumulate; by default what the target's file says.
    """

    model: Model
    index: GraphIndex
    types: TypeTable
    matches: Sequence[Match] = ()
    census: Mapping[ValueKey, TensorStats] | None = None
    ranges: Mapping[ValueKey, RangeLike] | None = None
    synthesized: bool = False
    unseen: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    precision: str = "fp16"
    target: str = DEFAULT_TARGET
    headroom: float = DEFAULT_HEADROOM
    accumulation: str | None = None

    def saw(self, scope: tuple[str, ...]) -> bool:
        """Whether anything was measured in a graph: there is data, and on it no body around it was left out."""
        around = (scope[:end] for end in range(1, len(scope) + 1))
        return self.ranges is not None and not any(path in self.unseen for path in around)

    def __repr__(self) -> str:
        measured = "nothing measured" if self.ranges is None else f"{len(self.ranges)} ranges"
        return f"<Evidence of {self.model!r}: {len(self.matches)} patterns, {measured}>"

    def __post_init__(self) -> None:
        if self.accumulation is None:
            object.__setattr__(self, "accumulation", get_target(self.target).sums)


@dataclass(frozen=True, eq=False)
class Subject:
    """One thing a rule looks at.

    Attributes:
      kind: "pattern", "node", "tensor" or "input".
      scope: where it is.
      name: what to call it in messages.
      position: of the node (for a Constant's tensor too), None otherwise.
      node: the node, None for patterns, initializers and inputs.
      match: the match, None but for patterns.
      value: the tensor's or input's name, "" otherwise.
      tensor: the tensor, None otherwise.
      memo: facts already looked up.
    """

    kind: str
    scope: Scope
    name: str
    position: int | None = None
    node: NodeProto | None = None
    match: Match | None = None
    value: str = ""
    tensor: TensorProto | None = None
    memo: dict[str, Any] = field(default_factory=dict, repr=False)

    def node_ids(self, index: GraphIndex) -> tuple[NodeId, ...]:
        """The nodes that the subject is made of; none for a tensor or an input."""
        if self.match is not None:
            return tuple(self.match.nodes)
        if self.kind == "node" and self.position is not None:
            return (index.node_id(self.scope, self.position),)
        return ()


def measured_amax(source: FactSource) -> dict[ValueKey, float]:
    """The largest magnitude of every value that was measured, for the repairs that go by it; empty without data."""
    return {key: float(found.amax) for key, found in (source.ranges or {}).items()}


def format_constants(source: FactSource) -> dict[str, float]:
    """The numbers that a rule may name instead of writing them; see docs/rules/language.md.

    Args:
      source: gives the precision and the headroom.
    """
    fmt: Format = get_format(source.precision)
    return {
        "max_finite": fmt.max_finite,
        "overflow_from": fmt.overflow_from,
        "smallest_normal": fmt.smallest_normal,
        "smallest_subnormal": fmt.smallest_subnormal,
        "flush_until": fmt.flush_until,
        "exact_integers": float(1 << (fmt.fraction_bits + 1)),
        "exp_limit": math.log(fmt.max_finite),
        "angle_limit": math.ldexp(1.0, fmt.fraction_bits - 6),
        "score_limit": math.ldexp(1.0, fmt.fraction_bits),
        "square_limit": math.ldexp(1.0, math.frexp(math.sqrt(fmt.max_finite))[1] - 1),
        "mask_limit": fmt.max_finite / 2,
        "mask_floor": -fmt.max_finite / 2,
        "wanted_headroom": source.headroom,
    }


CONSTANT_DOCS = {
    "max_finite": "largest finite value (FP16: 65504)",
    "overflow_from": "smallest magnitude that rounds to infinity (FP16: 65520)",
    "smallest_normal": "smallest magnitude with a full significand (FP16: 2^-14)",
    "smallest_subnormal": "smallest magnitude above zero (FP16: 2^-24)",
    "flush_until": "largest magnitude that rounds to zero (FP16: 2^-25)",
    "exact_integers": "up to here every integer is exact (FP16: 2048)",
    "exp_limit": "ln of the largest finite value (FP16: 11.09)",
    "angle_limit": "up to here an angle is known to within 2^-8 (FP16: 16, BF16: 2)",
    "score_limit": "from here on the spacing is 1 and more (FP16: 1024, BF16: 128)",
    "square_limit": "the largest power of two whose square leaves headroom for a sum (FP16: 128)",
    "mask_limit": "half of the largest finite value (FP16: 32752): headroom for a score",
    "mask_floor": "its negative (FP16: -32752)",
    "wanted_headroom": "the headroom asked for (`--headroom`, default 4)",
}
"""Name -> meaning, for the documentation and for the loader."""
