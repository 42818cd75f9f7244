"""Nodes in bodies are constrained as those of the main graph; TensorRT's own parser says how it names their layers."""

from __future__ import annotations

import onnx
import pytest

import precision_planner as pp
from precision_planner.engines.kernels import parse_nodes
from tests.calibration.decoder import feeds, flat, merged


def test_metadata_of_a_node_in_a_body_names_the_node() -> None:
    inner = "[ONNX Layer: b/n0 | t (then_branch) | main1 (If)]\x1e[ONNX Layer: a | b]"
    assert parse_nodes(inner) == ("b/n0", "a | b")


@pytest.mark.slow
@pytest.mark.rtx
def test_every_constraint_in_a_body_finds_its_layer_in_the_parsers_network(tmp_path) -> None:
    """The weakly typed parser's kin names layers, so the folder's own matching is asked of it."""
    import importlib.util

    import tensorrt_rtx as trt

    plans = [
        pp.plan(model, inputs=inputs, policy="rules", target="tensorrt-10")
        for model, inputs in ((flat(), feeds()), (merged(), feeds(use_cache=True)))
    ]
    alone, both = ({c.node.removeprefix("with/") for c in planned.plan.constraints} for planned in plans)
    assert alone
    assert {name for name in both if not name.startswith("without/")} == alone
    planned = plans[1]
    planned.save(tmp_path / "plan")
    spec = importlib.util.spec_from_file_location("body_build", tmp_path / "plan" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(onnx.load(tmp_path / "plan" / "model.onnx").SerializeToString())
    layers = [network.get_layer(at) for at in range(network.num_layers)]
    told = [(build._names_of(x), [x.get_output(n).name for n in range(x.num_outputs)], x.name) for x in layers]
    constraints = planned.plan.to_dict()["constraints"]
    for constraint, found in zip(constraints, build.match_constraints(told, constraints), strict=True):
        assert constraint["node"] in {name for at in found for name in told[at][0]}
