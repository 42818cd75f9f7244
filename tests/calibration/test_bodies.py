"""Ranges inside If, Loop and Scan: those of the flat model, or of the same arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

import precision_planner as pp
from precision_planner.calibration import NOT_RUN, SQUARES, measure
from precision_planner.errors import CalibrationError
from precision_planner.model import Model
from tests.calibration.decoder import feeds, flat, merged


def text(body: str) -> Model:
    return Model.load(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{body}'))


def test_a_merged_decoder_has_the_ranges_of_its_flat_branch() -> None:
    alone = measure(Model.load(flat()), feeds()).ranges
    both = measure(Model.load(merged()), feeds(use_cache=True))
    made = {name: found for (_, name), found in alone.items() if name not in feeds()}
    assert len(made) > 60
    for name, found in made.items():
        assert both.ranges[("logits.then_branch",), f"with/{name}"] == found
    assert both.unseen == {("logits.else_branch",): NOT_RUN}


LOOP = """
  g (float[n] x, int64 trips) => (float[n] y, float[m, n] all) {
    go = Constant <value_int = 1> ()
    more = Cast <to = 9> (go)
    hundred = Constant <value = float {100}> ()
    y, all = Loop (trips, more, x)
    <body = b (int64 i, bool c, float[n] state) => (bool again, float[n] next, float[n] seen) {
      again = Identity(c)
      next = Mul(state, hundred)
      seen = Exp(state)
    }>
  }
"""


def test_a_loop_has_the_ranges_of_all_its_iterations() -> None:
    x = np.array([0.001, -0.002], np.float32)
    found = measure(text(LOOP), {"x": x, "trips": np.array(3)})
    path = ("y.body",)
    states = [x * np.float32(100) ** number for number in range(4)]
    assert found.unseen == {}
    assert found.ranges[path, "state"].amax == pytest.approx(np.abs(states[2]).max())
    assert found.ranges[path, "next"].amax == pytest.approx(np.abs(states[3]).max())
    assert found.ranges[path, "next"].amin == pytest.approx(np.abs(states[1]).min())
    assert found.ranges[path, "next"].elements == 6
    assert found.ranges[path, "seen"].amax == pytest.approx(np.exp(np.max(states[2])))
    assert measure(text(LOOP), {"x": x, "trips": np.array(0)}).unseen == {path: NOT_RUN}


SCAN = """
  g (float[4] start, float[4, 3] xs) => (float[4] last, float[3, 4] sums) {
    last, sums = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
      body = b (float[4] state, float[4] x) => (float[4] next, float[4] out) {
        next = Add(state, x)
        out = LayerNormalization(next, next)
      }> (start, xs)
  }
"""


def test_a_scan_has_those_of_its_slices_backward_and_the_squares_inside_its_norm() -> None:
    xs = np.arange(12, dtype=np.float32).reshape(4, 3) ** 2
    found = measure(text(SCAN), {"start": np.zeros(4, np.float32), "xs": xs}).ranges
    sums = np.cumsum(xs[:, ::-1], axis=1)
    path = ("last.body",)
    assert found[path, "x"].amax == xs.max()
    assert (found[path, "next"].minimum, found[path, "next"].maximum) == (sums.min(), sums.max())
    centered = sums - sums.mean(axis=0)
    assert found[path, "out" + SQUARES].amax == pytest.approx(float((centered**2).max()))


NESTED = """
  g (float[2] x, bool deep) => (float[2] y) {
    two = Constant <value = float {2}> ()
    y = If (deep) <
      then_branch = t () => (float[2] a) {
        big = Mul(x, two)
        n = Constant <value = int64 {2}> ()
        more = Identity(deep)
        a = Loop (n, more, x) <body = b (int64 i, bool c, float[2] s) => (bool again, float[2] r) {
          again = Identity(c)
          r = Mul(s, big)
        }>
      },
      else_branch = e () => (float[2] z) { z = Neg(x) }>
  }
"""


def test_bodies_in_bodies_read_what_is_around_them() -> None:
    x = np.array([3, 5], np.float32)
    found = measure(text(NESTED), {"x": x, "deep": np.array(True)})
    loop = next(path for path, name in found.ranges if name == "r")
    assert loop[0] == "y.then_branch"
    assert found.ranges[loop, "r"].amax == float((x * (2 * x) ** 2).max())
    assert set(found.unseen) == {("y.else_branch",)}


def test_a_nan_inside_a_body_that_an_output_shows_is_named() -> None:
    model = text("""
      g (float[2] x, bool c) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] a) { a = Sqrt(x) },
                    else_branch = e () => (float[2] b) { b = Neg(x) }>
      }
    """)
    with pytest.raises(CalibrationError, match=r"NaN at a|NaN at .*Sqrt"):
        measure(model, {"x": np.array([-1, 1], np.float32), "c": np.array(True)})


def test_a_body_that_is_given_a_sequence_is_said_to_be_unseen() -> None:
    model = text("""
      g (float[2] x, bool c) => (float[2] y) {
        s = SequenceConstruct(x, x)
        zero = Constant <value = int64 {0}> ()
        y = If (c) <then_branch = t () => (float[2] a) { a = SequenceAt(s, zero) },
                    else_branch = e () => (float[2] b) { b = Neg(x) }>
      }
    """)
    found = measure(model, {"x": np.array([-1, 1], np.float32), "c": np.array(True)})
    assert found.unseen["y.then_branch",] == "s, which it reads, is no tensor"


def test_findings_inside_a_body_carry_what_was_measured() -> None:
    found = pp.analyze(merged(), inputs=feeds(use_cache=True))
    named = [f for f in found.findings if f.rule == "RN001" and "with/1/norm1" in f.subject + f.message]
    assert len(named) == 1
    # the massive channel makes squares past FP16's range
    assert named[0].evidence["inside.amax"] > 65504
    assert found.to_dict()["inputs"]["unseen_bodies"] == {"logits.else_branch": NOT_RUN}


@pytest.mark.slow
def test_a_merged_decoder_is_planned_as_cheaply_as_its_flat_branch() -> None:
    plans = [
        pp.plan(model, inputs=inputs, tolerance={"rel_l2": 2e-3}, target="tensorrt-11").plan
        for model, inputs in ((flat(), feeds()), (merged(), feeds(use_cache=True)))
    ]
    alone, both = ({node.node.removeprefix("with/"): node.precision for node in plan.nodes} for plan in plans)
    assert all(plan.passed for plan in plans)
    kept = [sum(node.precision == "fp32" for node in plan.nodes if "without/" not in node.node) for plan in plans]
    assert kept[1] <= kept[0]
    assert {name for name, kind in both.items() if kind == "fp32" and "without" not in name} <= {
        name for name, kind in alone.items() if kind == "fp32"
    }
