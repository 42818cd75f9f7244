"""find_patterns: every recogniser over every scope of a model, in time linear in the model."""

from __future__ import annotations

from collections.abc import Collection

from precision_planner.model import GraphIndex, Model, TypeTable, infer_types
from precision_planner.patterns.activations import find_gelu
from precision_planner.patterns.attention import find_attention
from precision_planner.patterns.functions import with_function_types
from precision_planner.patterns.group_norm import find_reshaped
from precision_planner.patterns.match import KINDS, NORMALIZATIONS, Match
from precision_planner.patterns.native import find_native
from precision_planner.patterns.normalization_terms import Terms
from precision_planner.patterns.norms import find_decomposed
from precision_planner.patterns.structures import find_l2, find_residuals, find_rotary
from precision_planner.patterns.view import View


def find_patterns(
    model: Model,
    *,
    index: GraphIndex | None = None,
    types: TypeTable | None = None,
    kinds: Collection[str] | None = None,
) -> list[Match]:
    """Recognise every pattern of a model, in main graph, bodies and local functions.

    Args:
      model: any model.
      index: of ``model.proto``, where the caller has one.
      types: of the model, where the caller has them.
      kinds: the pattern kinds to return; all by default.

    Returns:
      Matches in graph order of what makes their outputs, near misses (`proven` is False) among them.

    Raises:
      ValueError: a kind that does not exist.
    """
    wanted = set(KINDS if kinds is None else kinds)
    unknown = wanted - set(KINDS)
    if unknown:
        raise ValueError(f"unknown pattern kind {sorted(unknown)[0]!r}; there are {', '.join(KINDS)}")
    index = GraphIndex(model.proto) if index is None else index
    types = with_function_types(model, index, infer_types(model, index) if types is None else types)
    found: list[Match] = []
    for scope in index.scopes:
        view = View(model, index, types, scope)
        terms = Terms(view)
        here: list[Match] = []
        if wanted & set(NORMALIZATIONS):
            reshaped, used = find_reshaped(view)
            here += [*find_native(view, used), *find_decomposed(terms), *reshaped]
        if wanted & {"softmax", "attention", "attention_scale"}:
            here += find_attention(view)
        if "gelu" in wanted:
            here += find_gelu(view)
        if "l2_normalization" in wanted:
            here += find_l2(terms)
        if "residual" in wanted:
            here += find_residuals(view)
        if "rotary_embedding" in wanted:
            here += find_rotary(view)
        here.sort(key=lambda match: (scope.producer(match.output) or 0, match.kind))
        found += here
    return [match for match in found if match.kind in wanted]
