"""Weight policies, against numpy's and ml_dtypes' own casts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from precision_planner.errors import ConversionError
from precision_planner.rewriting import rewrite
from precision_planner.rewriting.weights import treat
from tests.rewriting.conformance_models import MODELS, text, weights

STORAGE = {TensorProto.FLOAT16: np.dtype(np.float16), TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16)}
SPECIAL = np.array(
    [
        "0",
        "-0",
        "1",
        "-1",
        "65504",
        "65519.9",
        "65520",
        "-65520",
        "1e38",
        "-3.4e38",
        "inf",
        "-inf",
        "6.10352e-5",
        "5.9604645e-8",
        "-5.9604645e-8",
        "2.9802322e-8",
        "-2.9802322e-8",
        "2.9805e-8",
        "1e-12",
        "-1e-9",
        "1e-45",
        "3.3895e38",
        "3.39617e38",
        "3.4028235e38",
    ],
    np.float32,
)


def _cast(values: np.ndarray, element: int, policy: str, role: str = "") -> tuple[np.ndarray, object]:
    treatment, change = treat("w", [values.reshape(-1)], values.size, element, policy, role)  # type: ignore[arg-type]
    return treatment.cast(values.reshape(-1)), change


@pytest.mark.parametrize("element", STORAGE)
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=64))
def test_ieee_is_the_types_own_cast(element: int, bits: list[int]) -> None:
    """IEEE 754-2019, 4.3.1: to nearest, ties to even; NaN stays NaN."""
    values = np.array(bits, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(STORAGE[element])
    got = _cast(values, element, "ieee")[0]
    nan = np.isnan(values)
    np.testing.assert_array_equal(got.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])
    assert np.isnan(got[nan].astype(np.float32)).all()


@pytest.mark.parametrize("element", STORAGE)
def test_no_policy_turns_a_sign(element: int) -> None:
    """AutoCast turns -1e-9 into +5.96e-8."""
    for policy in ("ieee", "saturate", "auto"):
        got = _cast(SPECIAL, element, policy)[0]
        np.testing.assert_array_equal(np.signbit(got.astype(np.float32)), np.signbit(SPECIAL), err_msg=policy)


def test_saturate_is_what_tensorrt_does_to_weights() -> None:
    got, change = _cast(SPECIAL, TensorProto.FLOAT16, "saturate")
    wide = got.astype(np.float64)
    finite = np.isfinite(SPECIAL)
    assert np.abs(wide[finite]).max() == 65504
    tiny = (SPECIAL != 0) & (np.abs(SPECIAL) < 2.0**-24)
    np.testing.assert_array_equal(np.abs(wide[tiny]), 2.0**-24)
    assert np.isinf(wide[~finite]).all()
    assert change is not None
    assert change.overflow == int((np.abs(SPECIAL[finite]) > 65504).sum())  # type: ignore[attr-defined]
    assert change.flushed == int(tiny.sum())  # type: ignore[attr-defined]


def test_auto_makes_a_mask_finite_with_headroom() -> None:
    """-inf that meets -inf, and 0 * inf, are NaN: two masks and a score must stay finite."""
    got, change = _cast(np.array([-3.4e38, -np.inf, 0.0, 1.0], np.float32), TensorProto.FLOAT16, "auto", "mask")
    assert got[:2].tolist() == [-30000.0, -30000.0]
    assert got[2:].tolist() == [0.0, 1.0]
    assert change.overflow == 2  # type: ignore[attr-defined]
    assert np.isfinite(np.float16(-30000) + np.float16(-30000) - np.float16(5000))


def test_auto_keeps_a_lone_epsilon_above_zero_and_rounds_the_rest() -> None:
    assert _cast(np.array([1e-12], np.float32), TensorProto.FLOAT16, "auto")[0].tolist() == [2.0**-24]
    assert _cast(np.array([1e-12, 1.0], np.float32), TensorProto.FLOAT16, "auto")[0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", ["attention_mask", "where_minus_infinity", "constant_of_shape_mask"])
def test_masks_in_graphs_are_found_and_reported(name: str) -> None:
    result = rewrite(MODELS[name](), fuse=(), verify=False)
    changes = [change for change in result.report["weights"]["changes"] if change["role"] == "mask"]
    assert len(changes) == 1
    assert changes[0]["became"] == "30000"
    tensors = [a.t for node in result.model.graph.node for a in node.attribute if a.HasField("t")]
    assert -30000.0 in [float(numpy_helper.to_array(t).reshape(-1)[0]) for t in tensors]


def test_an_infinite_bound_of_clip_is_no_mask() -> None:
    result = rewrite(MODELS["clip_of_infinite_bounds"](), fuse=(), verify=False)
    bounds = {t.name: float(numpy_helper.to_array(t)) for t in result.model.graph.initializer}
    assert bounds == {"lo": -65504.0, "hi": 65504.0}


@pytest.mark.parametrize("count", [10, 5000])
def test_inline_and_streamed_weights_are_cast_alike(count: int) -> None:
    """Payloads of 1 KiB and more are cast while they are written, smaller ones at once."""
    values = np.random.default_rng(1).standard_normal(count).astype(np.float32)
    model = weights(text("g (float[N,1] x) => (float[N,M] y) { y = Add(x, w) }"), w=values)
    typed = rewrite(model, fuse=(), verify=False).model
    got = numpy_helper.to_array(typed.graph.initializer[0])
    np.testing.assert_array_equal(got, values.astype(np.float16))


def test_float_data_and_external_data_are_cast(tmp_path: object) -> None:
    values = np.random.default_rng(1).standard_normal(4096).astype(np.float32)
    model = text("g (float[N,1] x) => (float[N,4096] y) { y = Add(x, w) }")
    model.graph.initializer.append(onnx.helper.make_tensor("w", TensorProto.FLOAT, [4096], values.tolist()))
    got = numpy_helper.to_array(rewrite(model, fuse=(), verify=False).model.graph.initializer[0])
    np.testing.assert_array_equal(got, values.astype(np.float16))
    path = f"{tmp_path}/m.onnx"
    external = weights(text("g (float[N,1] x) => (float[N,4096] y) { y = Add(x, w) }"), w=values)
    onnx.save(external, path, save_as_external_data=True, size_threshold=0, location="m.bin")
    result = rewrite(path, fuse=(), verify=False)
    files = result.save(f"{tmp_path}/m.fp16.onnx")
    assert [file.name for file in files] == ["m.fp16.onnx", "m.fp16.onnx.data"]
    again = onnx.load(files[0])
    np.testing.assert_array_equal(numpy_helper.to_array(again.graph.initializer[0]), values.astype(np.float16))


def test_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(ConversionError, match="auto, saturate or ieee"):
        rewrite(MODELS["linear"](), weights="clamp")
