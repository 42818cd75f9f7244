"""The search on real models: what is asked for comes out, the same way every time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.cli.signals import stop_on_signals
from precision_planner.errors import PlanError
from precision_planner.judging.metrics import sad
from precision_planner.model import Model, infer_types
from precision_planner.planning import PlannedModel
from precision_planner.planning.search.noise import NOBODY, atoms_of, restricted
from precision_planner.planning.search.regions import find_regions
from precision_planner.plans import PrecisionPlan
from precision_planner.simulation import simulate
from precision_planner.simulation.plans import from_assignment
from precision_planner.simulation.variants import BlockRunner
from precision_planner.typing import TypingOptions, assign_types
from tests.random_graphs import Drawn, decisions_of, graphs
from tests.rewriting.conformance_models import MODELS

SPEC = PRESETS["tiny"]
INPUTS = sample_inputs(SPEC, rows=4, sequence=32)
TIGHT = {"probability:sad": 4e-4}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build_bert_classifier(SPEC)


@pytest.fixture(scope="module")
def planned(model: onnx.ModelProto) -> PlannedModel:
    return pp.plan(model, inputs=INPUTS, tolerance=TIGHT)


@pytest.mark.slow
@given(graphs(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_atoms_hold_every_rounding_of_a_plan_once(drawn: Drawn, tf32: bool) -> None:
    source = Model.load(drawn.model)
    with BlockRunner(source, []) as runner:
        index, model = runner.index, runner.model
        assignment = assign_types(model, decisions_of(drawn, index), TypingOptions("fp16", drawn.io_types))
        plan = from_assignment(assignment, index, "saturate")
        regions = find_regions(model, index, infer_types(model, index), assignment)
        atoms = atoms_of(plan, index, regions, tf32=tf32)
    assert sorted(key for atom in atoms for key in atom.values) == sorted(plan.values)
    assert sorted(key for atom in atoms for key in atom.edges) == sorted(plan.edges)
    together = restricted(plan, atoms)
    assert (dict(together.values), dict(together.edges)) == (dict(plan.values), dict(plan.edges))
    nodes = [node for region in regions for node in region.nodes]
    assert len(nodes) == len(set(nodes))
    assert all(atom.region == NOBODY or atom.region < len(regions) for atom in atoms)


@pytest.mark.slow
def test_a_tolerance_is_met_and_the_plan_says_why_each_region_is_kept(model, planned) -> None:
    found = planned.plan.search
    assert found["before"]["probability:sad"] > 4e-4 >= found["after"]["probability:sad"]
    assert planned.passed
    # by the public simulation of the typed model, and numpy
    reference = planned.golden[0].outputs["probability"]
    again = simulate(planned.model, INPUTS)["probability"]
    assert sad(reference, again) <= 4e-4
    kept = [region for region in found["regions"] if region["precision"] == "fp32"]
    assert kept
    for region in kept:
        assert region["how"] in ("measured", "bounded")
        # the search aims below the tolerance, as a device rounds elsewhere
        aim = 4e-4 * found["aim"]
        assert region["without"]["probability:sad"] > aim or region["expected_without"] > 1
    reasons = [node.reason for node in planned.plan.nodes if "by the search" in node.reason]
    assert len(reasons) >= len(kept)
    assert all("without it" in reason for reason in reasons)


@pytest.mark.slow
def test_the_same_inputs_give_the_same_plan_in_one_process_and_in_two(model, planned) -> None:
    assert pp.plan(model, inputs=INPUTS, tolerance=TIGHT).plan.to_json() == planned.plan.to_json()
    parallel = pp.plan(model, inputs=INPUTS, tolerance=TIGHT, jobs=2)
    assert parallel.plan.to_json() == planned.plan.to_json()


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_plan(model, planned) -> None:
    distributed = pytest.importorskip("distributed", reason="make test installs it")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        found = pp.plan(model, inputs=INPUTS, tolerance=TIGHT, scheduler=cluster.scheduler_address)
    assert found.plan.to_json() == planned.plan.to_json()


@pytest.mark.slow
def test_several_bounds_and_a_metric_of_ones_own(model) -> None:
    def worst_row_swing(reference: np.ndarray, candidate: np.ndarray) -> float:
        return float(np.abs(np.ptp(candidate, axis=1) - np.ptp(reference, axis=1)).max())

    bounds = ["probability:worst_row_swing=2e-4", "logits:cosine=0.9999", "probability:top1=1"]
    found = pp.plan(model, inputs=INPUTS, tolerance=bounds, metrics={"worst_row_swing": worst_row_swing})
    assert found.passed
    reference, candidate = found.golden[0].outputs["probability"], simulate(found.model, INPUTS)["probability"]
    assert worst_row_swing(reference, candidate) <= 2e-4
    with pytest.raises(PlanError, match="--jobs"):
        pp.plan(model, inputs=INPUTS, tolerance=bounds, jobs=2, metrics={"worst_row_swing": worst_row_swing})


@pytest.mark.slow
def test_what_the_user_keeps_is_kept_and_rules_alone_do_not_search(model) -> None:
    kept = pp.plan(model, inputs=INPUTS, tolerance=TIGHT, keep_fp32=["Tanh"])
    assert [
        n.node for n in kept.plan.nodes if n.op_type == "Tanh" and n.precision == "fp32" and "--keep-fp32" in n.reason
    ]
    assert pp.plan(model, inputs=INPUTS, tolerance=TIGHT, policy="rules").plan.search == {}


@pytest.mark.parametrize("target", ["tensorrt-11", "tensorrt-10"])
@pytest.mark.parametrize(
    "name",
    [
        "comparison_of_input", "initializer_as_output", "is_nan_guard", "loop_carried", "nested_bodies",
        "same_branch_output_twice", "scan_states", "sequences",
    ],
)  # fmt: skip
def test_odd_graphs_are_searched_to_what_their_prediction_says(name: str, target: str) -> None:
    planned = pp.plan(MODELS[name](), target=target, tolerance={"rel_l2": 1e-4}, budget=30)
    assert planned.plan.search["passed"] == planned.passed


@pytest.mark.slow
def test_an_end_before_the_search_began_gives_the_rules_plan(model) -> None:
    found = pp.plan(model, inputs=INPUTS, tolerance=TIGHT, stop=lambda: True)
    assert (found.plan.search["stopped"], found.plan.search["evaluations"]) == ("interrupted", 1)


@pytest.mark.slow
def test_made_up_inputs_keep_a_product_high_only_where_nothing_else_meets_the_tolerance(model) -> None:
    found = pp.plan(model, tolerance={"probability:sad": 1.05e-3})
    assert found.passed
    assert found.plan.inputs["synthesized"]
    assert found.plan.search["before"]["probability:sad"] > 1.05e-3
    assert not [n for n in found.plan.kept if n.op_type in ("MatMul", "Gemm")]
    assert pp.plan(model, tolerance={"probability:sad": 2e-4}).passed


@pytest.mark.slow
def test_an_overflow_that_no_rule_sees_is_found_by_the_search(model) -> None:
    """Without the rules the massive classifier's squares overflow; the search alone makes it right."""
    spec = PRESETS["tiny-massive"]
    found = pp.plan(
        build_bert_classifier(spec), inputs=sample_inputs(spec, rows=4), fuse=(), disable=["LN001", "EP001"],
        tolerance={"probability:sad": 5e-3},
    )  # fmt: skip
    assert found.plan.search["before"]["probability:sad"] > 0.05
    assert found.passed


