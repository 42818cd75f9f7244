"""The SEL grammar of the command line: which nodes a user means.

A selector is comma-separated; each part is, in this order: a category (a tag of the rules, or a pattern kind), an op
type, a glob on the display names of the input model's nodes (`*` and `?`; `[` is literal). `re:PATTERN` is a regular
expression on the names (searched, not anchored) and takes the whole argument, commas included. What matches nothing is
an error that suggests the nearest names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from precision_planner.errors import SelectorError
from precision_planner.model import GraphIndex, Model, NodeId, display_name
from precision_planner.rules.facts.subjects import glob_matches

if TYPE_CHECKING:
    from precision_planner.patterns import Match
    from precision_planner.rules import RuleBook

__all__ = ["CATEGORIES", "categories", "pattern_kinds", "select", "select_all", "split_selector"]

CATEGORIES: dict[str, tuple[str, ...]] = {
    "layernorm": ("layer_normalization",),
    "rmsnorm": ("rms_normalization",),
    "groupnorm": ("group_normalization",),
    "instancenorm": ("instance_normalization",),
    "batchnorm": ("batch_normalization",),
    "normalization": (
        "layer_normalization", "rms_normalization", "group_normalization", "instance_normalization",
        "batch_normalization", "mean_variance_normalization", "l2_normalization",
    ),
    "l2norm": ("l2_normalization",),
    "softmax": ("softmax",),
    "attention": ("attention",),
    "residual": ("residual",),
    "gelu": ("gelu",),
    "rope": ("rotary_embedding",),
}  # fmt: skip
"""Category -> the pattern kinds that it covers; tags of rules are categories too."""

_CATEGORY_OPS: dict[str, tuple[str, ...]] = {
    "softmax": ("Softmax", "LogSoftmax"),
    "layernorm": ("LayerNormalization",),
    "rmsnorm": ("RMSNormalization", "SimplifiedLayerNormalization"),
    "groupnorm": ("GroupNormalization",),
    "instancenorm": ("InstanceNormalization",),
    "batchnorm": ("BatchNormalization",),
    "l2norm": ("LpNormalization", "ReduceL2"),
    "gelu": ("Gelu",),
    "rope": ("RotaryEmbedding",),
    "attention": ("Attention", "MultiHeadAttention", "GroupQueryAttention"),
}
"""Category -> op types that belong to it whatever the pattern finder says."""


def pattern_kinds(names: Iterable[str]) -> tuple[str, ...]:
    """The pattern kinds that kinds and categories name, each once; SelectorError for an unknown one."""
    kinds: list[str] = []
    known = {kind for family in CATEGORIES.values() for kind in family}
    for name in names:
        found = (name,) if name in known else CATEGORIES.get(name, ())
        if not found:
            raise SelectorError(f"pattern kind {name!r} is unknown; use one of {', '.join(sorted(CATEGORIES))}")
        kinds += [kind for kind in found if kind not in kinds]
    return tuple(kinds)


def categories(rulebook: RuleBook | None = None) -> tuple[str, ...]:
    """Every category, sorted: pattern families, and the tags of a rule book."""
    return tuple(sorted({*CATEGORIES, *(rulebook.tags if rulebook is not None else ())}))


def split_selector(selector: str) -> list[str]:
    """The parts of a selector; `re:` takes it whole.

    Raises:
      SelectorError: it is empty, or has an empty part.
    """
    if selector.startswith("re:"):
        return [selector]
    parts = [part.strip() for part in selector.split(",")]
    if not all(parts):
        raise SelectorError(f"the selector {selector!r} has an empty part; give names separated by single commas")
    return parts


def select(
    model: Model,
    index: GraphIndex,
    matches: Sequence[Match],
    rulebook: RuleBook | None,
    selector: str,
) -> set[NodeId]:
    """The nodes that a selector means.

    Args:
      model: the input model (names are matched as they are there).
      index: of `model.proto`.
      matches: its patterns.
      rulebook: whose tags are categories; None for the pattern families alone.
      selector: see the module.

    Raises:
      SelectorError: a part matches nothing, or is no regular expression.
    """
    chosen: set[NodeId] = set()
    for part in split_selector(selector):
        found = _select_part(model, index, matches, rulebook, part)
        if not found:
            raise SelectorError(_nothing(model, index, rulebook, part))
        chosen |= found
    return chosen


def select_all(
    model: Model,
    index: GraphIndex,
    matches: Sequence[Match],
    rulebook: RuleBook | None,
    selectors: Iterable[str],
) -> set[NodeId]:
    """The union of several selectors."""
    return set().union(*(select(model, index, matches, rulebook, selector) for selector in selectors))


def _select_part(
    model: Model, index: GraphIndex, matches: Sequence[Match], rulebook: RuleBook | None, part: str
) -> set[NodeId]:
    if part.startswith("re:"):
        return _by_pattern(index, part.removeprefix("re:"))
    if part in categories(rulebook) or part in {kind for kinds in CATEGORIES.values() for kind in kinds}:
        return _by_category(model, index, matches, rulebook, part)
    nodes = [(index.node_id(scope, position), node) for scope, position, node in index.nodes()]
    by_type = {node_id for node_id, node in nodes if node.op_type == part}
    if by_type:
        return by_type
    return {node_id for node_id, node in nodes if glob_matches(display_name(node), part)}


def _by_pattern(index: GraphIndex, pattern: str) -> set[NodeId]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SelectorError(f"re:{pattern} is no regular expression: {error}; escape what is meant literally") from None
    if not pattern:
        raise SelectorError("re: needs a regular expression behind it, as in re:layer\\.[0-3]/")
    return {
        index.node_id(scope, position) for scope, position, node in index.nodes() if compiled.search(display_name(node))
    }


def _by_category(
    model: Model, index: GraphIndex, matches: Sequence[Match], rulebook: RuleBook | None, category: str
) -> set[NodeId]:
    kinds = CATEGORIES.get(category, (category,))
    found = {node for match in matches if match.proven and match.kind in kinds for node in match.nodes}
    if category == "softmax":
        # the pattern has the mask and the scale too; the category is the softmax itself
        found = set()
    ops = _CATEGORY_OPS.get(category, ())
    found |= {index.node_id(scope, position) for scope, position, node in index.nodes() if node.op_type in ops}
    if category in CATEGORIES or rulebook is None:
        return found
    return found | _by_rules(model, index, matches, rulebook, category)


def _by_rules(model: Model, index: GraphIndex, matches: Sequence[Match], rulebook: RuleBook, tag: str) -> set[NodeId]:
    """What the rules with a tag look at: every node of the subjects that their `match` selects."""
    from precision_planner.model import infer_types
    from precision_planner.rules.facts.evidence import Evidence
    from precision_planner.rules.facts.model_facts import ModelFacts
    from precision_planner.rules.facts.node_sets import NodeSet, resolve_nodes
    from precision_planner.rules.facts.subjects import Subjects

    facts = ModelFacts(Evidence(model, index, infer_types(model, index), matches))
    subjects = Subjects(facts)
    found: set[NodeId] = set()
    for rule in rulebook.tagged(tag):
        for subject in subjects.select(rule.match):
            if subject.match is not None and not subject.match.proven:
                continue
            terms = [NodeSet("subject")] if subject.kind in ("pattern", "node") else [NodeSet("consumers")]
            found.update(resolve_nodes(facts, subject, terms))
    return found


def _nothing(model: Model, index: GraphIndex, rulebook: RuleBook | None, part: str) -> str:
    """The message for a part that matches nothing: the nearest names."""
    what = "matches no node"
    if part in categories(rulebook):
        return (
            f"selector {part!r}: the category exists but this model has none of it; 'planner analyze' lists what it has"
        )
    pattern = part.removeprefix("re:")
    ops = sorted({node.op_type for _, _, node in index.nodes()})
    names = [display_name(node) for _, _, node in index.nodes()]
    near: list[str] = []
    if not part.startswith("re:"):
        lowered = {name.lower(): name for name in (*categories(rulebook), *ops)}
        near = [lowered[name] for name in difflib.get_close_matches(part.lower(), lowered, 3, 0.7)]
    near += _near_names(pattern, names)[: 3 - len(near)]
    hint = f"did you mean {', '.join(near)}?" if near else f"the model has the op types {', '.join(ops[:12])}"
    return f"selector {part!r} {what}; {hint}"


def _near_names(part: str, names: Collection[str]) -> list[str]:
    """Names near a glob; on a large model only those that share a piece with it are compared at length."""
    bare = part.replace("*", "").replace("?", "").strip("/")
    if not bare:
        return []
    pieces = [piece.lower() for piece in re.split(r"[/.]", bare) if len(piece) > 2]
    distinct = list(dict.fromkeys(names))
    candidates = [name for name in distinct if any(piece in name.lower() for piece in pieces)] or distinct[:2000]
    return difflib.get_close_matches(bare, candidates[:2000], 3, 0.4)
