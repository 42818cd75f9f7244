"""The repairs by name, and applying many of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from precision_planner.model import GraphIndex, Model, NodeId, infer_types
from precision_planner.transforms.repairs import finite_mask
from precision_planner.transforms.repairs.edit import Edit, Site, apply_edit, touched

if TYPE_CHECKING:
    from precision_planner.patterns import Match

__all__ = ["REPAIRS", "Repair", "RepairRequest", "RepairResult", "apply_repairs"]


@dataclass(frozen=True)
class Repair:
    """One rewrite that keeps what the graph computes in FP32.

    Attributes:
      name: as rules write it.
      kind: the kind of action that it carries out.
      summary: one sentence.
      exact: in which sense the FP32 function is unchanged.
      plan: what is to change, or why nothing is.
      parameters: name -> default; all are numbers.
    """

    name: str
    kind: str
    summary: str
    exact: str
    plan: Callable[[Site], Edit | str]
    parameters: Mapping[str, float] = field(default_factory=dict)


REPAIRS: dict[str, Repair] = {
    repair.name: repair
    for repair in (
        Repair(
            "finite_mask",
            "replace",
            "Replace a mask constant below the limit by a finite one with headroom.",
            "equal for every row that has an unmasked element; rows without one stay finite",
            finite_mask.plan,
            {"value": finite_mask.DEFAULT_MASK},
        ),
    )
}
"""Name -> repair."""


@dataclass(frozen=True)
class RepairRequest:
    """A repair asked for at one place of a model.

    Attributes:
      repair: its name.
      scope: path of the graph.
      nodes: of the action.
      value: the tensor, or "".
      parameters: of the repair.
      match: the pattern, if the repair is of one.
      label: who asks; comes back in the result.
    """

    repair: str
    scope: tuple[str, ...] = ()
    nodes: tuple[NodeId, ...] = ()
    value: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    match: Match | None = None
    label: str = ""


@dataclass(frozen=True)
class RepairResult:
    """What became of the requests.

    Attributes:
      model: the repaired model.
      applied: requests that were carried out.
      refused: (request, why not).
    """

    model: Model
    applied: tuple[RepairRequest, ...]
    refused: tuple[tuple[RepairRequest, str], ...]


def apply_repairs(model: Model, requests: Sequence[RepairRequest]) -> RepairResult:
    """Carry out repairs, those that touch the same nodes one after the other.

    Args:
      model: the FP32 model.
      requests: in order of precedence.

    Raises:
      KeyError: a repair that does not exist.
    """
    applied: list[RepairRequest] = []
    refused: list[tuple[RepairRequest, str]] = []
    waiting = list(requests)
    while waiting:
        index = GraphIndex(model.proto)
        types = infer_types(model, index)
        taken: set[tuple[tuple[str, ...], int]] = set()
        edits: list[Edit] = []
        later: list[RepairRequest] = []
        for request in waiting:
            scope = index.by_path.get(request.scope)
            if scope is None:
                refused.append((request, "its graph is gone"))
                continue
            nodes = tuple(node for node in request.nodes if index.find(node) is not None)
            if request.nodes and not nodes:
                refused.append((request, "its nodes are gone"))
                continue
            site = Site(model, index, types, scope, nodes, request.value, request.parameters, request.match)
            edit = REPAIRS[request.repair].plan(site)
            if isinstance(edit, str):
                refused.append((request, edit))
                continue
            mine = touched(edit)
            constants = {((*edit.path, name), -1) for name in edit.replace}
            if not taken.isdisjoint(mine | constants):
                later.append(request)
                continue
            taken |= mine | constants
            edits.append(edit)
            applied.append(request)
        if edits:
            model = apply_edit(model, index, edits)
        waiting = later
    return RepairResult(model, tuple(applied), tuple(refused))
