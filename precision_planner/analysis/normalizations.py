"""The normalizations of a model as users name them: node names, axes, epsilon, and why one is not fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from precision_planner.judging.metrics import json_number
from precision_planner.model import GraphIndex
from precision_planner.patterns import NORMALIZATIONS, Match

__all__ = ["Normalization", "normalizations_of"]


@dataclass(frozen=True, slots=True, repr=False)
class Normalization:
    """One normalization, or a near miss.

    Attributes:
      kind: pattern kind, as in `precision_planner.patterns.NORMALIZATIONS`.
      form: "native" or "decomposed".
      name: what to call it: the node that makes its output.
      nodes: display names of its nodes, in graph order.
      scope: path of its graph.
      input: the value it normalizes.
      output: the value it makes.
      axes: the normalized axes; () where the kind has none or they are unknown.
      epsilon: None where the kind has none.
      scale: the value it is multiplied with, "" for none.
      bias: the value added, "" for none.
      fusable: every condition of the rewrite into one node holds.
      reason: why it is not fused, or not one; "" otherwise.
      proven: False for a near miss.
    """

    kind: str
    form: str
    name: str
    nodes: tuple[str, ...]
    scope: tuple[str, ...]
    input: str
    output: str
    axes: tuple[int, ...]
    epsilon: float | None
    scale: str
    bias: str
    fusable: bool
    reason: str
    proven: bool

    def __repr__(self) -> str:
        return f"<{self.form} {self.kind} {self.name}{f': {self.reason}' if self.reason else ''}>"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "kind": self.kind,
            "form": self.form,
            "name": self.name,
            "nodes": list(self.nodes),
            "scope": "/".join(self.scope),
            "input": self.input,
            "output": self.output,
            "axes": list(self.axes),
            "epsilon": json_number(self.epsilon),
            "scale": self.scale,
            "bias": self.bias,
            "fusable": self.fusable,
            "reason": self.reason,
        }


def normalizations_of(matches: Sequence[Match], index: GraphIndex) -> list[Normalization]:
    """The normalizations among the matches, near misses included, in graph order."""
    return [_normalization(match, index) for match in matches if match.kind in NORMALIZATIONS]


def _normalization(match: Match, index: GraphIndex) -> Normalization:
    epsilon = match.attributes.get("epsilon")
    return Normalization(
        kind=match.kind,
        form=match.form,
        name=index.display(match.anchor),
        nodes=tuple(index.display(node) for node in match.nodes),
        scope=match.scope,
        input=match.inputs.get("x", ""),
        output=match.output,
        axes=tuple(int(axis) for axis in match.attributes.get("axes", ())),
        epsilon=None if epsilon is None else float(epsilon),
        scale=match.inputs.get("scale", ""),
        bias=match.inputs.get("bias", ""),
        fusable=match.fusable,
        reason=match.reason,
        proven=match.proven,
    )
