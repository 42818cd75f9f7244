"""The float values of a model in topological order, each with the range that it was seen to have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from precision_planner.calibration import SQUARES, ActivationRange
from precision_planner.model import NodeId, display_name
from precision_planner.model.index import Scope
from precision_planner.model.tensors import FLOAT_TYPES
from precision_planner.rules import Evidence
from precision_planner.rules.facts.evidence import RangeLike

__all__ = ["MeasuredValue", "measured_values", "place_of_finding"]


@dataclass(frozen=True, slots=True, repr=False)
class MeasuredValue:
    """A float value of the model.

    Attributes:
      value: its name.
      scope: path of its graph, () for the main one.
      node: display name of the node that makes it, "" for an input of the model.
      op_type: of that node, "" for an input.
      maker: that node, None for an input.
      range: over the calibration batches, None where it was not measured.
      inside: of the squares inside a native normalization that makes it, which no value of the graph holds.
    """

    value: str
    scope: tuple[str, ...]
    node: str
    op_type: str
    maker: NodeId | None = None
    range: RangeLike | None = None
    inside: RangeLike | None = None

    def __repr__(self) -> str:
        return (
            f"<{self.value} of {self.node or 'the inputs'}: |x| {'not measured' if self.amax is None else self.amax}>"
        )

    @property
    def amax(self) -> float | None:
        """The largest magnitude seen, inside its node too; None where nothing was measured."""
        seen = [found.amax for found in (self.range, self.inside) if found is not None]
        return max(seen, default=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; shares are of the elements seen and are FP16's whatever the precision is."""
        data: dict[str, Any] = {
            "value": self.value,
            "scope": "/".join(self.scope),
            "node": self.node,
            "op_type": self.op_type,
            "amax": None if self.range is None else self.range.amax,
            "amin": None if self.range is None else self.range.amin,
        }
        if isinstance(self.range, ActivationRange):
            data |= {name: getattr(self.range, name) for name in ("overflow", "subnormal", "flushed")}
        if self.inside is not None:
            data["inside_amax"] = self.inside.amax
        return data


def measured_values(evidence: Evidence) -> tuple[MeasuredValue, ...]:
    """The model's float inputs and what its nodes compute in floats: the main graph first, bodies after it."""
    index, ranges = evidence.index, evidence.ranges or {}
    constants = {*index.main.initializers, *index.main.sparse_initializers}
    found = [
        MeasuredValue(name, (), "", "", None, ranges.get(((), name)))
        for name in index.main.inputs
        if name not in constants and _is_float(evidence, index.main, name, ranges)
    ]
    for scope, position, node in index.nodes():
        if node.op_type == "Constant":
            continue
        for name in node.output:
            if name and _is_float(evidence, scope, name, ranges):
                found.append(
                    MeasuredValue(
                        value=name,
                        scope=scope.path,
                        node=display_name(node),
                        op_type=node.op_type,
                        maker=index.node_id(scope, position),
                        range=ranges.get((scope.path, name)),
                        inside=ranges.get((scope.path, name + SQUARES)),
                    )
                )
    return tuple(found)


def _is_float(evidence: Evidence, scope: Scope, name: str, ranges: Mapping[Any, RangeLike]) -> bool:
    return (scope.path, name) in ranges or evidence.types.of(scope, name).elem_type in FLOAT_TYPES


def place_of_finding(values: Iterable[tuple[int, MeasuredValue]]) -> int | None:
    """Where along the network a finding stands: the largest of the values that its nodes make.

    Args:
      values: (position, value) of the values that the finding's nodes make.

    Returns:
      A position; None for a finding whose nodes make no float value.
    """
    return max(values, key=lambda item: (item[1].amax or 0.0, -item[0]), default=(None, None))[0]
