"""Writing proven normalizations as one node each.

fuse() takes what `find_patterns` found, raises the opset where that is needed and possible, writes the nodes, drops
what nothing reads any more, and says what became of every match.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from precision_planner.model import GraphIndex, Model
from precision_planner.model.edit import PassResult
from precision_planner.patterns import Match
from precision_planner.transforms.opset import raise_opset
from precision_planner.transforms.write import Writer

DEFAULT_KINDS = ("layer_normalization",)
WRITTEN = ("layer_normalization", "rms_normalization")
"""Kinds that are written as one node here; `transforms.attention` writes attention, and nothing writes the others."""
LAYER_OPSET = 17
RMS_OPSET = 23


@dataclass(frozen=True, slots=True)
class FusionResult(PassResult):
    """What became of the matches.

    Attributes:
      model: rewritten; the model itself where nothing was fused.
      fused: what is one node now.
      rejected: near misses, and what was rolled back, with the reason.
      islands: proven normalizations of the kinds asked for that stay as they are and have to be kept in FP32, with
        the reason.
      names: display name of an old node -> name of the node that took its place.
      replaced: the fused match's index in `fused` -> names of the nodes written for it.
      opset: version of the default domain now.
      verification: {passed, max_abs, reason}; passed is None where nothing could be run.
    """

    fused: tuple[Match, ...] = ()
    rejected: tuple[tuple[Match, str], ...] = ()
    islands: tuple[tuple[Match, str], ...] = ()
    opset: int = 0
    verification: Mapping[str, object] = field(default_factory=dict)


def fuse(
    model: Model,
    matches: Iterable[Match],
    *,
    kinds: Collection[str] = DEFAULT_KINDS,
    channels_first: bool = False,
    opset: int | None = None,
    index: GraphIndex | None = None,
) -> FusionResult:
    """Write every proven normalization of `kinds` as one node.

    Args:
      model: the model that `matches` were found in.
      matches: of `find_patterns`; other kinds and native nodes are passed over.
      kinds: which to write: layer_normalization (LayerNormalization, opset 17) and rms_normalization
        (RMSNormalization, opset 23: only in a model that has it, or with `opset` 23 or more).
      channels_first: fuse over axes that are not trailing, through a pair of Transposes.
      opset: raise the model to at least this version.
      index: of ``model.proto``, where the caller has one.
    """
    wanted: list[Match] = []
    rejected: list[tuple[Match, str]] = []
    islands: list[tuple[Match, str]] = []
    for match in matches:
        if match.kind not in kinds or match.kind not in WRITTEN or match.form != "decomposed":
            continue
        if not match.proven:
            rejected.append((match, match.reason))
            continue
        reason = _refusal(match, model, channels_first, opset)
        if reason:
            islands.append((match, reason))
        else:
            wanted.append(match)
    if not wanted:
        return FusionResult(model, rejected=tuple(rejected), islands=tuple(islands), opset=model.opset)
    needed = max(_needed(match) for match in wanted)
    raised = raise_opset(model, max(needed, opset or 0))
    if raised.reason:
        islands += [(match, raised.reason) for match in wanted]
        return FusionResult(model, rejected=tuple(rejected), islands=tuple(islands), opset=model.opset)
    before = index if index is not None else GraphIndex(model.proto)
    writer = Writer(raised.model, before)
    for match in wanted:
        writer.write(match)
    fused_model, names = writer.finish()
    return FusionResult(fused_model, names, (), tuple(wanted), tuple(rejected), tuple(islands), raised.opset)


def _needed(match: Match) -> int:
    return LAYER_OPSET if match.kind == "layer_normalization" else RMS_OPSET


def _refusal(match: Match, model: Model, channels_first: bool, opset: int | None) -> str:
    """Why a proven match is not written, '' if it is."""
    if match.rewrite is None:
        return match.reason
    if not match.rewrite.trailing and not channels_first:
        return match.reason
    version = max(model.opset, opset or 0)
    if match.kind == "rms_normalization" and version < RMS_OPSET:
        return match.reason or f"RMSNormalization needs opset {RMS_OPSET}, the model has {model.opset}"
    return ""
