"""The result of the assignment: a type for every value, every reading, and every node.

The conversion writes it into the graph; the simulation rounds an FP32 graph by it. Both need nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from precision_planner.model import NodeId
from precision_planner.typing.decisions import KeepAs, Precision, TypingOptions

Key: TypeAlias = "tuple[tuple[str, ...], str]"
"""A value by the path of the scope that holds it (not of one that captures it) and its name."""


@dataclass(frozen=True, slots=True)
class NodeTyping:
    """How one node computes.

    Attributes:
      node: its identity.
      op_type: its operator.
      io: element type of the float inputs and outputs that follow its precision.
      compute: precision of the arithmetic; "fp32" with a low `io` is a normalization kept as `compute`.
      reason: why it is not the plan's low precision ("" where it is).
      rule: the rule that decided it, if one did.
      forced: necessity (operator, opset, shape arithmetic) rather than a decision.
      decided: a `Decision` named this node.
      keep_as: how a kept normalization is kept.
      moves: it only moves values, and took the type of what stands around it.
    """

    node: NodeId
    op_type: str
    io: int
    compute: Precision
    reason: str = ""
    rule: str | None = None
    forced: bool = False
    decided: bool = False
    keep_as: KeepAs | None = None
    moves: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class TypeAssignment:
    """Types for a whole model. All element types are TensorProto.DataType.

    Attributes:
      options: what was asked.
      nodes: every node that reads or makes a float whose type was to be decided.
      storage: (holder scope, value) -> element type it is stored in. Values that were no FLOAT are not in it.
      wide: the element type that all of these have in the input model: FLOAT (DOUBLE for a model in double).
      reads: (node, input slot) -> element type which the node reads there. Where it differs from `storage`, a Cast
        (or for a constant a converted copy) stands on the edge; all readers of one value and type share it.
      returns: (scope path, output position) -> element type that the scope returns.
      inputs: interface name -> element type, where the interface has a float.
      outputs: the same for outputs.
      cast_sources: for the result of every Cast of the model: the element type that it reads in the input model.
      constants: the part of `storage` that is initializers and Constant nodes: converted offline, not cast.
    """

    options: TypingOptions
    nodes: Mapping[NodeId, NodeTyping]
    storage: Mapping[Key, int]
    wide: int
    reads: Mapping[tuple[NodeId, int], int]
    returns: Mapping[tuple[tuple[str, ...], int], int]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    constants: Mapping[Key, int] = field(default_factory=dict)
    cast_sources: Mapping[Key, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<TypeAssignment {self.options.precision}: {len(self.nodes)} nodes, {len(self.kept)} kept in FP32>"

    @property
    def kept(self) -> tuple[NodeTyping, ...]:
        """Every node whose arithmetic is FP32, with its reason."""
        return tuple(node for node in self.nodes.values() if node.compute == "fp32")

    @property
    def reading_wide(self) -> tuple[NodeId, ...]:
        """Nodes that read FP32 because it is there and make no float: a selection (ArgMax), a test (IsNaN), a shape."""
        found = (node for (node, _), element in self.reads.items() if node not in self.nodes and element == self.wide)
        return tuple(dict.fromkeys(found))

    @property
    def converted(self) -> tuple[NodeTyping, ...]:
        """Every node that computes in, or moves, a 16-bit type."""
        return tuple(node for node in self.nodes.values() if node.compute != "fp32")

    @property
    def sums32(self) -> tuple[NodeTyping, ...]:
        """Every product in FP16 whose sum is promised in FP32 (fp16+)."""
        return tuple(node for node in self.nodes.values() if node.compute == "fp16+")

    @property
    def changes_nothing(self) -> bool:
        """Whether the typed graph is the input graph."""
        types = (*self.storage.values(), *self.reads.values(), *self.returns.values())
        return all(element == self.wide for element in types)
