"""What a recogniser returns: one `Match` for each subgraph it recognised, or nearly recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from precision_planner.model import NodeId

NORMALIZATIONS = (
    "layer_normalization",
    "rms_normalization",
    "group_normalization",
    "instance_normalization",
    "batch_normalization",
    "mean_variance_normalization",
)
"""Pattern kinds that are normalizations."""

STRUCTURES = (
    "softmax",
    "attention",
    "attention_scale",
    "residual",
    "gelu",
    "l2_normalization",
    "rotary_embedding",
)
"""Pattern kinds that rules use and nothing rewrites."""

KINDS = NORMALIZATIONS + STRUCTURES
"""Every pattern kind."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A scale or bias that a fused node takes.

    Attributes:
      value: the name of what is read; its elements in C order are those of the operand.
      dims: the shape the fused node needs: the sizes of the normalized axes.
      reshape: whether `value` has another shape (leading or trailing ones) than `dims`.
    """

    value: str
    dims: tuple[int, ...]
    reshape: bool


@dataclass(frozen=True, slots=True)
class NormRewrite:
    """How a proven normalization is written as one node; all conditions hold when this exists.

    Attributes:
      op_type: LayerNormalization or RMSNormalization.
      x: the value to normalize, in the type of the fused node.
      elem_type: TensorProto.DataType of x, scale, bias and the output; 0 where a function leaves it open.
      axes: the normalized axes, negative, ascending.
      dims: their sizes, None where unknown (then `scale` is given).
      scale: None means ones.
      bias: None means none.
      epsilon: exact in float32.
      scale_behind: a factor that stays a Mul behind the fused node ('' for none).
      bias_behind: a summand that stays an Add behind it ('' for none).
      rank: number of axes of x, None if unknown (then `axes` are the trailing ones).
    """

    op_type: str
    x: str
    elem_type: int
    axes: tuple[int, ...]
    dims: tuple[int | None, ...]
    scale: Operand | None
    bias: Operand | None
    epsilon: float
    scale_behind: str = ""
    bias_behind: str = ""
    rank: int | None = None

    @property
    def trailing(self) -> bool:
        """Whether the normalized axes are the last ones, so that no Transpose is needed."""
        return self.axes == tuple(range(-len(self.axes), 0))


@dataclass(frozen=True, slots=True)
class Match:
    """One recognised subgraph, or a near miss.

    Attributes:
      kind: one of `KINDS`.
      form: 'native' (the op itself) or 'decomposed'.
      scope: path of the scope that holds the nodes.
      nodes: the nodes it consists of, in graph order, the last one makes `output`; constants are not among them.
      inputs: role -> value ('' if absent); normalizations have x, scale, bias.
      output: the value it computes.
      outputs: every value it computes, where there are several.
      attributes: axes, epsilon, stash_type, ...: what the kind has.
      proven: the subgraph computes what `kind` says. False for a near miss, whose `reason` says what differs.
      fusable: every condition of the rewrite holds as well.
      reason: why it is no such pattern, or why it is not rewritten: the condition and the value found; '' for a
        fusable match, a native node or a structural match.
      rewrite: how it is rewritten, for `precision_planner.transforms.fuse`.
    """

    kind: str
    form: str
    scope: tuple[str, ...]
    nodes: tuple[NodeId, ...]
    inputs: Mapping[str, str]
    output: str
    outputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    proven: bool = True
    fusable: bool = False
    reason: str = ""
    rewrite: NormRewrite | None = field(default=None, repr=False)

    @property
    def anchor(self) -> NodeId:
        """The node that makes the output: what to call the match."""
        return self.nodes[-1]
