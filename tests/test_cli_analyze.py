"""`planner analyze` as a user meets it: text, JSON, exit codes, and what it says of activations."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from examples.bert_classifier import PRESETS, build_bert_classifier
from precision_planner.cli import analyze as analyze_command
from precision_planner.cli.main import main
from precision_planner.reporting.analysis_terminal import render_analysis


@pytest.fixture(scope="module")
def massive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("analyze") / "model.onnx"
    onnx.save(build_bert_classifier(PRESETS["tiny-massive"]), path)
    return path


def analyzed(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["analyze", str(path), "--json", "-", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_alone_on_stdout_with_the_contracts_keys(massive: Path, capsys) -> None:
    data = analyzed(massive, capsys)
    assert data["schema_version"] == 1
    assert {"opset", "nodes", "initializers", "weight_bytes"} <= set(data["model"])
    assert data["model"]["opset"] == 13
    norms = data["normalizations"]
    assert len(norms) == 2 * PRESETS["tiny-massive"].layers + 1
    assert {"kind", "form", "nodes", "input", "output", "axes", "epsilon", "scale", "bias", "fusable", "reason"} <= set(
        norms[0]
    )
    assert norms[0]["epsilon"] == float(np.float32(1e-12))
    assert {"LN001", "WT001"} <= {finding["rule"] for finding in data["findings"]}
    assert data["tensorrt_warnings"]["overflow"]["count"] == 1


def test_the_weights_are_counted_as_numpy_counts_them(massive: Path, capsys) -> None:
    data = analyzed(massive, capsys, "--no-calibrate")
    rows = {row["name"]: row for row in data["weights"]["tensors"]}
    for tensor in onnx.load(massive).graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        magnitude = np.abs(numpy_helper.to_array(tensor).astype(np.float64))
        row = rows[tensor.name]
        assert row["size"] == magnitude.size
        assert row["zeros"] == int((magnitude == 0).sum())
        assert row["subnormal"] == int(((magnitude >= 2.0**-24) & (magnitude < 2.0**-14)).sum())
        assert row["underflow"] == int(((magnitude > 0) & (magnitude < 2.0**-24)).sum())
        assert row["overflow"] == int((magnitude > 65504).sum())


def test_made_up_inputs_are_measured_and_said_to_be_made_up(massive: Path, capsys) -> None:
    data = analyzed(massive, capsys)
    assert data["inputs"]["synthesized"] is True
    assert main(["analyze", str(massive)]) == 0
    assert "low confidence" in capsys.readouterr().out
    static = analyzed(massive, capsys, "--no-calibrate")
    assert static["inputs"] is None
    assert any(entry["needs_data"] for entry in static["undecided"])


def test_a_large_model_is_not_loaded_into_onnxruntime_unasked(massive: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(analyze_command, "MEASURED_BYTES", 1000)
    assert main(["analyze", str(massive)]) == 0
    said = capsys.readouterr()
    assert "give --inputs SRC" in said.err
    assert re.search(r"no activation was\s+measured, so \d+ questions of rules are open", said.out)
    assert analyzed(massive, capsys, "--inputs", "synthesized")["inputs"]["synthesized"] is True


def test_a_model_that_onnxruntime_cannot_run_is_analyzed_all_the_same(tmp_path: Path, capsys) -> None:
    graph = helper.make_graph(
        [helper.make_node("Unknown", ["x"], ["y"], domain="acme")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.array([1e5], np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "custom.onnx")
    assert main(["analyze", str(tmp_path / "custom.onnx")]) == 0
    assert "activations are not measured" in capsys.readouterr().err
    assert main(["analyze", str(tmp_path / "custom.onnx"), "--inputs", "synthesized"]) == 2


@pytest.mark.parametrize(("arguments", "code"), [(["--fail-on", "error"], 1), (["--fail-on", "warning"], 1), ([], 0)])
def test_fail_on(massive: Path, arguments: list[str], code: int) -> None:
    assert main(["analyze", str(massive), "--no-calibrate", *arguments]) == code


def test_fail_on_counts_only_rules_that_were_asked(massive: Path) -> None:
    assert main(["analyze", str(massive), "--no-calibrate", "--only", "LN001", "--fail-on", "error"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.onnx"], "nowhere.onnx does not exist"),
        (["--only", "ZZ1"], "ZZ1"),
        (["--inputs", "nowhere.npz"], "nowhere.npz"),
        (["--rules", "nowhere"], "nowhere"),
        (["--target", "tensorrt"], "unknown target"),
    ],
)
def test_mistakes_are_one_line(massive: Path, capsys, arguments: list[str], message: str) -> None:
    model = [] if arguments[0].endswith(".onnx") else [str(massive)]
    assert main(["analyze", *model, *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def test_html_is_written_whole(massive: Path, tmp_path: Path) -> None:
    assert main(["analyze", str(massive), "--no-calibrate", "--html", str(tmp_path / "a.html")]) == 0
    text = (tmp_path / "a.html").read_text()
    assert text.rstrip().endswith("</html>")
    assert "LN001" in text


def test_the_terminal_report_groups_findings_and_fits(massive: Path, capsys) -> None:
    data = analyzed(massive, capsys, "--no-calibrate")
    stream = io.StringIO()
    render_analysis(data, Console(file=stream, width=80, markup=False, highlight=False))
    text = stream.getvalue()
    assert "5 layer_normalization (decomposed, can be fused)" in text
    assert text.startswith("BREAKS IN FP16: ")
    assert text.splitlines()[1].startswith("next: planner plan ")
    assert "would warn with --fp16 of weights that are" in text
    assert text.index("error ") < text.index("warning ")
    explained = [f["assessment"] for f in data["findings"] if f.get("assessment") and f["severity"] != "info"]
    assert explained
    assert all(text.count(said) <= 1 for said in explained)
    everything = io.StringIO()
    render_analysis(data, Console(file=everything, width=80, markup=False), verbose=True)
    assert "1 weights are affected by this issue: Detected finite FP32 values which would" in everything.getvalue()
    shown = sum(finding["message"] in everything.getvalue() for finding in data["findings"])
    assert shown == len(data["findings"])
