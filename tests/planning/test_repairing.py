"""Repairs are carried out, run before and after, and taken back where the answer differs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from precision_planner.model import Model
from precision_planner.model.inputs import load_inputs
from precision_planner.planning import repairing
from precision_planner.planning.decide import decide
from precision_planner.transforms.repairs import apply_repairs

BLOCK = """<ir_version: 8, opset_import: ["" : 17]> g (float[2,4] x) => (float[2,4] y)
 <float[4,4] w = {2,0,0,0,0,2,0,0,0,0,2,0,0,0,0,2}, float[4] g = {1,1,1,1}> {
  a = MatMul(x, w)
  b = Add(x, a)
  y = LayerNormalization<axis = -1>(b, g)
}"""
X = {"x": np.array([[60000, 1, 2, 3], [5, 6, 7, 8]], np.float32)}


def chosen(**options):
    model = Model.load(onnx.parser.parse_model(BLOCK))
    return decide(model, load_inputs(X, model), precision="fp16", target="tensorrt-8.6", **options)


def test_one_rescaling_serves_every_rule_and_nothing_is_left_to_keep():
    found = chosen()
    (entry,) = found.repairs
    assert (entry["repair"], entry["rule"], entry["max_abs"]) == ("rescale_stream", "RG001", 0.0)
    assert entry["note"].startswith("2^-4 on ")
    assert {(d.precision, d.keep_as) for d in found.decisions.values()} == {("fp32", "compute")}
    assert {finding.rule for finding in found.findings} >= {"RG001", "RS001"}


def test_without_the_repair_the_next_alternative_is_taken():
    found = chosen(without=["rescale_stream"])
    assert found.repairs == ()
    assert {node.output for node, decision in found.decisions.items() if decision.precision == "fp32"} == {
        "a",
        "b",
        "y",
    }


def test_a_rescaling_that_changes_the_answer_is_taken_back(monkeypatch):
    def wrong(model, requests, amax=None):
        result = apply_repairs(model, requests, amax)
        for tensor in result.model.proto.graph.initializer if result.applied else ():
            if tensor.name == "g":
                tensor.raw_data = np.array([1, 1, 1, 1.001], np.float32).tobytes()
                del tensor.float_data[:]
        return result

    monkeypatch.setattr(repairing, "apply_repairs", wrong)
    found = chosen()
    assert found.repairs == ()
    assert {node.output for node, decision in found.decisions.items() if decision.precision == "fp32"} == {
        "a",
        "b",
        "y",
    }


@pytest.mark.parametrize(("text", "expected"), [("Mul(x, c)", 0.0), ("Add(x, c)", 0.5), ("Div(x, z)", np.inf)])
def test_the_difference_of_two_models(text, expected):
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y)'
    before = Model.load(onnx.parser.parse_model(head + "{ y = Identity(x) }"))
    after = Model.load(
        onnx.parser.parse_model(
            head + f"<float c = {{{1.0 if 'Mul' in text else 0.5}}}, float z = {{0}}> {{ y = {text} }}"
        )
    )
    found = repairing.largest_difference(before, after, {"x": np.array([2, -4], np.float32)})
    assert found[0] == expected
