"""fuse, judge, roll back: what a caller that has no reason to do otherwise should use."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from precision_planner.errors import PlannerError
from precision_planner.model import GraphIndex, Model
from precision_planner.model.synthesis import synthesise
from precision_planner.patterns import Match
from precision_planner.transforms.bodies import judge_isolated
from precision_planner.transforms.float64_judgement import Judgement, judge, not_checked
from precision_planner.transforms.fuse import DEFAULT_KINDS, FusionResult, fuse

Batches = Iterable[Mapping[str, np.ndarray]]


def fuse_verified(
    model: Model,
    matches: Iterable[Match],
    *,
    kinds: Collection[str] = DEFAULT_KINDS,
    channels_first: bool = False,
    opset: int | None = None,
    inputs: Batches | None = None,
    verify: bool = True,
    index: GraphIndex | None = None,
) -> FusionResult:
    """Fuse what is proven, run before and after, and take back every fusion that made things worse.

    Args:
      model: the model that `matches` were found in.
      matches: of `find_patterns`.
      kinds: which to write.
      channels_first: fuse over axes that are not trailing, too.
      opset: raise the model to at least this version.
      inputs: batches to run on, the first is used; None makes them up.
      verify: False skips the runs; the proof by structure stands alone.
      index: of ``model.proto``, where the caller has one.

    Returns:
      As `fuse`, with `verification` filled in; what was taken back is in `rejected`, with the two errors.
    """
    chosen = list(matches)
    result = fuse(model, chosen, kinds=kinds, channels_first=channels_first, opset=opset, index=index)
    if not result.fused:
        return replace(result, verification=Judgement(True, 0.0, "nothing was fused").to_dict())
    if not verify:
        return replace(result, verification=Judgement(None, None, "switched off").to_dict())
    try:
        feeds = next(iter(synthesise(model) if inputs is None else inputs), None)
    except PlannerError as error:
        feeds, why = None, str(error)
    else:
        why = "there are no inputs to run on"
    judgement = Judgement(None, None, why) if feeds is None else judge(model, result.model, result.fused, feeds)
    in_bodies, unseen = judge_isolated(model, result.fused)
    worse = {**judgement.worse, **in_bodies}
    if not worse:
        if unseen and judgement.passed:
            text = not_checked(result.fused, {**judgement.unchecked, **unseen})
            judgement = replace(judgement, passed=None, reason=text)
        return replace(result, verification=judgement.to_dict())
    rolled = [(result.fused[at], f"rolled back: {reason}") for at, reason in sorted(worse.items())]
    back = {match.anchor for match, _ in rolled}
    kept = [match for match in chosen if match.anchor not in back or match.kind not in kinds]
    again = fuse(model, kept, kinds=kinds, channels_first=channels_first, opset=opset, index=index)
    if feeds is not None and again.fused and judgement.passed is False:
        judgement = judge(model, again.model, again.fused, feeds)
        if judgement.worse:  # not a single fusion to blame: take everything back
            rolled += [(match, f"rolled back: {judgement.reason}") for match in again.fused]
            again = replace(again, model=model, fused=(), names={}, opset=model.opset)
            judgement = Judgement(True, 0.0, judgement.reason)
    elif not again.fused:
        judgement = Judgement(True, 0.0, "every fusion was rolled back")
    return replace(again, rejected=(*again.rejected, *rolled), verification=judgement.to_dict())
