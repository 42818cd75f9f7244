"""The measurements with TensorRT 8.6: what TF32 keeps, what the tables are made of, what is merged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from benchmarks.rivals.__main__ import from_gpu, of_steps
from evidence.tensorrt86 import kernels, probe_table, tf32
from evidence.tensorrt86.table import holds

NORMAL = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=2.0**-100, max_value=2.0**100)


def with_ten_bits(value: float, integer: Any) -> float:
    """A number with ten bits behind the point of its significand, in double arithmetic."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(float(integer(math.ldexp(fraction, 11))), exponent - 11)


@given(NORMAL, st.sampled_from([-1.0, 1.0]))
@example(1 + 2.0**-11, 1.0)  # ties go to even: down here, up below
@example(1 + 3 * 2.0**-11, -1.0)
@example(2 - 2.0**-23, 1.0)  # up to the next power of two
def test_tf32_has_ten_bits_behind_the_point(value: float, sign: float) -> None:
    array = np.array([sign * value], np.float32)
    assert tf32.rounded(array)[0] == with_ten_bits(sign * value, round)
    assert tf32.truncated(array)[0] == with_ten_bits(sign * value, math.trunc)


def test_an_answer_in_tf32_rounds_operands_and_truncates_what_softmax_weighs() -> None:
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((4, 8), np.float32), "v": rng.standard_normal((8, 6), np.float32)}
    inputs["w"] = rng.standard_normal((6, 5), np.float32)
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"]),
        helper.make_node("MatMul", ["p", "v"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    given_inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name, a in inputs.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 5])
    model = helper.make_model(
        helper.make_graph(nodes, "g", given_inputs, [y]), opset_imports=[helper.make_opsetid("", 17)]
    )
    onnx.checker.check_model(model)

    def near(array: np.ndarray, integer: Any = round) -> np.ndarray:
        return np.vectorize(lambda value: with_ten_bits(value, integer))(array.astype(np.float64))

    e = np.exp(inputs["x"].astype(np.float64))
    p = e / e.sum(axis=1, keepdims=True)
    # the tolerance is far below TF32's step of 2^-11; no product lies that near to a tie with this seed
    for truncate, integer in ((False, round), (True, math.trunc)):
        expected = near(near(p) @ near(inputs["v"], integer)) @ near(inputs["w"])
        np.testing.assert_allclose(tf32.answer(model, inputs, truncate), expected, rtol=1e-5, atol=1e-6)


def csv(path: Path, *launches: tuple[str, str]) -> Path:
    lines = ["==PROF== Connected", '"ID","Kernel Name","Metric Unit","Metric Value"']
    path.write_text("\n".join([*lines, *(f'"0","{name}","ns","{time}"' for name, time in launches)]) + "\n")
    return path


def test_the_second_inference_counts_and_attention_is_around_softmax(tmp_path: Path) -> None:
    product = "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize64x64x64_stage3_execute_kernel_trt"
    names = [product, product, "__myl_bb0_7_ResMulAddMaxSubExpSumDivMul_com_vec", product, product]
    names += [
        "__myl_bb0_9_DivCasErfCasAddMulMul_com",
        "__myl_bb0_3_CasResTra_com",
        "__myl_bb0_1_AddMaxSubExpSumDiv_com",
    ]
    path = csv(tmp_path / "a.csv", *((n, "9") for n in names), *((n, "1,500") for n in names))
    found = kernels.read(path)
    assert {time for _, time in found} == {1.5}
    assert found[0][0] == "sm80_xmma_gemm_f16f16_f16f16_f16_nn"
    weights, attention, softmax, gelu, _, other = kernels.PARTS
    assert kernels.parts(found) == [weights, attention, softmax, attention, weights, gelu, other, softmax]
    assert kernels.shares({"a": found}).endswith("| 1: 2 |")  # one Cast that is a kernel of its own
    with pytest.raises(ValueError, match="two equal inferences"):
        kernels.read(csv(tmp_path / "b.csv", (names[0], "1"), (names[2], "1")))


