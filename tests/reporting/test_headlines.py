"""A page's headline is the verdict that the terminal gives, in its color."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.reporting.html import render_html
from tests.planning.test_verdicts import squares

SPEC = PRESETS["tiny-massive"]


@pytest.fixture(scope="module")
def massive() -> onnx.ModelProto:
    return build_bert_classifier(SPEC)


def headline(page: str) -> tuple[str, str]:
    found = re.search(r'<p class="verdict (\w+)"[^>]*><b>([^<]*)</b>', page)
    assert found is not None
    return found[1], found[2]


def test_an_analysis_says_what_will_happen(massive: onnx.ModelProto) -> None:
    data = pp.analyze(massive, inputs=sample_inputs(SPEC, rows=4, sequence=16)).to_dict()
    page = render_html(data)
    assert headline(page) == ("error", "breaks in FP16")
    assert "activations measured on the given arrays." in page
    assert page.count('class="card tensorrt"') == sum(
        bool(data["tensorrt_warnings"][name]["count"]) for name in ("subnormal", "underflow", "overflow")
    ) + bool(data["tensorrt_warnings"]["layernorm_in_fp16"])
    grave, _, noise = page.partition('<details id="noise">')
    infos = [f for f in data["findings"] if f["severity"] == "info"]
    assert bool(noise) == bool(infos)
    assert "<td>info</td>" not in grave
    acted = next(f for f in data["findings"] if f["severity"] == "error" and f["action"].get("nodes"))
    assert acted["action"]["kind"] in grave


def test_an_analysis_without_data_is_not_green() -> None:
    model = squares(1.0)
    style, word = headline(render_html(pp.analyze(model).to_dict()))
    assert (style, word) != ("passed", "nothing breaks in FP16")
    x = {"x": np.ones((2, 8), np.float32)}
    assert headline(render_html(pp.analyze(model, inputs=x).to_dict())) == ("passed", "nothing breaks in FP16")


@pytest.mark.parametrize(
    ("verdict", "passed", "expected"),
    [
        ({"grade": "FINE", "sentence": "s", "judged_on": "j", "first_wrong": None}, None, ("passed", "FINE")),
        ({"grade": "FINE", "sentence": "s", "judged_on": "j", "first_wrong": None}, False, ("error", "FINE")),
        ({"grade": "DEGRADED", "sentence": "s", "judged_on": "j", "first_wrong": "n"}, None, ("warning", "DEGRADED")),
        ({"grade": "GARBAGE", "sentence": "s", "judged_on": "j", "first_wrong": "n"}, None, ("error", "GARBAGE")),
        ({"grade": "NONFINITE", "sentence": "s", "judged_on": "j", "first_wrong": "n"}, None, ("error", "NONFINITE")),
        (
            {"grade": "NOT JUDGED", "sentence": "s", "judged_on": None, "first_wrong": None},
            None,
            ("warning", "NOT JUDGED"),
        ),
        (None, None, ("warning", "NOT JUDGED")),
    ],
)
def test_a_plans_page_has_the_color_of_its_verdict(
    verdict: dict | None, passed: bool | None, expected: tuple[str, str]
) -> None:
    data = pp.plan(squares(1.0), inputs={"x": np.ones((2, 8), np.float32)}, target="onnxruntime").plan.to_dict()
    page = render_html({**data, "verdict": verdict, "passed": passed})
    assert headline(page) == expected
    assert ("beyond tolerance" in page) == (passed is False)
