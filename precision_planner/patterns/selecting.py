"""SEL, the one grammar for naming nodes: rewrite, plan, diff, simulate, extract and the rules' commands take it.

A selector is comma-separated; each part is, in this order: a category (`CATEGORIES`) or a pattern kind, an op type, a
glob on the display names of the input model's nodes (`*` and `?`; `[` is literal). `re:PATTERN` is a regular
expression on the names (searched, not anchored) and takes the whole argument, commas included. A control flow node
stands for its bodies too. What matches nothing is an error that suggests the nearest names.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from onnx import NodeProto

from precision_planner.errors import SelectorError
from precision_planner.model import GraphIndex, Model, NodeId, display_name
from precision_planner.operators import PRODUCTS, is_product, row_of
from precision_planner.patterns.find import find_patterns
from precision_planner.patterns.match import KINDS, Match

__all__ = [
    "CATEGORIES",
    "Category",
    "Selector",
    "categories",
    "fusion_words",
    "glob_matches",
    "pattern_kinds",
    "select",
    "selected_kinds",
    "split_selector",
    "without_folded",
]

_NEAR = 3
"""So many names are suggested."""


@dataclass(frozen=True, slots=True)
class Category:
    """A family of nodes under a name of the field.

    Attributes:
      kinds: pattern kinds that belong to it: all nodes of their proven matches.
      ops: op types that belong to it whatever the patterns say.
      holds: a question to every node, for families that the operators' rows define.
    """

    kinds: tuple[str, ...] = ()
    ops: frozenset[str] = frozenset()
    holds: Callable[[NodeProto], bool] | None = field(default=None, repr=False)


def _ops(*names: str) -> frozenset[str]:
    return frozenset(names)


_LAYER = Category(("layer_normalization",), _ops("LayerNormalization", "SkipLayerNormalization"))
_RMS = Category(
    ("rms_normalization",),
    _ops("RMSNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"),
)
_GROUP = Category(("group_normalization",), _ops("GroupNormalization", "GroupNorm"))
_INSTANCE = Category(("instance_normalization",), _ops("InstanceNormalization"))
_BATCH = Category(("batch_normalization",), _ops("BatchNormalization"))
_L2 = Category(("l2_normalization",), _ops("LpNormalization", "ReduceL2"))
_MVN = Category(("mean_variance_normalization",), _ops("MeanVarianceNormalization"))
_NORMS = (_LAYER, _RMS, _GROUP, _INSTANCE, _BATCH, _L2, _MVN)

CATEGORIES: dict[str, Category] = {
    "attention": Category(("attention",), _ops("Attention", "MultiHeadAttention", "GroupQueryAttention")),
    "batchnorm": _BATCH,
    "exp": Category(ops=_ops("Exp")),
    "gelu": Category(("gelu",), _ops("Gelu", "FastGelu", "BiasGelu", "QuickGelu")),
    "gemm": Category(holds=lambda node: is_product(node, PRODUCTS)),
    "gridsample": Category(ops=_ops("GridSample")),
    "groupnorm": _GROUP,
    "instancenorm": _INSTANCE,
    "l2norm": _L2,
    "layernorm": _LAYER,
    "normalization": Category(
        tuple(kind for norm in _NORMS for kind in norm.kinds), frozenset().union(*(norm.ops for norm in _NORMS))
    ),
    "quantization": Category(ops=_ops("QuantizeLinear", "DequantizeLinear")),
    "reduction": Category(holds=lambda node: bool(row_of(node).reduces) and not row_of(node).window),
    "residual": Category(("residual",)),
    "rmsnorm": _RMS,
    "rope": Category(("rotary_embedding",), _ops("RotaryEmbedding")),
    # the pattern has the mask and the scale too; the category is the softmax itself
    "softmax": Category(ops=_ops("Softmax", "LogSoftmax")),
    "softplus": Category(ops=_ops("Softplus")),
}
"""Category -> what it covers; `planner rules` lists them."""


def categories() -> tuple[str, ...]:
    """Every category, sorted."""
    return tuple(sorted(CATEGORIES))


def fusion_words() -> tuple[str, ...]:
    """What `pattern_kinds` takes, sorted: categories with patterns, and the kinds themselves."""
    return tuple(sorted({*_FUSION_WORDS, *KINDS}))


def pattern_kinds(names: Iterable[str]) -> tuple[str, ...]:
    """The pattern kinds that kinds and categories name, each once; SelectorError for an unknown one."""
    kinds: list[str] = []
    for name in names:
        found = (name,) if name in KINDS else _FUSION_WORDS.get(name, ())
        if not found:
            words = ", ".join(sorted(_FUSION_WORDS))
            raise SelectorError(f"pattern kind {name!r} is unknown; use one of {words}")
        kinds += [kind for kind in found if kind not in kinds]
    return tuple(kinds)


_FUSION_WORDS = {name: category.kinds for name, category in CATEGORIES.items() if category.kinds} | {
    "softmax": ("softmax",)
}


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


def selected_kinds(selectors: Iterable[str]) -> tuple[str, ...]:
    """The pattern kinds that must be looked for before the selectors can be answered."""
    kinds: list[str] = []
    for part in (part for selector in selectors for part in split_selector(selector)):
        kinds += _part_kinds(part)
    return tuple(dict.fromkeys(kinds))


def _part_kinds(part: str) -> tuple[str, ...]:
    return CATEGORIES[part].kinds if part in CATEGORIES else (part,) if part in KINDS else ()


class Selector:
    """Answers selectors for one model.

    Args:
      model: the input model (names are matched as they are there).
      index: of `model.proto`.
      matches: its patterns, where the caller has found (at least) the `selected_kinds`; else they are found when a
        selector first needs them.
    """

    def __init__(self, model: Model, index: GraphIndex | None = None, matches: Sequence[Match] | None = None) -> None:
        self.model = model
        self.index = GraphIndex(model.proto) if index is None else index
        self._matches = matches
        self._nodes = [(self.index.node_id(scope, at), node) for scope, at, node in self.index.nodes()]

    def select(self, *selectors: str | NodeId) -> set[NodeId]:
        """The nodes that any of the selectors means; a NodeId means itself.

        Raises:
          SelectorError: a part matches nothing, or is no regular expression.
        """
        chosen: set[NodeId] = set()
        for selector in selectors:
            if isinstance(selector, NodeId):
                chosen.add(selector)
                continue
            for part in split_selector(selector):
                found = self._part(part)
                if not found:
                    raise SelectorError(self._nothing(part))
                chosen |= found
        return self._with_bodies(chosen)

    def _part(self, part: str) -> set[NodeId]:
        if part.startswith("re:"):
            pattern = _compiled(part.removeprefix("re:"))
            return {node_id for node_id, node in self._nodes if pattern.search(display_name(node))}
        if part in CATEGORIES or part in KINDS:
            return self._category(part)
        by_type = {node_id for node_id, node in self._nodes if node.op_type == part}
        return by_type or {node_id for node_id, node in self._nodes if glob_matches(display_name(node), part)}

    def _category(self, name: str) -> set[NodeId]:
        category = CATEGORIES.get(name) or Category((name,))
        found = {
            node
            for match in (self._found() if category.kinds else ())
            if match.proven and match.kind in category.kinds
            for node in match.nodes
        }
        found |= {node_id for node_id, node in self._nodes if node.op_type in category.ops}
        if category.holds is not None:
            found |= {node_id for node_id, node in self._nodes if category.holds(node)}
        return found

    def _found(self) -> Sequence[Match]:
        if self._matches is None:
            self._matches = find_patterns(self.model, index=self.index)
        return self._matches

    def _with_bodies(self, chosen: set[NodeId]) -> set[NodeId]:
        """A selected If, Loop or Scan means what is inside it."""
        inside: set[tuple[str, ...]] = set()
        for scope in self.index.scopes:
            if scope.parent is None or scope.owner is None:
                continue
            position = next(at for at, node in enumerate(scope.parent.nodes) if node is scope.owner)
            if scope.parent.path in inside or self.index.node_id(scope.parent, position) in chosen:
                inside.add(scope.path)
        if not inside:
            return chosen
        return chosen | {node_id for node_id, _ in self._nodes if node_id.scope in inside}

    def _nothing(self, part: str) -> str:
        """The message for a part that matches nothing: the nearest names."""
        if part in CATEGORIES or part in KINDS:
            return (
                f"selector {part!r}: the category exists but this model has none of it; "
                "'planner analyze' lists what it has"
            )
        ops = sorted({node.op_type for _, node in self._nodes})
        near: list[str] = []
        if not part.startswith("re:"):
            lowered = {name.lower(): name for name in (*categories(), *ops)}
            near = [lowered[name] for name in difflib.get_close_matches(part.lower(), lowered, _NEAR, 0.7)]
        names = [display_name(node) for _, node in self._nodes]
        near += _near_names(part.removeprefix("re:"), names)[: _NEAR - len(near)]
        near = list(dict.fromkeys(near))
        hint = f"did you mean {', '.join(near)}?" if near else f"the model has the op types {', '.join(ops[:12])}"
        return f"selector {part!r} matches no node; {hint}"


def without_folded(selectors: Iterable[str | NodeId], before: Model, after: Model) -> tuple[str | NodeId, ...]:
    """The selectors without the parts that mean only nodes which were computed beforehand: they are FP32 already.

    Args:
      selectors: as the user gave them, about `before`.
      before: the model with those nodes.
      after: the model without.

    Raises:
      SelectorError: a part is no regular expression.
    """
    if before is after:
        return tuple(selectors)
    old, new = Selector(before), Selector(after)
    kept: list[str | NodeId] = []
    for selector in selectors:
        if isinstance(selector, NodeId):
            kept.append(selector)
            continue
        parts = split_selector(selector)
        left = [part for part in parts if new._part(part) or not old._part(part)]
        if len(left) == len(parts):
            kept.append(selector)
        elif left:
            kept.append(",".join(left))
    return tuple(kept)


def select(
    model: Model,
    selectors: Iterable[str | NodeId] | str | NodeId,
    *,
    index: GraphIndex | None = None,
    matches: Sequence[Match] | None = None,
) -> set[NodeId]:
    """The nodes that selectors mean; see `Selector`.

    Raises:
      SelectorError: a part matches nothing, or is no regular expression.
    """
    wanted = (selectors,) if isinstance(selectors, str | NodeId) else tuple(selectors)
    return Selector(model, index, matches).select(*wanted) if wanted else set()


def glob_matches(name: str, glob: str) -> bool:
    """Whether a glob (`*` and `?`; `[` is literal) matches a whole name, case and all."""
    return fnmatch.fnmatchcase(name, _literal_brackets(glob))


@cache
def _literal_brackets(glob: str) -> str:
    return glob.replace("[", "[[]")


def _compiled(pattern: str) -> re.Pattern[str]:
    if not pattern:
        raise SelectorError("re: needs a regular expression behind it, as in re:layer\\.[0-3]/")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SelectorError(f"re:{pattern} is no regular expression: {error}; escape what is meant literally") from None


def _near_names(part: str, names: Iterable[str]) -> list[str]:
    """Names near a glob; on a large model only those that share a piece with it are compared at length."""
    bare = part.replace("*", "").replace("?", "").strip("/")
    if not bare:
        return []
    pieces = [piece.lower() for piece in re.split(r"[/.]", bare) if len(piece) > 2]
    distinct = list(dict.fromkeys(names))
    candidates = [name for name in distinct if any(piece in name.lower() for piece in pieces)] or distinct[:2000]
    return difflib.get_close_matches(bare, candidates[:2000], _NEAR, 0.4)
