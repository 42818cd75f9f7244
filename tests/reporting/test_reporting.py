"""The reports: widths, self-containedness, escaping, numbers."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from rich.console import Console

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.reporting.diff_terminal import render_diff
from precision_planner.reporting.html import kind_of, render_html
from precision_planner.reporting.junit import render_junit
from precision_planner.reporting.markdown import render_markdown
from precision_planner.reporting.numbers import number, share, size


@pytest.fixture(scope="module")
def data() -> dict[str, object]:
    spec = PRESETS["tiny-massive"]
    model, inputs = build_bert_classifier(spec), sample_inputs(spec, rows=8, sequence=16)
    found = pp.diff(model, model, inputs, simulate="fp16", semantics="fused", tolerance={"sad": 1e-3}, layers=True)
    return json.loads(json.dumps(found.to_dict(), allow_nan=False))  # type: ignore[no-any-return]


class _Page(HTMLParser):
    VOID = frozenset({"meta", "link", "input", "br", "hr", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: dict[str, int] = {}
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_the_network_for_nothing(data: dict[str, object]) -> None:
    html = render_html(data)
    page = _Page()
    page.feed(html)
    assert not page.open
    assert page.links == ["data:,"]
    assert not re.search(r"url\(|@import|https?://", html)
    assert "prefers-color-scheme: dark" in html
    assert page.tags["svg"] >= 2
    assert page.tags["polyline"] == 1
    assert html.count("<tr") > len(data["layers"])  # type: ignore[arg-type]
    assert len(html) < 3_000_000
    assert "FP16 ends at 65504" in html


def test_names_are_text(data: dict[str, object]) -> None:
    evil = "<script>alert(1)</script>"
    html = render_html({**data, "verdict": evil, "outputs": {evil: data["outputs"]["logits"]}})  # type: ignore[index]
    assert evil not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_report_keeps_its_width(data: dict[str, object], width: int) -> None:
    stream = io.StringIO()
    render_diff(data, Console(file=stream, width=width, markup=False, highlight=False))
    text = stream.getvalue()
    assert text.splitlines()[0].startswith("GARBAGE")
    assert max(map(len, text.splitlines())) <= width

    flat = " ".join(text.split())
    assert "first divergence: /encoder/layer.0/attention/output/LayerNorm/Pow" in flat


def test_reports_of_what_is_not_finite() -> None:
    ones = np.ones((2, 2), np.float32)
    lost = pp.diff({"y": ones}, {"y": ones * np.nan}, tolerance=["sad=1"]).to_dict()
    for text in (render_html(lost), render_markdown(lost), render_junit(lost)):
        assert "nan" in text.lower()
    assert kind_of(lost) == "diff"
    with pytest.raises(ValueError, match="neither"):
        kind_of({"a": 1})


@pytest.mark.parametrize(
    ("value", "text"),
    [(6.2e-4, "6.2e-4"), (0.0123456, "0.0123"), (65504, "65504"), (65504.0, "65504"), (1.44e6, "1.44e6"),
     ("inf", "inf"),     (0.0, "0"), (None, "-"), (1.0, "1"), (100.0, "100"), (-3.40282e38, "-3.4e38")],
)  # fmt: skip
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text


def test_shares_are_never_rounded_up_to_everything() -> None:
    assert share(0.99999) == "99.99%"
    assert share(1.0) == "100%"
    assert size(438_000_000) == "438.0 MB"


def test_the_json_keeps_its_published_schema(data: dict[str, object]) -> None:
    import jsonschema

    schema = json.loads(resources.files("precision_planner.reporting").joinpath("diff.schema.json").read_text())
    jsonschema.validate(data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "grade": "good"}, schema)
