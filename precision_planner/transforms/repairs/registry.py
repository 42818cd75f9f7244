"""The repairs by name, and applying many of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from precision_planner.model import GraphIndex, Model, NodeId, infer_types
from precision_planner.model.edit import Edit, PassResult, apply_edits
from precision_planner.numerics.formats import FP16
from precision_planner.transforms.repairs import (
    clamp_cube,
    clamp_infinity,
    constant_rank,
    divide_first,
    finite_mask,
    fold_batch_norm,
    log_softmax,
    raise_epsilon,
    rescale_stream,
    rescale_weight,
    scale_first,
    shift_logsumexp,
    stable_softplus,
)
from precision_planner.transforms.repairs.site import Site

if TYPE_CHECKING:
    from precision_planner.patterns import Match

__all__ = ["OPTIONAL_REPAIRS", "REPAIRS", "Repair", "RepairRequest", "RepairResult", "apply_repairs"]


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
      for_parser: what it cures is a parser's doing, which no simulation of the graph shows: a plan is never tried
        without it.
    """

    name: str
    kind: str
    summary: str
    exact: str
    plan: Callable[[Site], Edit | str]
    parameters: Mapping[str, float] = field(default_factory=dict)
    for_parser: bool = False


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
        Repair(
            "clamp_infinity",
            "clamp",
            "Bring infinite and huge bounds of Min, Max, Clip, Where and Pad to the largest finite FP16 value.",
            "equal as long as no activation there passes 65504, which the rule asks for",
            clamp_infinity.plan,
            {"limit": FP16.max_finite},
        ),
        Repair(
            "clamp_cube",
            "clamp",
            "Clamp what goes into the cube of a tanh GELU to +-10.",
            "equal to the last bit: tanh is 1 there",
            clamp_cube.plan,
            {"limit": 10.0},
        ),
        Repair(
            "scale_first",
            "reorder",
            "Scale a factor of a matrix product before the product.",
            "to the last bit for a power of two, one rounding otherwise",
            scale_first.plan,
        ),
        Repair(
            "stable_softplus",
            "reorder",
            "Write softplus as max(x, 0) + log(1 + exp(-|x|)).",
            "within rounding; finite where exp(x) overflows float32 too",
            stable_softplus.plan,
        ),
        Repair(
            "shift_logsumexp",
            "reorder",
            "Write ReduceLogSumExp as log(sum(exp(x - max))) + max.",
            "within rounding; finite where exp(x) overflows",
            shift_logsumexp.plan,
            for_parser=True,
        ),
        Repair(
            "divide_first",
            "reorder",
            "Divide the summands instead of the sum, or write the two as a mean.",
            "within rounding",
            divide_first.plan,
        ),
        Repair(
            "log_softmax",
            "reorder",
            "Write Log(Softmax(x)) as LogSoftmax(x).",
            "within rounding, and finite where a probability is zero",
            log_softmax.plan,
        ),
        Repair(
            "fold_batch_norm",
            "reorder",
            "Fold BatchNormalization into a Mul and an Add, computed in float64.",
            "within rounding",
            fold_batch_norm.plan,
        ),
        Repair(
            "raise_epsilon",
            "raise_epsilon",
            "Raise an epsilon that FP16 flushes to the smallest value that it holds.",
            "below FP16's rounding where the operand is never near zero, which the rule asks for",
            raise_epsilon.plan,
            {"to": FP16.smallest_subnormal},
        ),
        Repair(
            "rescale_weight",
            "rescale",
            "Scale a tiny weight up by a power of two and its product down.",
            "to the last bit",
            rescale_weight.plan,
        ),
        Repair(
            "rescale_stream",
            "rescale",
            "Hold a stream that comes near the limit multiplied by a power of two; writers and readers make up for it.",
            "to the last bit, but for what float32 holds as a subnormal",
            rescale_stream.plan,
            {"headroom": 4.0, "power": 0.0},
        ),
        Repair(
            "constant_rank",
            "replace",
            "Give a broadcast constant the rank of what it is combined with.",
            "to the last bit",
            constant_rank.plan,
        ),
    )
}
"""Name -> repair."""


OPTIONAL_REPAIRS = frozenset(name for name, repair in REPAIRS.items() if not repair.for_parser)
"""Those that a plan is tried without."""


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
class RepairResult(PassResult):
    """What became of the requests.

    Attributes:
      model: the repaired model.
      applied: requests that were carried out.
      refused: (request, why not).
      notes: what was done, one for each applied request; "" where the repair's name says it all.
    """

    applied: tuple[RepairRequest, ...] = ()
    refused: tuple[tuple[RepairRequest, str], ...] = ()
    notes: tuple[str, ...] = ()


def apply_repairs(
    model: Model,
    requests: Sequence[RepairRequest],
    amax: Mapping[tuple[tuple[str, ...], str], float] | None = None,
) -> RepairResult:
    """Carry out repairs, those that touch the same nodes one after the other.

    Args:
      model: the FP32 model.
      requests: in order of precedence.
      amax: (scope path, value) -> the largest magnitude measured, for repairs that go by it.

    Raises:
      KeyError: a repair that does not exist.
    """
    applied: list[RepairRequest] = []
    refused: list[tuple[RepairRequest, str]] = []
    notes: list[str] = []
    ranges = dict(amax or {})
    waiting = list(requests)
    while waiting:
        index = GraphIndex(model.proto)
        types = infer_types(model, index)
        taken: set[tuple[tuple[str, ...], int]] = set()
        edits: list[Edit] = []
        later: list[RepairRequest] = []
        memo: dict[Any, Any] = {}
        for request in waiting:
            scope = index.by_path.get(request.scope)
            if scope is None:
                refused.append((request, "its graph is gone"))
                continue
            nodes = tuple(node for node in request.nodes if index.find(node) is not None)
            if request.nodes and not nodes:
                refused.append((request, "its nodes are gone"))
                continue
            site = Site(
                model, index, types, scope, nodes, request.value, request.parameters, request.match, ranges, memo
            )
            edit = REPAIRS[request.repair].plan(site)
            if isinstance(edit, str):
                refused.append((request, edit))
                continue
            mine = edit.touched
            constants = {((*edit.path, name), -1) for name in edit.replace}
            if not taken.isdisjoint(mine | constants):
                later.append(request)
                continue
            taken |= mine | constants
            edits.append(edit)
            applied.append(request)
            notes.append(edit.note)
        if edits:
            model = apply_edits(model, edits)
            for edit in edits:
                for name, (value, power) in edit.scaled.items():
                    if (edit.path, value) in ranges:
                        ranges[edit.path, name] = math.ldexp(ranges[edit.path, value], power)
        waiting = later
    return RepairResult(model, notes=tuple(notes), applied=tuple(applied), refused=tuple(refused))
