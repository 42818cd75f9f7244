"""Running many rounding plans of one model gives bit by bit what a whole simulation of each gives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.model import GraphIndex, Model
from precision_planner.model.session import Session
from precision_planner.simulation import apply_rounding, open_simulation, prepare
from precision_planner.simulation.plans import from_assignment
from precision_planner.simulation.rounding import RoundingPlan
from precision_planner.simulation.variants import BlockRunner
from precision_planner.typing import Decision, TypingOptions, assign_types
from tests.random_graphs import Drawn, decisions_of, graphs
from tests.simulation.models import FLOAT, model, scan_behind

Arrays = Mapping[str, np.ndarray]


def assert_equal(expected: Arrays, found: Arrays) -> None:
    assert expected.keys() == found.keys()
    for name in expected:
        assert expected[name].dtype == found[name].dtype
        np.testing.assert_array_equal(expected[name], found[name], err_msg=name)


def feeds(seed: int) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed)
    floats = {name: source.normal(0, 30, (4, 4)).astype(np.float32) for name in ("x", "z")}
    return {**floats, "c": np.array(bool(seed % 2))}


def test_a_scan_is_run_in_a_block_of_its_own() -> None:
    source, x = Model.load(scan_behind(4)), np.arange(6, dtype=np.float32).reshape(3, 2)
    with BlockRunner(source, [{"x": x}], block_nodes=1) as runner, Session(source) as session:
        assert_equal(session.run({"x": x}), runner.run(RoundingPlan())[0])


@pytest.mark.slow
@given(graphs(), st.lists(st.integers(0, 39), min_size=1, max_size=4), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_every_plan_equals_its_whole_simulation(drawn: Drawn, changes: list[int], block_nodes: int) -> None:
    """A base, plans that differ from it in single decisions, and FP32 in between: each equals its own session."""
    batches = [feeds(0), feeds(1)]
    with BlockRunner(Model.load(drawn.model), batches, block_nodes=block_nodes) as runner:
        options = TypingOptions("fp16", drawn.io_types)
        decisions = decisions_of(drawn, runner.index)
        plans = [from_assignment(assign_types(runner.model, decisions, options), runner.index, "saturate")]
        nodes = [runner.index.node_id(scope, at) for scope, at, _ in runner.index.nodes()]
        for change in changes:
            other = {**decisions, nodes[change % len(nodes)]: Decision("fp32" if change % 2 else "fp16", "changed")}
            plans.append(from_assignment(assign_types(runner.model, other, options), runner.index, "saturate"))
        plans.append(RoundingPlan())
        for number, plan in enumerate(plans):
            found = runner.run(plan, remember=number in (0, 2))
            with Session(apply_rounding(runner.model, plan)) as session:
                for batch, outputs in zip(batches, found, strict=True):
                    assert_equal(session.run(batch), outputs)


@pytest.mark.slow
def test_the_sample_classifier_under_a_plans_types() -> None:
    spec = PRESETS["tiny-ffn"]
    inputs = sample_inputs(spec, rows=3, sequence=16)
    with BlockRunner(Model.load(build_bert_classifier(spec)), [inputs]) as runner:
        assert runner.blocks > 4
        for kept in ([], ["Softmax"], ["MatMul", "Add"]):
            decisions = {
                runner.index.node_id(scope, at): Decision("fp32", "kept")
                for scope, at, node in runner.index.nodes()
                if node.op_type in kept
            }
            assignment = assign_types(runner.model, decisions, TypingOptions("fp16"))
            simulation = prepare(runner.model, assignment=assignment)
            found = runner.run(from_assignment(assignment, runner.index, "saturate"), remember=True)[0]
            with open_simulation(simulation) as session:
                assert_equal(session.run(simulation.feeds(inputs)), found)


def scaled_chain(length: int) -> Model:
    nodes = [helper.make_node("Mul", [f"v{at}", "k"], [f"v{at + 1}"]) for at in range(length)]
    return Model.load(
        model(nodes, {"v0": (FLOAT, [4])}, {f"v{length}": (FLOAT, [4])}, {"k": np.full(4, 1.0078125, np.float32)})
    )


def test_what_is_upstream_of_a_change_is_not_computed_again() -> None:
    chain = scaled_chain(12)
    with BlockRunner(chain, [{"v0": np.arange(4, dtype=np.float32) / 3}], block_nodes=2) as runner:
        everything = {((), f"v{at}"): TensorProto.FLOAT16 for at in range(1, 13)}
        runner.run(RoundingPlan(everything), remember=True)
        before = runner.stats.blocks_run
        assert before == runner.blocks
        runner.run(RoundingPlan({key: kind for key, kind in everything.items() if key[1] != "v12"}))
        assert runner.stats.blocks_run - before == 1
        runner.run(RoundingPlan(everything))
        assert runner.stats.blocks_run - before == 1, "the base itself needs no run at all"


def test_a_change_that_leaves_the_values_alone_ends_there() -> None:
    """A value that FP16 holds exactly stays itself, so the blocks behind are the base's."""
    nodes = [helper.make_node("Relu", [f"v{at}"], [f"v{at + 1}"]) for at in range(8)]
    relus = Model.load(model(nodes, {"v0": (FLOAT, [2])}, {"v8": (FLOAT, [2])}))
    with BlockRunner(relus, [{"v0": np.array([0.5, -1.0], np.float32)}], block_nodes=1) as runner:
        runner.run(RoundingPlan(), remember=True)
        before = runner.stats.blocks_run
        found = runner.run(RoundingPlan({((), "v2"): TensorProto.FLOAT16}))[0]["v8"]
        assert runner.stats.blocks_run - before == 1
        np.testing.assert_array_equal(found, [0.5, 0.0])


