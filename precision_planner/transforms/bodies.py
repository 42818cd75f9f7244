"""Judging a fusion inside a body or a local function, where its values cannot be fetched from a run.

The matched nodes become a model of their own, which is fused again and run before and after on made-up values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precision_planner.errors import MissingExtraError
from precision_planner.model import GraphIndex, Model, infer_types, numpy_dtype
from precision_planner.patterns import Match, find_patterns
from precision_planner.patterns.functions import with_function_types
from precision_planner.transforms.float64_judgement import judge
from precision_planner.transforms.fuse import fuse
from precision_planner.transforms.isolate import isolate


def judge_isolated(model: Model, fused: Sequence[Match]) -> tuple[dict[int, str], dict[int, str]]:
    """(index of a fused match outside the main graph -> why it has to be rolled back, the same -> why it is unchecked).

    Args:
      model: the model in which the matches were found.
      fused: the matches; those of the main graph are passed over.
    """
    inner = [(at, match) for at, match in enumerate(fused) if match.scope]
    if not inner:
        return {}, {}
    index = GraphIndex(model.proto)
    types = with_function_types(model, index, infer_types(model, index))
    worse: dict[int, str] = {}
    unchecked: dict[int, str] = {}
    for at, match in inner:
        scope = index.by_path[match.scope]
        alone = isolate(model, index, types, scope, match)
        matches = [m for m in find_patterns(alone, kinds=[match.kind]) if m.fusable or m.rewrite is not None]
        result = fuse(alone, matches, kinds=[match.kind], channels_first=True, opset=model.opset)
        if not result.fused:
            unchecked[at] = "its nodes are no such pattern by themselves"
            continue
        try:
            judgement = judge(alone, result.model, result.fused, _feeds(alone))
        except MissingExtraError as error:
            return {}, dict.fromkeys((number for number, _ in inner), str(error))
        if judgement.worse:
            worse[at] = judgement.reason
        elif judgement.passed is None:
            unchecked[at] = judgement.reason
    return worse, unchecked


def _feeds(model: Model) -> dict[str, np.ndarray]:
    """Normal values of mean 0.5, which a normalization without its mean would get wrong."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.proto.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = rng.normal(0.5, 1.5, shape)
        feeds[value.name] = array.astype(numpy_dtype(value.type.tensor_type.elem_type))
    return feeds
