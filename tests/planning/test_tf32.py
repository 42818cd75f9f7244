"""TF32 that truncates among what a search and a plan for a weakly typed target reckon with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from onnx import helper

import precision_planner as pp
from precision_planner.diffing import compare
from precision_planner.judging.tolerance import parse_tolerances
from precision_planner.model import Model, NodeId
from precision_planner.planning.search import (
    Budget,
    Evaluator,
    Judgement,
    PlanCosts,
    Region,
    Setting,
    Space,
    find_regions,
    search,
)
from precision_planner.planning.search.budget import Clock
from precision_planner.planning.search.evaluate import Candidate, Question
from precision_planner.planning.search.noise import Atom, NoiseModel, atoms_of
from precision_planner.typing import Decision, TypingOptions
from tests.simulation.models import FLOAT, model

RAISED = Decision("fp32", "raised", keep_as="island")


def scores() -> tuple[Model, dict[str, np.ndarray]]:
    """Two linear layers and the product of what they give, all positive: truncation's bias does not average out."""
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(0.1, 1.0, (64, 64)).astype(np.float32) for name in ("wq", "wk")}
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], name="query"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], name="key"),
        helper.make_node("MatMul", ["q", "k"], ["y"], name="scores"),
    ]
    made = model(nodes, {"x": (FLOAT, [64, 64])}, {"y": (FLOAT, [64, 64])}, weights)
    return Model.load(made), {"x": rng.uniform(0.1, 1.0, (64, 64)).astype(np.float32)}


def masked(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
    return bits.view(np.float32).astype(np.float64)


def test_a_plan_predicts_products_truncated_where_its_target_truncates(tmp_path) -> None:
    source, batch = scores()
    found = {}
    for target in ("tensorrt-8.6", "tensorrt-10", "tensorrt-11"):
        planned = pp.plan(source, target=target, inputs=batch, keep_fp32=["MatMul"], build={"tf32": True})
        found[target] = planned.plan.predicted["y"]["rel_l2"]
        planned.save(tmp_path / target)
        again = compare(source, tmp_path / target, batch)
        assert again.outputs["y"].get("rel_l2") == found[target], "planner diff simulates as the plan does"
    assert found["tensorrt-10"] == found["tensorrt-11"], "measured on 10.6: rounded to nearest"
    # the last product alone: operands masked, everything else in float64
    q, k = (batch["x"].astype(np.float64) @ source.array(w).astype(np.float64) for w in source.proto.graph.initializer)
    bias = np.linalg.norm(masked(q) @ masked(k) - q @ k) / np.linalg.norm(q @ k)
    assert found["tensorrt-8.6"] == pytest.approx(bias, rel=0.15)
    assert found["tensorrt-11"] < bias / 4
    nearest = compare(source, tmp_path / "tensorrt-8.6", batch, tf32="nearest").outputs["y"].get("rel_l2")
    assert nearest < bias / 4
    assert compare(source, tmp_path / "tensorrt-8.6", batch, tf32=False).outputs["y"].get("rel_l2") < 1e-6


def test_truncation_is_noise_that_comes_with_fp32() -> None:
    source, batch = scores()
    setting = Setting(TypingOptions("fp16"), "weak", tuple(parse_tolerances({"rel_l2": 1e-3})), tf32="truncated")
    with Evaluator(source, [batch], setting) as evaluator:
        index = evaluator.runner.index
        regions = find_regions(evaluator.runner.model, index, evaluator.types, evaluator.assign({}))
        nodes = [index.node_id(scope, at) for scope, at, _ in index.nodes()]

        def added(decisions) -> list[Atom]:
            rounding = evaluator.rounding(Candidate(decisions, tf32=True))
            atoms = atoms_of(rounding, index, regions, tf32=True, truncated=evaluator.truncated)
            return [atom for atom in atoms if atom.added]

        found = added({})
        # each operand is truncated where the scores and the layer that makes it are in FP32
        assert {(atom.region, atom.readers) for atom in found} == {(2, frozenset({2, 0})), (2, frozenset({2, 1}))}
        assert {atom.readers for atom in added({nodes[2]: RAISED})} == {frozenset({0}), frozenset({1})}
        assert not added(dict.fromkeys(nodes, RAISED))
        energies = [evaluator.answer(Question(Candidate({}), None, (atom,))).energy for atom in found]
    q, k = (batch["x"].astype(np.float64) @ source.array(w).astype(np.float64) for w in source.proto.graph.initializer)
    sides = [masked(q) @ k - q @ k, q @ masked(k) - q @ k]
    expected = [float((side**2).sum() / ((q @ k) ** 2).sum()) for side in sides]
    assert energies == pytest.approx(expected, rel=0.01)


def test_the_noise_model_adds_what_comes_and_takes_what_goes() -> None:
    atoms = [Atom(0, False, (), ()), Atom(1, False, (), ()), Atom(1, False, (), (), frozenset({0, 1}), added=True)]
    noise = NoiseModel(atoms, [4.0, 2.0, 3.0])
    assert noise.total == 6.0
    assert [noise.energy(frozenset(raised)) for raised in ((), (0,), (1,), (0, 1))] == [6.0, 2.0, 4.0, 3.0]
    assert noise.saved(frozenset({1}), frozenset({0})) == -1.0
    assert noise.saved(frozenset({0, 1}), frozenset()) == 3.0
    assert noise.of_region(1) == 2.0
    assert noise.readers(1) == frozenset()
    standing = NoiseModel(atoms, [4.0, 2.0, 3.0], frozenset({0}))
    assert standing.energy(frozenset({1})) == 4.0 + 3.0


def test_a_search_leaves_low_what_tf32_makes_worse() -> None:
    """Everything in FP32 misses the tolerance; everything but the truncating product meets it."""
    regions = tuple(Region(f"r{n}", "gemm", (NodeId((), f"v{n}"),)) for n in range(2))
    atoms = (Atom(0, False, (), ()), Atom(1, False, (), ()), Atom(1, False, (), (), frozenset({0, 1}), added=True))
    energies = dict(zip(atoms, (1.0, 0.1, 1.0), strict=True))
    noise = NoiseModel(atoms, list(energies.values()))

    def ask(questions: Sequence[Question]) -> list[Judgement]:
        answers = []
        for question in questions:
            raised = frozenset(int(node.output[1:]) for node in question.candidate.decisions)
            only = question.only
            energy = noise.energy(raised) if only is None else math.fsum(energies[atom] for atom in only)
            score = math.sqrt(energy) / 0.5
            answers.append(Judgement(score, {"y": energy}, {"y:sad": math.sqrt(energy)}, {"y": score}))
        return answers

    costs = PlanCosts([1.0, 1.0])
    space = Space(regions, costs, {}, atoms=lambda candidate: atoms, tf32_costs=costs, exact=False)
    found = search(space, ask, Clock(Budget(100)))
    assert found.passed
    assert found.state.raised == {0}
