"""docs/clients/java/HalfFloat.java by javac and java, against numpy's halves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "docs" / "clients" / "java" / "HalfFloat.java"

pytestmark = pytest.mark.slow

HALVES = np.arange(65536, dtype=np.uint32).astype(np.uint16)


@pytest.fixture(scope="module")
def java(tmp_path_factory):
    """Run the compiled test program: (mode, array) -> bytes."""
    if shutil.which("javac") is None or shutil.which("java") is None:
        pytest.skip("no JDK on this machine (javac and java)")
    classes = tmp_path_factory.mktemp("classes")
    driver = Path(__file__).parent / "java" / "HalfFloatTest.java"
    command = ["javac", "-Werror", "-Xlint:all,-options", "--release", "8", "-d", classes, SOURCE, driver]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stderr

    def run(mode: str, array: np.ndarray) -> bytes:
        (classes / "given.bin").write_bytes(array.tobytes())
        command = ["java", "-cp", classes, "HalfFloatTest", mode, classes / "given.bin", classes / "made.bin"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
        return (classes / "made.bin").read_bytes()

    return run


def neighbours() -> np.ndarray:
    """Of every half and every tie between two: the float32 and the next ones on either side, as bits."""
    finite = HALVES.view(np.float16)[np.isfinite(HALVES.view(np.float16))]
    values = np.sort(finite.astype(np.float64))
    ties = (values[:-1] + values[1:]) / 2
    edges = [65519.99609375, 65520.0, 65536.0, 2.0**-25, 2.0**-26, 2.0**-149, 3.4028234663852886e38, np.inf]
    centre = np.concatenate([values, ties, edges, np.negative(edges)]).astype(np.float32).view(np.uint32)
    return np.unique(np.concatenate([centre, centre + np.uint32(1), centre - np.uint32(1)]))


def test_decodes_all_patterns(java):
    made = np.frombuffer(java("decode", HALVES), "<f4")
    expected = HALVES.view(np.float16).astype(np.float32)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(made.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])
    assert np.isnan(made[nan]).all()


def test_encodes_what_it_decoded_to_the_same_bits(java):
    values = HALVES.view(np.float16).astype(np.float32)
    made = np.frombuffer(java("encode", values), "<u2")
    nan = np.isnan(values)
    np.testing.assert_array_equal(made[~nan], HALVES[~nan])
    assert np.isnan(made[nan].view(np.float16)).all()


def test_rounds_float32_as_numpy_does(java):
    bits = neighbours()
    assert len(bits) > 300_000
    with np.errstate(over="ignore", invalid="ignore"):
        expected = bits.view(np.float32).astype(np.float16)
    made = np.frombuffer(java("encode", bits), "<u2")
    nan = np.isnan(expected)
    np.testing.assert_array_equal(made[~nan], expected.view(np.uint16)[~nan])
    assert np.isnan(made[nan].view(np.float16)).all()


def test_what_the_copied_recipe_gets_wrong(java):
    made = np.frombuffer(java("encode", np.array([0.0, -0.0, 3.14, 1e-7, 70000.0], np.float32)), "<u2")
    assert [hex(bits) for bits in made] == ["0x0", "0x8000", "0x4248", "0x2", "0x7c00"]
