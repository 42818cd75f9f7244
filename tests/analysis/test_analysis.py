"""The Analysis value: its JSON, its tables, its figures, how it shows itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier
from precision_planner.analysis import Analysis
from precision_planner.analysis.figures import WINDOW, bits_figure, exponent_figure
from precision_planner.errors import ExternalDataError, ModelError, SelectorError
from precision_planner.numerics import value_bits

from .models import everywhere, model, value


@pytest.fixture(scope="module")
def bert() -> Analysis:
    return pp.analyze(build_bert_classifier(PRESETS["tiny"]))


def test_json_keys_of_the_contract(bert: Analysis) -> None:
    out = json.loads(json.dumps(bert.to_dict(), allow_nan=False))
    assert out["schema_version"] == 1
    assert {"opset", "nodes", "initializers", "weight_bytes"} <= set(out["model"])
    assert out["model"]["opset"] == 13
    keys = {"kind", "form", "nodes", "input", "output", "axes", "epsilon", "scale", "bias", "fusable", "reason"}
    assert all(keys <= set(norm) for norm in out["normalizations"])
    assert len(out["normalizations"]) == 5
    assert {norm["form"] for norm in out["normalizations"]} == {"decomposed"}
    assert {norm["epsilon"] for norm in out["normalizations"]} == {float(np.float32(1e-12))}
    keys = {"name", "dtype", "shape", "size", "zeros", "subnormal", "underflow", "overflow", "flushed", "to_inf", "nan",
            "inf", "min_abs", "max_abs", "rel_error"}  # fmt: skip
    assert all(keys <= set(tensor) for tensor in out["weights"]["tensors"])
    assert out["weights"]["scanned_bytes"] == sum(4 * tensor["size"] for tensor in out["weights"]["tensors"])
    warnings = out["tensorrt_warnings"]
    assert all({"count", "tensors"} <= set(warnings[name]) for name in ("subnormal", "underflow", "overflow"))
    assert len(warnings["layernorm_in_fp16"]) == 5
    assert warnings["underflow"]["count"] == len(warnings["underflow"]["tensors"]) == 5  # the five epsilons
    keys = {"rule", "severity", "subject", "message", "evidence", "action"}
    assert all(keys <= set(finding) for finding in out["findings"])


def test_findings_are_ranked_by_severity_and_then_by_error(bert: Analysis) -> None:
    findings = bert.to_dict()["findings"]
    order = ["error", "warning", "info"]
    severities = [order.index(finding["severity"]) for finding in findings]
    assert severities == sorted(severities)
    for severity in order:
        costs = [float("inf") if f["cost"] is None else f["cost"] for f in findings if f["severity"] == severity]
        assert costs == sorted(costs, reverse=True)
    noise = [f for f in findings if f.get("assessment", "").startswith("noise")]
    assert noise
    assert all(finding["severity"] == "info" for finding in noise)


def test_only_and_disable(bert: Analysis) -> None:
    proto = build_bert_classifier(PRESETS["tiny"])
    assert {finding.rule for finding in pp.analyze(proto, only=["WT001"]).findings} == {"WT001"}
    assert "WT001" not in {finding.rule for finding in pp.analyze(proto, disable=["WT001"]).findings}
    with pytest.raises(SelectorError, match="XX999"):
        pp.analyze(proto, only=["XX999"])


def test_calibration_inputs_give_ranges(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"], name="m")]
    proto = model(nodes, [value("x", ["N", 4])], [value("y", ["N", 4])], {"w": np.full(4, 1e3, np.float32)})
    found = pp.analyze(proto, inputs={"x": np.full((2, 4), 100.0, np.float32)})
    assert found.evidence.ranges is not None
    assert found.evidence.ranges[(), "y"].amax == 1e5
    assert found.to_dict()["inputs"]["synthesized"] is False
    assert pp.analyze(proto).to_dict()["inputs"] is None


def test_broken_and_missing_files_are_clear_errors_before_anything_else(tmp_path: Path) -> None:
    proto, _ = everywhere(np.random.default_rng(0))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    data = tmp_path / "m.data"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExternalDataError, match="cut short"):
        pp.analyze(path)
    data.unlink()
    with pytest.raises(ExternalDataError, match="does not exist"):
        pp.analyze(path)
    path.write_bytes(b"not a model at all")
    with pytest.raises(ModelError):
        pp.analyze(path)


def test_tables(bert: Analysis) -> None:
    pytest.importorskip("pandas")
    weights = bert.to_dataframe()
    assert len(weights) == len(bert.weights)
    assert set(weights[weights.underflow > 0].name) == set(bert.tensorrt_warnings.underflow)
    warnings = bert.to_dataframe("warnings")
    assert (warnings.groupby("category").size()[["overflow", "underflow"]] == [1, 5]).all()
    assert len(bert.to_dataframe("findings")) == len(bert.findings)
    assert len(bert.to_dataframe("normalizations")) == 5
    with pytest.raises(ValueError, match="no table"):
        bert.to_dataframe("nope")


def test_it_shows_itself(bert: Analysis) -> None:
    html = bert._repr_html_()
    assert "opset 13" in html
    assert "5 normalizations, 5 of them decomposed" in html
    assert "/Constant_15_output_0" in html
    assert "Detected subnormal FP16 values." in bert.tensorrt_warnings._repr_html_()
    tensor = bert.weights["pooler.dense.weight"]
    assert "FP16" in tensor._repr_html_()
    assert "noise" in tensor._repr_html_()
    assert "float tensors" in bert.weights._repr_html_()
    assert "0x4248" in value_bits("3.14", "fp16")._repr_html_()
    hostile = model(
        [helper.make_node("Mul", ["x", "<b>w"], ["y"])], [value("x", ["N", 1])], [value("y", ["N", 1])],
        {"<b>w": np.array([1e-6], np.float32)},
    )  # fmt: skip
    assert "<b>w" not in pp.analyze(hostile).weights._repr_html_().replace("&lt;b&gt;w", "")


def test_figures(bert: Analysis) -> None:
    pytest.importorskip("matplotlib")
    figure = bert.plot("pooler.dense.weight")
    stats = bert.weights["pooler.dense.weight"].stats
    for axis in figure.axes:
        heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axis.containers[0]}
        assert heights == stats.exponents
        assert axis.get_ylabel() == "values (count)"
    assert "exponent of the magnitude" in figure.axes[-1].get_xlabel()
    whole = bert.plot()
    first = min(whole.axes[0].containers[0], key=lambda bar: bar.get_x())
    assert round(first.get_x() + first.get_width() / 2) >= WINDOW[0]
    assert "last bar: up to 127" in whole.axes[-1].get_xlabel()  # the mask of -3.4e38
    pair = exponent_figure({"before": {0: 5}, "after": {1: 5}}, "w")
    assert [text.get_text() for text in pair.axes[0].get_legend().get_texts()] == ["before", "after"]
    bits = bits_figure([value_bits("3.14", "fp16"), value_bits("3.14", "bf16")])
    texts = [text.get_text() for text in bits.axes[0].texts]
    assert "".join(text for text in texts if text in ("0", "1"))[:16] == "0100001001001000"
    with pytest.raises(KeyError):
        bert.plot("nope")
