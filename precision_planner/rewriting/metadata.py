"""What the planner knows of nodes and values, as metadata on the model: Netron and Model Explorer show it.

Keys on nodes: `precision_planner.precision` (what it computes in, and why where that was decided), `.range` (of what it
makes, in the FP32 model) and `.finding`; on values: `.range`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx

from precision_planner.model import GraphIndex, Model, display_name, infer_types
from precision_planner.model.edit import copied
from precision_planner.model.names import SUFFIX
from precision_planner.model.tensors import FLOAT_TYPES

__all__ = ["PREFIX", "annotate"]

PREFIX = "precision_planner."


def annotate(
    model: Model,
    decided: Mapping[str, tuple[str, str]],
    analysis: Mapping[str, Any],
    names: Mapping[str, str | None] | None = None,
) -> Model:
    """The model with metadata on its nodes and on the values that it describes; nothing else changes.

    Args:
      model: typed, or any that was made of the analyzed one.
      decided: node name -> (precision, reason), of nodes that were decided about; of others the type they make is said.
      analysis: of the model before, `Analysis.to_dict()`: its `values` and `findings`.
      names: node name in the analyzed model -> in this one, where they differ; None for a node that is gone.
    """
    ranges = {
        (value["scope"], value["value"]): _range(value)
        for value in analysis.get("values", ())
        if value["amax"] is not None
    }
    findings = _findings(analysis.get("findings", ()), names or {})
    proto = copied(model.proto)
    index = GraphIndex(proto)
    types = infer_types(model.with_proto(proto), index)
    for scope, _, node in index.nodes():
        path, name = "/".join(scope.path), display_name(node)
        made = [output for output in node.output if output]
        types_made = (types.of(scope, output).elem_type for output in made)
        precision = decided.get(name) or (next((SUFFIX[kind] for kind in types_made if kind in FLOAT_TYPES), ""), "")
        _set(
            node.metadata_props,
            precision=": ".join(part for part in precision if part),
            range=next((ranges[path, output] for output in made if (path, output) in ranges), ""),
            finding="; ".join(findings.get(name, ())),
        )
    for scope in index.scopes:
        container = scope.container
        described = list(container.value_info)
        if isinstance(container, onnx.GraphProto):
            described += [*container.input, *container.output]
        for info in described:
            _set(info.metadata_props, range=ranges.get(("/".join(scope.path), info.name), ""))
    return model.with_proto(proto)


def _range(value: Mapping[str, Any]) -> str:
    low = "" if not value.get("amin") else f"{value['amin']:.3g} to "
    inside = f", squares inside up to {value['inside_amax']:.3g}" if value.get("inside_amax") else ""
    return f"|x| {low}{value['amax']:.3g} in FP32{inside}"


def _findings(findings: Iterable[Mapping[str, Any]], names: Mapping[str, str | None]) -> dict[str, list[str]]:
    """Node name in the new model -> what the rules say, errors and warnings alone."""
    found: dict[str, list[str]] = {}
    for finding in findings:
        if finding["severity"] not in ("error", "warning"):
            continue
        text = f"{finding['severity']} {finding['rule']}: {finding['message']}"
        nodes = (names.get(old, old) for old in finding.get("action", {}).get("nodes", ()))
        for name in dict.fromkeys(node for node in nodes if node):
            found.setdefault(name, []).append(text)
    return found


def _set(props: Any, **entries: str) -> None:
    """Set our own keys, or take them away; those of others stay as they are."""
    wanted = {PREFIX + key: text for key, text in entries.items()}
    kept = [copied(prop) for prop in props if prop.key not in wanted]
    del props[:]
    props.extend(kept)
    for key, text in wanted.items():
        if text:
            props.add(key=key, value=text)
