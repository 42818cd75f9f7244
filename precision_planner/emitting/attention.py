"""Fused attention kernels of a plan against plain FP16, and which region of the plan cost one.

TensorRT-RTX names its kernels on a CPU, so the three builds (plain, planned, planned without one region) need no GPU.
FP32 softmax, mask addition and clipping keep an attention fused; FP32 QK^T or PV lose it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from precision_planner.emitting.rtx import Profile, RtxResult, rtx_build
from precision_planner.emitting.widen import widen
from precision_planner.engines.kernels import Kernel
from precision_planner.errors import PlannerError
from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.plans.plan import PlannedNode, PrecisionPlan
from precision_planner.rewriting import rewrite
from precision_planner.typing import Decision

MOST_BUILDS = 8
"""Regions tried one by one; a transformer's layers are alike, so more teaches nothing."""


@dataclass(frozen=True, slots=True)
class RegionCost:
    """A region of the plan that costs fused attention.

    Attributes:
      nodes: its nodes, all kept in FP32 by the plan.
      reason: why the plan keeps them.
      kernels: fused attention kernels that come back when the region is FP16.
    """

    nodes: tuple[str, ...]
    reason: str
    kernels: int


@dataclass(frozen=True, slots=True)
class AttentionReport:
    """Fused attention of a plan against plain FP16.

    Attributes:
      planned: fused attention kernels of the plan's model.
      plain: those of the same model with everything in the low precision; None where that could not be built.
      costs: the regions that cost one, the dearest first.
      untried: regions near a lost attention that were not tried.
      reason: why there is no comparison, or what the costs do not explain; '' otherwise.
    """

    planned: int
    plain: int | None
    costs: tuple[RegionCost, ...] = ()
    untried: int = 0
    reason: str = ""

    @property
    def lost(self) -> int:
        """How many fused attention kernels the plan costs."""
        return 0 if self.plain is None else max(0, self.plain - self.planned)


def attention_report(model: Model, plan: PrecisionPlan, kernels: Sequence[Kernel]) -> AttentionReport:
    """Compare a typed model's kernels with plain FP16's.

    Args:
      model: the plan's typed model.
      plan: its decisions.
      kernels: those of the engine that TensorRT-RTX built of it.
    """
    planned = sum(kernel.is_fused_attention for kernel in kernels)
    profiles = {name: (p.min, p.opt, p.max) for name, p in plan.profiles.items()}
    try:
        wide = widen(model)
        plain = _build(wide, plan, {}, profiles)
    except PlannerError as error:
        return AttentionReport(planned, None, reason=f"plain {plan.precision} cannot be made of this model: {error}")
    if not plain.ok or plain.kernels is None:
        message = plain.errors[0].message if plain.errors else "no kernels were listed"
        return AttentionReport(planned, None, reason=f"plain {plan.precision} does not build: {message}")
    if plain.fused_attention <= planned:
        return AttentionReport(planned, plain.fused_attention)
    costs, untried = _costs(wide, plan, kernels, plain.kernels, profiles, planned)
    reason = "" if costs else "no single region brings one back: several together cost it, or the builder chose so"
    return AttentionReport(planned, plain.fused_attention, tuple(costs), untried, reason)


def _costs(
    wide: Model,
    plan: PrecisionPlan,
    kernels: Sequence[Kernel],
    plain: Sequence[Kernel],
    profiles: Mapping[str, Profile],
    planned: int,
) -> tuple[list[RegionCost], int]:
    index = GraphIndex(wide.proto)
    kept = kept_nodes(index, plan)
    fused = {node for kernel in kernels if kernel.is_fused_attention for node in kernel.nodes}
    lost = [set(kernel.nodes) for kernel in plain if kernel.is_fused_attention and not set(kernel.nodes) & fused]
    near = [region for region in regions(index, kept) if any(_touches(index, region, nodes) for nodes in lost)]
    costs = []
    for region in near[:MOST_BUILDS]:
        decisions = {node: decision(kept[node]) for node in kept if node not in region}
        result = _build(wide, plan, decisions, profiles)
        gained = result.fused_attention - planned if result.ok else 0
        if gained > 0:
            names = tuple(index.display(node) for node in sorted(region))
            costs.append(RegionCost(names, kept[min(region)].reason, gained))
    return sorted(costs, key=lambda cost: -cost.kernels), max(0, len(near) - MOST_BUILDS)


def _build(
    wide: Model, plan: PrecisionPlan, decisions: Mapping[NodeId, Decision], profiles: Mapping[str, Profile]
) -> RtxResult:
    result = rewrite(wide, precision=plan.precision, fuse=(), decisions=decisions, verify=False, safe=False)
    return rtx_build(result.typed, profiles)


def kept_nodes(index: GraphIndex, plan: PrecisionPlan) -> dict[NodeId, PlannedNode]:
    """The nodes of a model that the plan keeps in FP32, inputs and outputs too; by name, else by output."""
    named = {
        (scope.path, node.name): index.node_id(scope, position) for scope, position, node in index.nodes() if node.name
    }
    found = {}
    for node in plan.kept:
        if node.keep_as == "compute":
            continue
        identity = named.get((node.scope, node.node), NodeId(node.scope, node.output))
        if index.find(identity) is not None:
            found[identity] = node
    return found


def decision(node: PlannedNode) -> Decision:
    """What the plan decided about a node."""
    keep_as = node.keep_as if node.keep_as in ("compute", "island") else None
    return Decision("fp32", node.reason, node.rule, keep_as, dict(node.evidence))  # type: ignore[arg-type]


def regions(index: GraphIndex, nodes: Iterable[NodeId]) -> list[set[NodeId]]:
    """Groups of nodes that hand values to each other, in the order of the graph."""
    wanted = dict.fromkeys(nodes)
    groups: dict[NodeId, set[NodeId]] = {}
    for node in wanted:
        group = {node}
        for other in _neighbors(index, node):
            if other in groups:
                group |= groups[other]
        for member in group:
            groups[member] = group
    unique = {id(group): group for group in groups.values()}
    return list(unique.values())


def _neighbors(index: GraphIndex, node: NodeId) -> set[NodeId]:
    """The nodes of the same scope that make what a node reads or read what it makes."""
    found = index.find(node)
    if found is None:
        return set()
    scope, position = found
    proto = scope.nodes[position]
    makers = {scope.producer(name) for name in proto.input if name}
    readers = {use.position for name in proto.output if name for use in scope.consumers(name)}
    return {index.node_id(scope, other) for other in (makers | readers) - {None} if other is not None}


def _touches(index: GraphIndex, region: set[NodeId], names: set[str]) -> bool:
    """Whether a region holds one of the named nodes, or stands beside one."""
    around = {other for node in region for other in _neighbors(index, node)}
    for node in region | around:
        found = index.find(node)
        if found is None:
            continue
        name = found[0].nodes[found[1]].name
        if (name or f"node_of_{node.output}") in names:
            return True
    return False
