"""`planner fp16`: what it prints for ordinary values, ties, subnormals, infinities and NaN."""

from __future__ import annotations

import json

import pytest

from precision_planner.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *values: str) -> str:
    assert main(["fp16", *values]) == 0
    out = capsys.readouterr()
    assert out.err == ""
    return out.out


def test_values_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    pi, eps, big = run(capsys, "3.14", "1e-12", "70000").strip().split("\n\n")
    assert "0x4248  0 10000 1001001000" in pi
    assert "= 3.140625" in pi
    assert "flushed to zero" in eps
    assert "TensorRT's weak weights: 5.96046e-08 (2^-24)" in eps
    assert "overflowed to infinity" in big
    assert "TensorRT's weak weights: 65504" in big
    assert "= 70144" in big  # BF16


def test_negative_values_are_not_options(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "-3.4e38", "-inf", "-1", "-nan")
    assert out.count("\n\n") == 3
    assert "0xfc00" in out
    assert "-65504" in out


def test_tie_and_subnormal(capsys: pytest.CaptureFixture[str]) -> None:
    assert "a tie, to even" in run(capsys, "2049")
    assert "subnormal: below the smallest normal" in run(capsys, "6e-5")
    assert "a tie" not in run(capsys, "2049.00000000000000000001")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "--json", "65520", "nan"))["values"]
    assert [row["value"] for row in rows] == ["65520", "nan"]
    assert rows[0]["fp16"]["decoded"] == "inf"
    assert rows[0]["bf16"]["decoded"] == 65536.0


def test_not_a_number_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fp16", "1", "one"]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("\n") == 1
    assert "'one' is not a number" in out.err
