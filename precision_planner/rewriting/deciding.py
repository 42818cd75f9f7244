"""What was decided about the nodes of a model before types are given: by the caller, by selectors, by fusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from precision_planner.errors import ConversionError, SelectorError
from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.operators import RESHAPES, carries, moves_values, row_of
from precision_planner.patterns import Match
from precision_planner.patterns.selecting import Selector
from precision_planner.rewriting.options import Options
from precision_planner.transforms import FusionResult
from precision_planner.typing import Decision, KeepAs, TypeAssignment
from precision_planner.typing.decisions import sums_are_promised
from precision_planner.typing.elements import find_elements

__all__ = ["asked_for", "carry", "check_converted"]


def asked_for(model: Model, index: GraphIndex, matches: Sequence[Match], options: Options) -> dict[NodeId, Decision]:
    """The decisions that came with the call, and those of its selectors, which win.

    Args:
      model: before fusion.
      index: of `model.proto`.
      matches: of the patterns that selectors name.
      options: of the rewrite.

    Raises:
      SelectorError: a selector matches nothing.
    """
    found = dict(options.decisions)
    selector = Selector(model, index, matches)
    if options.only_low:
        found.update(_only(index, selector.select(*options.only_low), options))
    for identity in _summing(index, selector, options):
        reason = f"selected by --keep-sum32 {','.join(options.keep_sum32)}"
        found[identity] = Decision("fp16+", reason, binding=True)
    for identity in selector.select(*options.keep_bf16):
        found[identity] = Decision("bf16", f"selected by --keep-bf16 {','.join(options.keep_bf16)}", binding=True)
    for wanted in options.keep_fp32:
        reason = f"selected by --keep-fp32 {wanted}"
        for identity in selector.select(wanted):
            found[identity] = Decision("fp32", reason, keep_as=options.keep_as, binding=True)
    return found


def _only(index: GraphIndex, chosen: frozenset[NodeId] | set[NodeId], options: Options) -> dict[NodeId, Decision]:
    found: dict[NodeId, Decision] = {}
    for scope, position, node in index.nodes():
        identity = index.node_id(scope, position)
        if identity in chosen:
            if options.low is not None:
                found[identity] = Decision(options.low, "named by --only-low", binding=True)
        elif not moves_values(node) and not row_of(node).generates and node.op_type != "Constant":
            found[identity] = Decision("fp32", "not named by --only-low", keep_as=options.keep_as, binding=True)
    return found


def _summing(index: GraphIndex, selector: Selector, options: Options) -> list[NodeId]:
    """The products that --keep-sum32 names; an error where it names none."""
    if not options.keep_sum32:
        return []
    places = ((identity, index.find(identity)) for identity in selector.select(*options.keep_sum32))
    found = [i for i, at in places if at is not None and sums_are_promised(at[0].nodes[at[1]])]
    if not found:
        raise SelectorError(
            f"--keep-sum32 {','.join(options.keep_sum32)} names no product: sums are promised for "
            "MatMul, Gemm, Conv and ConvTranspose"
        )
    if options.precision != "fp16":
        raise ConversionError(f"--keep-sum32 is for --precision fp16; products in {options.precision} sum in FP32")
    return found


def carry(
    decisions: Mapping[NodeId, Decision], fusion: FusionResult, before: GraphIndex, keep_as: KeepAs | None
) -> dict[NodeId, Decision]:
    """Decisions about the nodes of the fused model: a fused node inherits from what it replaced."""
    carried = dict(decisions)
    after = GraphIndex(fusion.model.proto)
    by_output = {
        (scope.path, name): after.node_id(scope, p) for scope, p, node in after.nodes() for name in node.output
    }
    for match in fusion.fused:
        found = [decisions[node] for node in match.nodes if node in decisions]
        target = by_output.get((match.scope, match.output))
        if found and target is not None:
            strongest = next((d for d in found if d.precision == "fp32"), found[0])
            for name in _written(fusion, match, target, before, after):
                carried[name] = strongest
    for match, reason in fusion.islands:
        for node in match.nodes:
            carried.setdefault(
                node, Decision("fp32", f"{match.kind} not fused: {reason}", keep_as=keep_as, binding=True)
            )
    return carried


def _written(fusion: FusionResult, match: Match, target: NodeId, before: GraphIndex, after: GraphIndex) -> set[NodeId]:
    """The nodes that stand where a match stood: what the names map to, and what makes its output."""
    names = {fusion.names.get(before.display(node), "") for node in match.nodes} - {""}
    written = {target}
    scope = after.by_path.get(match.scope)
    if scope is not None:
        written |= {after.node_id(scope, at) for at, node in enumerate(scope.nodes) if node.name in names}
    return written


def check_converted(source: Model, assignment: TypeAssignment, *, asked: bool) -> None:
    """Nothing converted is an error, unless the user kept everything or the model was low before.

    Args:
      source: before fusion.
      assignment: the types.
      asked: whether the caller decided about nodes.

    Raises:
      ConversionError: nothing was, with the reason that most nodes have.
    """
    kept = assignment.kept
    if assignment.converted or _is_low_already(source, assignment.options.low):
        return
    decided = any(node.decided for node in kept) and all(node.decided or node.forced or node.moves for node in kept)
    if asked and decided:
        return
    precision = assignment.options.precision
    if not kept:
        raise ConversionError(
            f"nothing was converted to {precision}: the model computes nothing in FP32; "
            "check that this is the model you mean"
        )
    reasons: dict[str, int] = {}
    for node in kept:
        reasons[node.reason] = reasons.get(node.reason, 0) + 1
    most = max(reasons, key=lambda reason: reasons[reason])
    raise ConversionError(
        f"nothing was converted to {precision}: {len(kept)} nodes stay FP32, {reasons[most]} of them because: "
        f"{most}; keep fewer nodes, or leave the model as it is"
    )


def _is_low_already(model: Model, element: int) -> bool:
    """Whether a model computes in the low type as it comes."""
    index = GraphIndex(model.proto)
    elements = find_elements(model, index)
    return any(
        node.op_type != "Constant"
        and not carries(node, 0, RESHAPES)
        and any(elements.of(index, scope, output).elem_type == element for output in node.output)
        for scope, _, node in index.nodes()
    )
