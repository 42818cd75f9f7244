"""find_patterns: every recogniser over every scope of a model, in time linear in the model."""

from __future__ import annotations

from collections.abc import Collection

from precision_planner.model import GraphIndex, Model, TypeTable, infer_types
from precision_planner.patterns.match import KINDS, Match
from precision_planner.patterns.native import find_native
from precision_planner.patterns.norms import find_decomposed
from precision_planner.patterns.terms import Terms
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
      Matches in the order of their last nodes, near misses (`proven` is False) among them.

    Raises:
      ValueError: a kind that does not exist.
    """
    wanted = set(KINDS if kinds is None else kinds)
    unknown = wanted - set(KINDS)
    if unknown:
        raise ValueError(f"unknown pattern kind {sorted(unknown)[0]!r}; there are {', '.join(KINDS)}")
    index = index or GraphIndex(model.proto)
    types = types or infer_types(model, index)
    found: list[Match] = []
    for scope in index.scopes:
        view = View(model, index, types, scope)
        terms = Terms(view)
        here = [*find_native(view), *find_decomposed(terms)]
        order = {node_id: at for at, node_id in enumerate(view.ids(set(range(len(scope.nodes)))))}
        here.sort(key=lambda match: (max(order[node] for node in match.nodes), match.kind))
        found += here
    return [match for match in found if match.kind in wanted]