def test_a_small_cache_changes_what_is_computed_and_not_what_comes_out() -> None:
    batch = {"v0": np.linspace(0.1, 3.0, 4, dtype=np.float32)}
    plan = RoundingPlan({((), f"v{at}"): TensorProto.FLOAT16 for at in range(1, 13)})
    other = RoundingPlan({((), "v11"): TensorProto.FLOAT16})
    with BlockRunner(scaled_chain(12), [batch], block_nodes=1) as large:
        large.run(plan, remember=True)
        expected = large.run(other)[0]
    with BlockRunner(scaled_chain(12), [batch], block_nodes=1, cache_bytes=0) as small:
        small.run(plan, remember=True)
        assert_equal(expected, small.run(other)[0])
        assert small.stats.blocks_run == 24


def test_weights_are_held_once_for_all_sessions() -> None:
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    nodes = [helper.make_node("MatMul", [f"v{at}", "w"], [f"v{at + 1}"]) for at in range(4)]
    source = Model.load(model(nodes, {"v0": (FLOAT, [2, 64])}, {"v4": (FLOAT, [2, 64])}, {"w": weight}))
    batch = {"v0": np.eye(2, 64, dtype=np.float32)}
    with BlockRunner(source, [batch], block_nodes=1) as runner:
        index = GraphIndex(runner.model.proto)
        edges = {((), at, 1): TensorProto.FLOAT16 for at in range(len(index.main.nodes))}
        runner.run(RoundingPlan())
        runner.run(RoundingPlan({}, edges))
        # the stored weight, and the one rounded to FP16; four blocks and two plans share them
        assert len(runner.pooled) == 2


def test_a_raised_product_in_tf32_is_rounded_to_11_bits() -> None:
    """In the graph for activations, offline for weights; against float64 rounded to 11 significant bits."""
    source = np.random.default_rng(3)
    x = (source.normal(size=(64, 64)) * np.exp(source.uniform(-40, 40, (64, 64)))).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "one"], ["y"]), helper.make_node("MatMul", ["one", "w"], ["z"])]
    outputs = {"y": (FLOAT, [64, 64]), "z": (FLOAT, [64, 64])}
    constants = {"one": np.eye(64, dtype=np.float32), "w": x}
    simulation = prepare(
        model(nodes, {"x": (FLOAT, [64, 64])}, outputs, constants), keep_fp32=["MatMul"], precision="fp16", tf32=True
    )
    with open_simulation(simulation) as session:
        found = session.run({"x": x})
    mantissa, exponent = np.frexp(x.astype(np.float64))
    expected = np.ldexp(np.rint(mantissa * 2**11) / 2**11, exponent)
    np.testing.assert_array_equal(found["y"], expected)
    np.testing.assert_array_equal(found["z"], expected)


def test_without_tf32_a_kept_product_is_exact() -> None:
    x = np.full((1, 1), 1 + 2.0**-20, np.float32)
    graph = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (FLOAT, [1, 1])}, {"y": (FLOAT, [1, 1])}, {"w": x}
    )
    results = []
    for tf32 in (False, True):
        with open_simulation(prepare(graph, keep_fp32=["MatMul"], precision="fp16", tf32=tf32)) as session:
            results.append(float(session.run({"x": x})["y"][0, 0]))
    assert results == [float(np.float32(x[0, 0] * x[0, 0])), 1.0]
