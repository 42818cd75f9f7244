"""What a plan says of the spread of its prediction: reproducible, above the prediction, and the search's condition."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import numpy_helper, parser

import precision_planner as pp
from precision_planner.model.session import Session
from precision_planner.simulation import prepare
from precision_planner.simulation.draws import draw_feeds

CHAIN = """
  <ir_version: 8, opset_import: ["" : {opset}]>
  g (float[n, 96] x) => (float[n, 96] y) {
    a = MatMul(x, w)
    b = Tanh(a)
    c = MatMul(b, w)
    y = Add(c, x)
  }
"""
X = {"x": np.random.default_rng(1).standard_normal((8, 96)).astype(np.float32)}


def chain(opset: int = 17):
    proto = parser.parse_model(CHAIN.replace("{opset}", str(opset)))
    weight = np.random.default_rng(0).standard_normal((96, 96)).astype(np.float32) / 8
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return proto


def test_a_plan_holds_the_quantile_of_its_draws() -> None:
    planned = pp.plan(chain(), inputs=X, policy="rules", target="onnxruntime")
    spread = planned.plan.to_dict()["distribution"]
    assert (spread["draws"], spread["passed"], spread["reason"]) == (5, None, "")
    likely, predicted = spread["quantiles"]["y"], planned.plan.predicted["y"]
    # draws err by sqrt(2) of rounding to nearest, and here their spread is small
    assert 1.2 < likely["rel_l2"] / predicted["rel_l2"] < 2.5
    assert likely["cosine"] <= predicted["cosine"]
    assert likely["nonfinite"] == 0
    # by the public simulation, and numpy
    simulation = prepare(planned.model, draws=True)
    right = planned.golden[0].outputs["y"].astype(np.float64)
    with Session(simulation.model) as session:
        drawn = [session.run({**simulation.feeds(X), **draw_feeds(n)})["y"] for n in range(1, 6)]
    errors = np.array([np.linalg.norm(y - right) / np.linalg.norm(right) for y in drawn])
    logs = np.log(errors)
    expected = np.exp(logs.mean() + 2.132 * logs.std(ddof=1) * np.sqrt(1 + 1 / 5))
    assert likely["rel_l2"] == pytest.approx(expected, rel=1e-3)
    again = pp.plan(chain(), inputs=X, policy="rules", target="onnxruntime")
    assert again.plan.to_json() == planned.plan.to_json()
    assert json.loads(planned.plan.to_json())["distribution"] == spread


def test_what_cannot_be_drawn_is_said() -> None:
    kept = pp.plan(chain(), inputs=X, policy="rules", target="onnxruntime", keep_fp32=["*"], io_types="keep")
    assert kept.plan.distribution["reason"] == "nothing is rounded to a shorter type"
    assert pp.plan(chain(), inputs=X, policy="rules", verify=False).plan.distribution == {}


@pytest.mark.slow
def test_a_searched_plan_meets_its_tolerance_at_the_quantile_not_just_as_predicted() -> None:
    low = pp.plan(chain(), inputs=X, policy="rules", target="onnxruntime").plan
    predicted = low.predicted["y"]["rel_l2"]
    likely = low.distribution["quantiles"]["y"]["rel_l2"]
    between = (predicted + likely) / 2
    searched = pp.plan(chain(), inputs=X, tolerance={"rel_l2": between}, target="onnxruntime").plan
    assert searched.passed
    assert searched.distribution["passed"]
    assert searched.distribution["quantiles"]["y"]["rel_l2"] <= between
    assert any(node.precision == "fp32" for node in searched.nodes)
    roomy = pp.plan(chain(), inputs=X, tolerance={"rel_l2": likely * 1.05}, target="onnxruntime").plan
    assert all(node.precision == "fp16" for node in roomy.nodes if node.precision)
