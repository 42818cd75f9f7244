"""Which nodes a simulation keeps in FP32, by name, glob, op type or pattern kind."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable

from precision_planner.errors import SelectorError
from precision_planner.model import GraphIndex, Model, NodeId

KIND_NAMES = {
    "layernorm": "layer_normalization",
    "rmsnorm": "rms_normalization",
    "groupnorm": "group_normalization",
    "instancenorm": "instance_normalization",
    "batchnorm": "batch_normalization",
}
"""What people call the pattern kinds."""


def select_nodes(model: Model, index: GraphIndex, wanted: Iterable[str | NodeId]) -> frozenset[NodeId]:
    """The nodes that entries name, each a NodeId, a pattern kind, an op type, or a glob on node names.

    Raises:
      SelectorError: an entry matches nothing; the nearest names are suggested.
    """
    names: dict[str, list[NodeId]] = {}
    ops: dict[str, list[NodeId]] = {}
    for scope, position, node in index.nodes():
        identity = index.node_id(scope, position)
        names.setdefault(index.display(identity), []).append(identity)
        ops.setdefault(node.op_type, []).append(identity)
    kept: set[NodeId] = set()
    for entry in [wanted] if isinstance(wanted, (str, NodeId)) else wanted:
        if isinstance(entry, NodeId):
            kept.add(entry)
            continue
        for part in [entry] if entry.startswith("re:") else entry.split(","):
            found = _of(part.strip(), model, index, names, ops)
            if not found:
                near = difflib.get_close_matches(part, [*KIND_NAMES, *ops, *names], 3, 0.5)
                hint = f"nearest: {', '.join(near)}" if near else "give a node name, a glob or an op type"
                raise SelectorError(f"keep_fp32 {part!r} matches no node; {hint}")
            kept.update(found)
    return frozenset(kept)


def _of(
    part: str, model: Model, index: GraphIndex, names: dict[str, list[NodeId]], ops: dict[str, list[NodeId]]
) -> list[NodeId]:
    if part.startswith("re:"):
        pattern = re.compile(part[3:])
        return [node for name, nodes in names.items() if pattern.search(name) for node in nodes]
    if part in ops:
        return ops[part]
    kind = KIND_NAMES.get(part, part)
    if kind in KIND_NAMES.values() or kind in ("softmax", "gelu"):
        from precision_planner.patterns import find_patterns

        return [node for match in find_patterns(model, index=index, kinds=[kind]) for node in match.nodes]
    pattern_text = part.replace("[", "[[]")
    return [node for name, nodes in names.items() if fnmatch.fnmatchcase(name, pattern_text) for node in nodes]
