"""Rounding by chance: exact values stay, means are right, errors sqrt(2) times those of rounding to nearest."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from precision_planner.model import GraphIndex, Model
from precision_planner.model.session import Session
from precision_planner.simulation import RoundingPlan, all_low, apply_rounding, prepare
from precision_planner.simulation.draws import MOST_DRAWS, dithered, draw_feeds
from precision_planner.simulation.rounding import cast_pair
from precision_planner.simulation.tf32 import rounding_to_tf32_nodes
from precision_planner.simulation.variants import BlockRunner

TYPES = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}


def rounding(nodes) -> Model:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y])
    return Model.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


def drawn(model: Model, x: np.ndarray, draw: int) -> np.ndarray:
    with Session(dithered(model)) as session:
        return session.run({"x": x, **draw_feeds(draw)})["y"]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("draw", [1, MOST_DRAWS])
def test_what_the_type_holds_stays_what_it_is(kind: int, draw: int) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(TYPES[kind]).astype(np.float32)
    np.testing.assert_array_equal(drawn(rounding(cast_pair("x", "y", kind)), x, draw), x)


@pytest.mark.parametrize("kind", TYPES)
def test_errors_are_those_of_stochastic_rounding(kind: int) -> None:
    x = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    nearest = x.astype(TYPES[kind]).astype(np.float64) - x
    model = rounding(cast_pair("x", "y", kind))
    one, other = (drawn(model, x, draw).astype(np.float64) - x for draw in (1, 2))
    for error in (one, other):
        assert np.sqrt((error**2).mean() / (nearest**2).mean()) == pytest.approx(np.sqrt(2), rel=0.03)
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(error.size)
    # up or down, independently: given x the draws differ by p (1 - p), which makes half of the variance over all x
    assert np.corrcoef(one - nearest, other - nearest)[0, 1] < 0.4
    neighbors = x.astype(TYPES[kind]).view(np.int16).astype(int)
    steps = np.abs((x + one).astype(np.float32).astype(TYPES[kind]).view(np.int16).astype(int) - neighbors)
    assert steps.max() == 1


def test_infinity_nan_and_masks_become_what_they_become() -> None:
    x = np.array([np.inf, -np.inf, -3.4e38, 7e4, np.nan, 1e-9], np.float32)
    with np.errstate(over="ignore"):
        right = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(drawn(rounding(cast_pair("x", "y", TensorProto.FLOAT16)), x, 3), right)


def test_operands_of_tf32_are_drawn_too() -> None:
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    error = drawn(rounding(rounding_to_tf32_nodes("x", "y")), x, 1).astype(np.float64) - x
    nearest = x.astype(np.float16).astype(np.float64) - x  # as many bits, for what is no subnormal
    usual = np.abs(x) > 2.0**-14
    ratio = np.sqrt((error[usual] ** 2).mean() / (nearest[usual] ** 2).mean())
    assert ratio == pytest.approx(np.sqrt(2), rel=0.05)


CHAIN = """
  <ir_version: 8, opset_import: ["" : 13]>
  g (float[n, 64] x) => (float[n, 64] y) {
    a = MatMul(x, w)
    b = Tanh(a)
    c = MatMul(b, w)
    y = Add(c, x)
  }
"""


def chain() -> tuple[Model, np.ndarray]:
    random = np.random.default_rng(0)
    proto = parser.parse_model(CHAIN)
    weight = random.standard_normal((64, 64)).astype(np.float32) / 8
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return Model.load(proto), random.standard_normal((4, 64)).astype(np.float32)


def test_draws_are_the_same_in_blocks_and_whole_and_each_time() -> None:
    model, x = chain()
    plan = all_low(model, GraphIndex(model.proto), TensorProto.FLOAT16)
    with BlockRunner(model, [{"x": x}], block_nodes=1, threads=1) as runner:
        nearest = runner.run(plan)[0]["y"]
        found = [runner.run(RoundingPlan(plan.values, plan.edges, plan.weights, draw=n))[0]["y"] for n in (1, 2, 1)]
    np.testing.assert_array_equal(found[0], found[2])
    assert (found[0] != found[1]).any()
    assert (found[0] != nearest).any()
    whole = apply_rounding(model, RoundingPlan(plan.values, plan.edges, plan.weights, draw=1))
    with Session(whole, threads=1) as session:
        np.testing.assert_array_equal(session.run({"x": x, **draw_feeds(1)})["y"], found[0])


def test_a_simulation_takes_draws_where_its_opset_has_what_they_take() -> None:
    model, x = chain()
    simulation = prepare(model, draws=True, accumulation="fp16")
    with Session(simulation.model) as session:
        one, two = (session.run({**simulation.feeds({"x": x}), **draw_feeds(n)})["y"] for n in (1, 2))
    assert (one != two).any()