@pytest.mark.parametrize(
    ("mb", "error", "said"),
    [
        (184.0, 5e-7, "FP32"),
        (184.0, 2.2e-4, "TF32"),
        (184.0, 3e-4, "mixed, FP32 weights"),
        (97.0, 2.2e-4, "mixed"),
        (184.0, None, "mixed"),
    ],
)
def test_what_an_engine_came_out_as(mb: float, error: float | None, said: str) -> None:
    def engine(kind: str, size: float, mean: float | None) -> dict[str, Any]:
        return {"kind": kind, "engine_mb": size, "outputs": {"probability": {"sad_mean": mean}}}

    plain = {"fp32": [engine("fp32", 184.2, 5e-7)], "tf32": [engine("tf32", 183.6, 2.2e-4)]}
    assert holds(engine("plan", mb, error), plain) == said


def test_a_probe_that_failed_replaces_no_figures() -> None:
    kept = [{"probe": "a", "predicted": {}, "fp16": {"rel_l2": 1.0}}, {"probe": "b", "error": "old"}]
    new = [{"probe": "a", "error": "no time left"}, {"probe": "c", "error": "no time left"}]
    assert probe_table.merge(kept, new) == [*kept, new[1]]


def test_a_probe_keeps_the_engines_that_are_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_table, "slim", lambda result: result)
    kept = [{"probe": "a", "predicted": {"x": 1}, "fp16": {"rel_l2": 1.0}, "half": {"rel_l2": 2.0}}]
    (found,) = probe_table.merge(kept, [{"probe": "a", "predicted": {"x": 2}, "half": {"rel_l2": 3.0}, "tf32": {}}])
    assert found == {
        "probe": "a", "predicted": {"x": 2}, "fp16": {"rel_l2": 1.0}, "half": {"rel_l2": 3.0}, "tf32": {}
    }  # fmt: skip


def test_why_a_product_was_not_built() -> None:
    one = "TensorRT built no engine; its log says why 10: Could not find any implementation for node MatMul_v0. 10: ["
    two = "2: Assertion !n->candidateRequirements.empty() failed. No supported formats for reshape_after_MatMul_v0 2:"
    assert probe_table.reason(one) == "Could not find any implementation for node MatMul_v0"
    assert probe_table.reason(two) == "No supported formats for reshape_after_MatMul_v0"


def step(layers: int, passed: bool, sad: float) -> dict[str, Any]:
    return {"layers": layers, "gemms": 1, "passed": passed, "seconds": 1.0, "sad": sad}


def test_a_search_says_what_its_answer_came_out_as_and_whether_it_can_be_repeated() -> None:
    steps = [step(99, True, 1e-6), step(31, False, 0.7), step(31, True, 2e-6), step(30, False, 0.7)]
    found = of_steps({"steps": steps, "fp32": 31, "sad": 2e-6, "note": "ended after 170 s"})
    assert found["came_out"] == "FP32"
    said = "ended after 170 s; all 99 layers marked: 1e-06; the same layers failed in 1 of 2 builds"
    assert found["note"] == said
    assert of_steps({"steps": [], "fp32": None, "sad": None, "note": ""}) == {"came_out": "mixed", "note": ""}


@pytest.mark.parametrize(
    ("mb", "sad", "said"), [(184.0, 7e-4, "TF32, by its size"), (120.0, 7e-4, "mixed"), (184.0, 2e-6, "FP32")]
)
def test_a_plan_says_what_its_engine_came_out_as(mb: float, sad: float, said: str) -> None:
    def line(kind: str, size: float, error: float) -> dict[str, Any]:
        return {"case": "m", "kind": kind, "engine_mb": size, "outputs": {"probability": {"sad": error}}}

    about = {"constraints": 3, "fp32_gemms": 1, "evaluations": 9, "seconds": 2.0, "predicted_sad": 1.26e-3}
    found = from_gpu([{"planner": True, "case": "m", **about}, line("fp16", 92.0, 1.3), line("plan", mb, sad)])
    assert [(result["tool"], result["came_out"]) for result in found] == [("--fp16", "FP16"), ("planner", said)]
    assert found[1]["note"] == "predicted 0.0013"
