"""Weights in an engine's bytes: kept, rounded, transformed, not found; whole tensors, and runs in the usual layouts."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from precision_planner.engines.scan import find_keys
from precision_planner.engines.weights import Asked, WeightEvidence, find_weights

RNG = np.random.default_rng(7)
MATRIX = (RNG.standard_normal((96, 160)) * 0.03).astype(np.float32)
FILTER = (RNG.standard_normal((64, 64, 3, 3)) * 0.05).astype(np.float32)


def _engine(path: Path, *parts: bytes, between: int = 1021) -> Path:
    """Other weights around the parts, none of them aligned."""
    other = (RNG.standard_normal(1 << 17) * 0.03).astype(np.float32).tobytes()
    path.write_bytes(b"ptrt" + other[:between] + b"".join(part + other[:between] for part in parts) + other)
    return path


def _judge(path: Path, values: np.ndarray, form: str = "fp32") -> WeightEvidence:
    (found,) = find_weights(path, [Asked("w", ("node",), values, form)])  # type: ignore[arg-type]
    return found


def _dealt(values: np.ndarray) -> np.ndarray:
    """Every fourth value of an axis side by side, as tiles are dealt to threads."""
    return np.ascontiguousarray(values.reshape(-1, 4, 4, values.shape[1]).transpose(0, 3, 2, 1))


@pytest.mark.parametrize(
    ("layout", "whole"),
    [
        (lambda w: w, True),
        (lambda w: w.T, True),
        (lambda w: w.reshape(12, 8, 10, 16).transpose(0, 2, 1, 3), False),
        (lambda w: w.reshape(24, 4, 160).transpose(0, 2, 1), False),
    ],
    ids=["as it is", "transposed", "tiled", "interleaved"],
)
def test_float32_is_found_in_the_layouts_that_occur(tmp_path: Path, layout, whole: bool) -> None:
    found = _judge(_engine(tmp_path / "e", np.ascontiguousarray(layout(MATRIX)).tobytes()), MATRIX)
    assert found.verdict == "kept"
    assert found.whole == whole
    assert found.chance < 1e-60


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["half", "saturated", "bfloat16"])
def test_rounded_is_said_as_such(tmp_path: Path, kind: str, turned: bool) -> None:
    values = MATRIX.copy()
    values[3, :80] = 1e5 + np.arange(80)  # past half's range: saturated, or infinite
    values[5, :80] = 1e-8 * (1 + np.arange(80))
    with np.errstate(over="ignore"):
        stored = {
            "half": values.astype(np.float16),
            "saturated": np.clip(values, -65504, 65504).astype(np.float16),
            "bfloat16": values.astype(ml_dtypes.bfloat16),
        }[kind]
    blob = np.ascontiguousarray(stored.T if turned else stored).tobytes()
    found = _judge(_engine(tmp_path / "e", blob), values)
    assert found.verdict == "rounded"
    assert ("bfloat16" in found.how) == (kind == "bfloat16")
    assert found.chance < 1e-20


def test_every_fourth_value_side_by_side(tmp_path: Path) -> None:
    values = (RNG.standard_normal((64, 32)) * 0.1).astype(np.float32)
    found = _judge(_engine(tmp_path / "e", _dealt(values).tobytes()), values)
    assert (found.verdict, found.whole) == ("kept", False)
    assert "every 4th" in found.how


def test_bfloat16_that_was_asked_for(tmp_path: Path) -> None:
    values = MATRIX.astype(ml_dtypes.bfloat16)
    wide = values.astype(np.float32)
    assert _judge(_engine(tmp_path / "e", values.tobytes()), wide, "bf16").verdict == "kept"
    assert _judge(_engine(tmp_path / "f", wide.astype(np.float16).tobytes()), wide, "bf16").verdict == "rounded"


def test_a_winograd_kernel_s_filters_are_transformed(tmp_path: Path) -> None:
    g = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    tiles = np.einsum("ij,kcjl,ml->imck", g, FILTER.astype(np.float64), g).astype(np.float32)
    found = _judge(_engine(tmp_path / "e", np.ascontiguousarray(tiles).tobytes()), FILTER)
    assert found.verdict == "transformed"
    assert "Winograd" in found.how
    half = _judge(_engine(tmp_path / "f", np.ascontiguousarray(tiles.astype(np.float16)).tobytes()), FILTER)
    assert half.verdict == "not found"


def test_what_is_not_there_is_not_found_among_millions_of_values_like_it(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_bytes((np.random.default_rng(1).standard_normal(1 << 21) * 0.03).astype(np.float32).tobytes())
    assert _judge(path, MATRIX).verdict == "not found"
    folded = MATRIX * np.float32(1.7)  # a scale was folded into it: no evidence either way
    assert _judge(_engine(tmp_path / "f", folded.tobytes()), MATRIX).verdict == "not found"


def test_values_that_half_holds_tell_nothing(tmp_path: Path) -> None:
    values = MATRIX.astype(np.float16).astype(np.float32)
    assert _judge(_engine(tmp_path / "e", values.tobytes()), values).verdict == "indistinct"
    assert _judge(_engine(tmp_path / "f", values.tobytes()), np.zeros((8, 8), np.float32)).verdict == "indistinct"


def test_one_weight_that_half_loses_is_among_the_runs(tmp_path: Path) -> None:
    """A tensor rounded but for nothing else: the extreme value's run is looked for and is not there in float32."""
    values = MATRIX.astype(np.float16).astype(np.float32)
    values[10, 20] = 2e5
    with np.errstate(over="ignore"):
        stored = values.astype(np.float16)
    assert _judge(_engine(tmp_path / "e", stored.tobytes()), values).verdict != "kept"


def test_both_copies_count_as_kept(tmp_path: Path) -> None:
    found = _judge(_engine(tmp_path / "e", MATRIX.tobytes(), MATRIX.astype(np.float16).tobytes()), MATRIX)
    assert found.verdict == "kept"


@pytest.mark.parametrize("size", [0, 7, 8, 9, 4096])
def test_keys_are_found_at_every_byte(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    path = tmp_path / "e"
    path.write_bytes(data)
    places = range(max(size - 7, 0))
    keys = np.array([int.from_bytes(data[at : at + 8], "little") for at in places] or [], np.uint64)
    found = find_keys(path, keys)
    assert found == {int(key): data.find(int(key).to_bytes(8, "little")) for key in keys}


def test_blocks_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precision_planner.engines.scan.BLOCK", 64)
    test_keys_are_found_at_every_byte(tmp_path, 4096)
