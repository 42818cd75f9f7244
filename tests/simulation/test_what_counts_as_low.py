"""What makes a graph a typed one, each by itself; and that nothing is simulated before rounding was seen to happen."""

from __future__ import annotations

import importlib

import numpy as np
import onnx
import pytest

from precision_planner.model import Model
from precision_planner.simulation import is_typed_low, open_simulation, prepare, simulate

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
PLAIN = "case (float[2] x) => (float[2] y) { y = Exp(x) }"
LOW = {
    "initializer": "case (float[2] x) => (float[2] y) <float16[2] w = {1, 2}> { y = Exp(x) }",
    "constant": "case (float[2] x) => (float[2] y) { c = Constant<value = float16[1] {1}>() y = Exp(x) }",
    "input": "case (float[2] x, float16[2] h) => (float[2] y) { y = Exp(x) }",
    "output": "case (float[2] x) => (float16[2] y) { y = Cast<to = 10>(x) }",
    "cast": "case (float[2] x) => (float[2] y) { h = Cast<to = 16>(x) y = Cast<to = 1>(h) }",
}


def loaded(text: str) -> Model:
    return Model.load(onnx.parser.parse_model(HEAD + text))


@pytest.mark.parametrize("what", LOW)
def test_each_kind_of_low_type_counts(what: str) -> None:
    assert is_typed_low(loaded(LOW[what]))


def test_a_model_in_fp32_is_none() -> None:
    assert not is_typed_low(loaded(PLAIN))
    assert not is_typed_low(loaded("case (int64[2] x) => (float[2] y) { y = Cast<to = 1>(x) }"))


def test_rounding_is_proven_before_anything_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    def removed() -> None:
        raise RuntimeError("rounding was removed")

    monkeypatch.setattr(importlib.import_module("precision_planner.simulation.simulate"), "prove_rounding", removed)
    feeds = {"x": np.ones(2, np.float32)}
    with pytest.raises(RuntimeError, match="rounding was removed"), open_simulation(prepare(loaded(PLAIN))):
        pass
    with pytest.raises(RuntimeError, match="rounding was removed"):
        simulate(loaded(PLAIN), feeds)
