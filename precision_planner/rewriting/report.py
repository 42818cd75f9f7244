"""The dict that `planner rewrite --json` prints, from the values of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from precision_planner.model import GraphIndex, Model, TypeTable
from precision_planner.patterns import Match
from precision_planner.rewriting.convert import ConvertResult
from precision_planner.rewriting.work_share import work_share
from precision_planner.transforms import FusionResult
from precision_planner.typing import TypeAssignment


def build_report(
    *,
    source: Model,
    source_index: GraphIndex,
    model: Model,
    fusion: FusionResult,
    assignment: TypeAssignment | None,
    types: TypeTable,
    result: ConvertResult,
    verification: Mapping[str, Any],
    narrowed: Mapping[str, str],
    precision: str,
    notes: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """Collect the report.

    Args:
      source: the input model, after surgery.
      source_index: of its proto.
      model: the model that types were assigned to.
      fusion: what became of the patterns.
      assignment: the types; None where only fusion was asked for.
      types: inferred for `model`.
      result: what the conversion did.
      verification: of `summarize`.
      narrowed: int64 inputs that became INT32 -> how.
      precision: what was asked for.
      notes: reasons worth telling that belong to no node.
      seconds: wall time of everything but verification.
    """
    index = GraphIndex(model.proto)
    report: dict[str, Any] = {
        "schema_version": 1,
        "kind": "rewrite",
        "precision": precision,
        "opset": {"from": source.opset, "to": model.opset},
        "fused": [_match(match, source_index) for match in fusion.fused],
        "rejected": [{**_match(match, source_index), "reason": reason} for match, reason in fusion.rejected],
        "islands": [{**_match(match, source_index), "reason": reason} for match, reason in fusion.islands],
        "kept_fp32": [],
        "kept_bf16": [],
        "kept_sum32": [],
        "converted": result.converted,
        "casts": result.casts,
        "removed_casts": list(result.removed_casts),
        "weights": {
            "converted": result.weights,
            "copies": result.copies,
            "changes": [change.to_dict() for change in result.changes],
        },
        "interface": {"inputs": {}, "outputs": {}, "int32_inputs": dict(narrowed)},
        "sorted": result.sorted,
        "notes": list(notes),
        "verification": dict(verification),
        "names": dict(fusion.names),
        "seconds": round(seconds, 3),
    }
    if assignment is not None:
        for typing in assignment.nodes.values():
            entry = {"node": index.display(typing.node), "op_type": typing.op_type, "reason": typing.reason}
            if typing.rule:
                entry["rule"] = typing.rule
            if typing.compute == "fp32":
                report["kept_fp32"].append({**entry, "as": typing.keep_as, "forced": typing.forced})
            elif typing.compute == "fp16+":
                report["kept_sum32"].append(entry)
            elif typing.compute != assignment.options.precision:
                report["kept_bf16"].append(entry)
        report["interface"]["inputs"] = {n: _type(t) for n, t in assignment.inputs.items()}
        report["interface"]["outputs"] = {n: _type(t) for n, t in assignment.outputs.items()}
        report["work"] = work_share(index, types, assignment)
    return report


def _match(match: Match, index: GraphIndex) -> dict[str, Any]:
    return {"kind": match.kind, "nodes": [index.display(node) for node in match.nodes]}


def _type(element: int) -> str:
    return onnx.TensorProto.DataType.Name(element).lower()
