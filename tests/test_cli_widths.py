"""What the commands print fits the terminal, at 80 and at 120 columns; in a pipe a line stays a line."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.cli.console import make_console
from precision_planner.cli.main import main
from precision_planner.reporting.lines import command_lines, hanging, middle
from precision_planner.reporting.plan_terminal import ROWS, render_plan
from tests.reporting.test_lanes import SEARCH, node, plan, region

SPEC = PRESETS["tiny-massive"]
WIDTHS = pytest.mark.parametrize("width", [80, 120])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("widths")
    onnx.save(build_bert_classifier(SPEC), made / "model.onnx")
    np.savez(made / "data.npz", **sample_inputs(SPEC, rows=2, sequence=8))
    return made


def printed(command: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(shlex.split(command)) in (0, 1)
    return "".join(capsys.readouterr())


def too_long(text: str, width: int) -> list[str]:
    return [line for line in text.splitlines() if len(line) > width]


QUICK = [
    *("help inputs", "help tolerances", "rules"),
    *("fp16 65519 1e-7 0.1 1e-12", "migrate 'trtexec --onnx=m.onnx --fp16'"),
]
SLOW = [
    "analyze model.onnx --inputs data.npz",
    "-v analyze model.onnx --inputs data.npz",
    "rewrite model.onnx -o out.onnx --force --inputs data.npz",
    "plan model.onnx -o plan --force --inputs data.npz --tolerance probability:sad=3e-3",
    "report plan",
    "diff model.onnx model.onnx --simulate fp16 --inputs data.npz --layers",
    "check model.onnx --inputs data.npz",
    "extract model.onnx --around /Softmax -o small.onnx --force",
    "rules LN001",
]


@WIDTHS
@pytest.mark.parametrize("command", QUICK)
def test_quick_commands_fit(command, width, capsys, monkeypatch):
    assert too_long(printed(command, width, capsys, monkeypatch), width) == []


@pytest.mark.slow
@WIDTHS
@pytest.mark.parametrize("command", SLOW)
def test_commands_fit(command, width, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    if command == "report plan" and not (folder / "plan").exists():
        printed(SLOW[3], width, capsys, monkeypatch)
    assert too_long(printed(command, width, capsys, monkeypatch), width) == []


def rendered(data, *, verbose: bool = False, width: int = 80) -> str:
    stream = io.StringIO()
    whole = {"fusions": [], "repairs": [], "inputs": {}, **data}
    render_plan(whole, make_console(stream, width=width), verbose=verbose)
    return stream.getvalue()


@WIDTHS
def test_a_plan_shows_ten_regions_and_says_how_many_more(width):
    name = "/encoder/layer.{}/attention/output/dense/a/rather/long/name/MatMul"
    regions = [
        region(name.format(at), "fp32", share=0.05, how="measured", without={"y:sad": 1.0 + at}) for at in range(34)
    ]
    data = plan([node(0, "fp32", "kept in FP32 by the search: so")], {**SEARCH, "regions": regions})
    text = rendered(data, width=width)
    assert too_long(text, width) == []
    assert sum("MatMul" in line for line in text.splitlines()) == ROWS
    assert f"and {34 - ROWS} more regions" in text
    everything = rendered(data, verbose=True, width=200)
    assert all(name.format(at) in everything for at in range(34))


def test_a_plans_report_shows_the_prediction():
    found = {"sad": 1.5e-3, "max_abs": 4e-4, "rel_l2": 1.1e-3, "cosine": 0.9999994, "top1": 1.0, "nonfinite": 0}
    text = rendered({**plan([node(0, "fp16")]), "predicted": {"probability": found}})
    line = next(line for line in text.splitlines() if line.startswith("probability"))
    assert line.split() == ["probability", "0.0015", "4e-4", "0.0011", "0.999999", "100%", "0"]


def test_in_a_pipe_a_line_stays_a_line(folder, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["fp16", "1e-7"]) == 0
    assert any(len(line) > 80 for line in capsys.readouterr().out.splitlines())


@given(st.lists(st.sampled_from(["a", "bc", "--opt", "--x=1", "'a b'", "/a/long/path/name.onnx"]), min_size=1))
def test_a_continued_command_is_the_command(words):
    command = " ".join(["planner", *words])
    lines = command_lines(command, 30)
    assert all(line.endswith("\\") for line in lines[:-1])
    assert shlex.split(" ".join(line.removesuffix("\\") for line in lines)) == shlex.split(command)


@given(st.text("ab /", max_size=200), st.integers(20, 90))
def test_wrapping_loses_no_word(text, width):
    wrapped = hanging(Text(text), make_console(io.StringIO(), width=width)).plain
    assert wrapped.split() == text.split() or max(map(len, text.split())) > width - 4
    assert "".join(wrapped.split()) == "".join(text.split())


def test_names_are_cut_in_the_middle():
    assert middle("/encoder/layer.0/attention/output/LayerNorm/Add_1", 30) == "/encoder/layer.…ayerNorm/Add_1"
    assert middle("short") == "short"


def test_json_is_never_wrapped(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["fp16", "0.1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "fp16"