KILLS = """
import os, signal
import numpy as np

calls = 0

def furthest(reference, candidate):
    global calls
    calls += 1
    if calls == 12:
        os.kill(os.getpid(), signal.SIGTERM)
    return float(np.abs(candidate - reference).max())
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_search_that_is_killed_leaves_a_valid_plan(model, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **INPUTS)
    (tmp_path / "kills.py").write_text(KILLS)
    command = [sys.executable, "-m", "precision_planner", "plan", "m.onnx", "-o", "plan", "--inputs", "x.npz"]
    command += ["--tolerance", "probability:furthest=1e-4", "--metric", "kills.py:furthest", "--json", "plan.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert "stopping" in done.stderr
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data["search"]["stopped"] == "interrupted"
    assert data["search"]["evaluations"] < 20
    assert PrecisionPlan.from_dict(data).nodes
    assert "best plan so far" in done.stdout
    onnx.checker.check_model(str(tmp_path / "plan" / "model.onnx"), full_check=True)


def test_a_second_signal_ends_at_once() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores the signal
    told: list[str] = []
    try:
        with stop_on_signals(told.append) as stop:
            assert not stop()
            signal.raise_signal(signal.SIGINT)
            assert stop()
            assert len(told) == 1
            assert "stopping" in told[0]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
