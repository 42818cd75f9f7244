"""Plan folders for tests, made from a rewrite alone: no calibration, no simulation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from examples.bert_classifier import PRESETS, build_bert_classifier
from precision_planner.emitting.folder import emit_folder
from precision_planner.model import GraphIndex, Model
from precision_planner.plans import PlannedNode, PrecisionPlan, Profile
from precision_planner.rewriting import RewriteResult, rewrite

PROFILES = {"input": Profile((1, 8), (4, 16), (8, 32))}


@cache
def sample(preset: str) -> Model:
    """A sample model with its weights."""
    return Model.load(build_bert_classifier(PRESETS[preset]))


def planned(preset: str, keep_fp32: Sequence[str], target: str = "tensorrt-rtx") -> tuple[PrecisionPlan, RewriteResult]:
    """A strongly typed plan that keeps these selectors in FP32."""
    result = rewrite(sample(preset), keep_fp32=keep_fp32, verify=False)
    assert result.assignment is not None
    assert result.fused is not None
    index = GraphIndex(result.fused.proto)
    nodes = []
    for scope, position, _ in index.nodes():
        identity = index.node_id(scope, position)
        typing = result.assignment.nodes.get(identity)
        if typing is not None:
            name = index.display(identity)
            op_type = scope.nodes[position].op_type
            keep_as = typing.keep_as or ""
            nodes.append(
                PlannedNode(name, op_type, identity.scope, identity.output, typing.compute, keep_as, typing.reason)
            )
    graph = result.typed.proto.graph
    interface = {
        "inputs": {info.name: {"dtype": "int64", "shape": None} for info in graph.input},
        "outputs": {info.name: {"dtype": "float", "shape": None} for info in graph.output},
    }
    plan = PrecisionPlan(
        model={"name": preset},
        target=target,
        typing="strong",
        precision="fp16",
        nodes=tuple(nodes),
        interface=interface,
        profiles=PROFILES,
        build={"tf32": False},
        inputs={"source": "none"},
    )
    return plan, result


def write(folder: Path, preset: str, keep_fp32: Sequence[str], target: str = "tensorrt-rtx") -> PrecisionPlan:
    """The same as a folder."""
    plan, result = planned(preset, keep_fp32, target)
    emit_folder(folder, plan, result.typed)
    return plan
