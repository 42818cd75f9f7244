"""Names of fused nodes: readable, unique, and near the names of what they replace."""

from __future__ import annotations

from collections.abc import Sequence

from precision_planner.model.names import FreshNames


def fused_name(names: Sequence[str], op_type: str, output: str, names_of_nodes: FreshNames) -> str:
    """A name for the node that replaces nodes of these names.

    ``/encoder/layer.0/output/LayerNorm/Pow`` and its siblings give ``/encoder/layer.0/output/LayerNorm/<op_type>``;
    names without a common scope give ``<op_type>_<name of the last>``, no names ``<op_type>_<output>``.

    Args:
      names: of the replaced nodes, in graph order; empty ones are passed over.
      op_type: of the new node.
      output: its output value.
      names_of_nodes: those in use; the new one is added.
    """
    present = [name for name in names if name]
    prefix = _common_scope(present)
    base = f"{prefix}{op_type}" if prefix else f"{op_type}_{present[-1] if present else output}"
    return names_of_nodes.fresh(base)


def _common_scope(names: Sequence[str]) -> str:
    """The longest common prefix of the names that ends in '/' (or '.'), '' if there is none."""
    if not names:
        return ""
    for separator in ("/", "."):
        parts = [name.split(separator)[:-1] for name in names]
        common: list[str] = []
        for level in zip(*parts, strict=False):
            if len(set(level)) > 1:
                break
            common.append(level[0])
        prefix = separator.join(common)
        if prefix.strip(separator):
            return prefix + separator
    return ""
