"""The simulation against torch's own 16-bit kernels, which evaluate the typed graphs node by node."""

from __future__ import annotations

import importlib.util

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

import precision_planner as pp
from tests.simulation.models import FLOAT16, INT64, model

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]

EXACT = {"Add", "Cast", "Div", "Mul", "Pow", "Sqrt", "Sub"}
"""Operators whose result is the exact one, rounded once, whoever computes it."""


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "tiny-massive", "tiny-ffn"])
@pytest.mark.parametrize("kind", ["plain", "ieee", "fused", "bf16"])
def test_torch_and_the_simulation_agree_on_the_typed_classifiers(preset: str, kind: str) -> None:
    from evidence.cuda.cases import measure

    result = measure(preset, kind, "cpu", rows=6)
    found = result["device"]["fp32"]
    assert found["grade"] == result["simulated"]["grade"]
    assert found["nonfinite"] == result["simulated"]["nonfinite"]
    roundoff = 2.0**-9 if kind == "bf16" else 2.0**-12
    for op_type, entry in result["nodes"].items():
        assert entry["nonfinite"] == 0, (op_type, entry)
        if op_type in EXACT:
            assert entry["equal"] == entry["elements"], (op_type, entry)
        else:
            # sums in another order: few roundings fall to the other side; only where massive values cancel in a mean is
            # what is left so small that an FP32 rounding of the sum shows
            assert entry["equal"] >= (0.85 if op_type == "ReduceMean" else 0.97) * entry["elements"], (op_type, entry)
            assert entry["max_of_amax"] <= 8 * roundoff, (op_type, entry)


def test_the_evaluator_overflows_where_fp16_does_and_leaves_nothing_to_promotion() -> None:
    from evidence.cuda.evaluator import Evaluator

    squares = model(
        [helper.make_node("Mul", ["x", "x"], ["square"]), helper.make_node("Sqrt", ["square"], ["y"])],
        {"x": (FLOAT16, ["n"])},
        {"y": (FLOAT16, ["n"])},
    )
    x = np.array([3.0, 255.0, 256.0, -300.0], np.float16)
    with np.errstate(over="ignore"):
        expected = np.sqrt(x * x)
    np.testing.assert_array_equal(Evaluator(squares, "cpu").run({"x": x})["y"], expected.astype(np.float32))
    with pytest.raises(TypeError, match="mixes"):
        Evaluator(model_of_mixed_types(), "cpu").run({"x": x, "z": x.astype(np.float32)})


def model_of_mixed_types():
    graph = model(
        [helper.make_node("Mul", ["x", "z"], ["y"], name="mixed")],
        {"x": (FLOAT16, ["n"]), "z": (FLOAT16, ["n"])},
        {"y": (FLOAT16, ["n"])},
    )
    graph.graph.input[1].type.tensor_type.elem_type = 1
    return graph


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_steps_count_the_values_of_the_type(dtype: type) -> None:
    from evidence.cuda.cases import steps_apart

    bits = np.arange(1 << 16, dtype=np.uint16)
    finite = np.sort(bits.view(dtype)[np.isfinite(bits.view(dtype).astype(np.float32))])
    distinct = np.unique(finite.astype(np.float32)).astype(dtype)  # one zero
    np.testing.assert_array_equal(steps_apart(distinct[:-1], distinct[1:]), 1)
    ends = np.array([np.inf, -np.inf, np.nan, np.nan, 0.0], dtype)
    others = np.array([distinct[-1], distinct[0], np.nan, 1.0, -0.0], dtype)
    np.testing.assert_array_equal(steps_apart(ends, others), [1, 1, 0, 1 << 16, 0])


@pytest.mark.parametrize("value", [-1, 0, 2])
def test_gather_takes_negative_indices_and_scalars(value: int) -> None:
    from evidence.cuda.evaluator import Evaluator

    gather = model(
        [helper.make_node("Gather", ["x", "i"], ["y"], axis=1)],
        {"x": (FLOAT16, [2, 3]), "i": (INT64, [])},
        {"y": (FLOAT16, [2])},
    )
    x = np.arange(6, dtype=np.float16).reshape(2, 3)
    found = Evaluator(gather, "cpu").run({"x": x, "i": np.asarray(value)})["y"]
    np.testing.assert_array_equal(found, x[:, value].astype(np.float32))
    np.testing.assert_array_equal(found, pp.simulate(gather, {"x": x, "i": np.asarray(value)})["y"])
