"""The forms of a model of which plans can be made: with the repairs that rules ask for or without, fused or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from precision_planner.model import GraphIndex, Model, NodeId, infer_types
from precision_planner.patterns import find_patterns
from precision_planner.patterns.selecting import select
from precision_planner.planning.decide import Choice, decide
from precision_planner.planning.ground import Ground
from precision_planner.planning.request import Aim, Request, sequence
from precision_planner.rewriting import RewriteResult, rewrite
from precision_planner.rules import Evidence
from precision_planner.transforms.repairs import OPTIONAL_REPAIRS

__all__ = ["Draft", "Variant", "as_given", "draft", "in_types_of", "without_repairs"]

RESCALE = "rescale_stream"


@dataclass(frozen=True)
class Variant:
    """A form of the model.

    Attributes:
      without: repairs that are left out.
      fuse: pattern kinds that become one node.
      options: of `rewrite`.
    """

    without: frozenset[str] = frozenset()
    fuse: tuple[str, ...] = ("layernorm",)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """What the rules make of a variant.

    Attributes:
      variant: the form.
      choice: the repaired model with the rules' decisions.
    """

    variant: Variant
    choice: Choice

    @property
    def repairs(self) -> frozenset[str]:
        """The repairs that were carried out."""
        return frozenset(str(entry["repair"]) for entry in self.choice.repairs)

    def rewritten(self, aim: Aim) -> RewriteResult:
        """The fused model with types, unverified."""
        return rewrite(
            self.choice.model,
            precision=aim.precision,
            refused=aim.target.refused,
            fuse=self.variant.fuse,
            decisions=self.choice.decisions,
            verify=False,
            safe=False,
            **self.variant.options,
        )


def draft(ground: Ground, request: Request, variant: Variant, measured: Evidence | None = None) -> Draft:
    """Ask the rules about a variant.

    Args:
      ground: the model and its data.
      request: what is asked.
      variant: the form.
      measured: evidence about the model that another draft has.
    """
    asked, aim = request.rules, request.aim
    calibrate = request.calibrate and not ground.obstacle
    choice = decide(
        ground.model,
        ground.data if calibrate else None,
        precision=aim.precision,
        target=aim.target.name,
        headroom=asked.headroom,
        policy=asked.policy,
        rules=asked.folders,
        only=asked.only,
        disable=asked.disable,
        fuse=variant.fuse,
        without=tuple(sorted({*asked.without, *aim.target.avoid, *variant.without})),
        untouched=kept_by_user(ground.model, request.rewriting),
        measured=measured,
    )
    return Draft(variant, choice)


def kept_by_user(model: Model, options: Mapping[str, Any]) -> frozenset[NodeId]:
    """The nodes of whose precision the user said that it is to be high."""
    keep = (*sequence(options.get("keep_fp32")), *sequence(options.get("keep_bf16")))
    low = sequence(options.get("only_low"))
    if not keep and not low:
        return frozenset()
    index = GraphIndex(model.proto)
    matches = find_patterns(model, index=index, types=infer_types(model, index))
    kept = select(model, keep, index=index, matches=matches)
    if low:
        named = select(model, low, index=index, matches=matches)
        kept |= {index.node_id(scope, position) for scope, position, _ in index.nodes()} - named
    return frozenset(kept)


def without_repairs(drafted: Draft) -> list[Variant]:
    """The variants that leave out repairs of a draft: all that may be, and the rescaling alone where there is more."""
    if not drafted.repairs & OPTIONAL_REPAIRS:
        return []
    variant = drafted.variant
    found = [replace(variant, without=variant.without | OPTIONAL_REPAIRS)]
    if RESCALE in drafted.repairs and len(drafted.repairs) > 1:
        found.insert(0, replace(variant, without=variant.without | {RESCALE}))
    return found


def as_given(variant: Variant) -> Variant:
    """The model as it is: nothing repaired, nothing fused."""
    return replace(variant, without=variant.without | OPTIONAL_REPAIRS, fuse=())


def in_types_of(drafted: Draft, other: Draft) -> Draft:
    """Another draft with the decisions of a first one, as far as they are about nodes that it has."""
    index = GraphIndex(other.choice.model.proto)
    kept = {node: decision for node, decision in drafted.choice.decisions.items() if index.find(node) is not None}
    return replace(other, choice=replace(other.choice, decisions=kept))
