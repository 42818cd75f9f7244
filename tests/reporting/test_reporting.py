"""The reports: widths, self-containedness, escaping, numbers."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from rich.console import Console

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.reporting.diff_terminal import render_diff
from precision_planner.reporting.drawings import subgraph_drawing
from precision_planner.reporting.html import kind_of, render_html
from precision_planner.reporting.junit import render_junit
from precision_planner.reporting.markdown import render_markdown
from precision_planner.reporting.numbers import number, share, size
from precision_planner.reporting.plots import exponent_plot, layer_plot


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
    with pytest.raises(ValueError, match="none of the planner"):
        kind_of({"a": 1})


def test_the_page_begins_with_the_outputs_that_are_wrong() -> None:
    right = {f"right{at}": np.ones((4, 2, 2)) for at in range(4)}
    before = {**right, "ids": np.arange(6), "late": np.ones((4, 2))}
    after = {**right, "ids": np.array([0, 1, 2, 4, 4, 5]), "late": np.full((4, 2), np.nan)}
    page = render_html(pp.diff(before, after).to_dict())
    card = page[page.index('id="wrong"') :]
    card = re.sub("<[^>]+>", "", card[: card.index("</section>")])
    assert "late: 8 NaN or infinite values, 4 of 4 rows changed class, relative error nan" in card
    assert "ids: 1 of 6 elements changed, relative error 0.135" in card  # 1 / sqrt(0 + 1 + 4 + 9 + 16 + 25)
    assert "and 3 more, no worse" in card
    assert "right0: relative error 0" in card


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


def _svg(text: str) -> ET.Element:
    return ET.fromstring(text)


def percent(element: ET.Element, name: str) -> float:
    """A place along the plot, which is in percent of the page's width."""
    return float(element.get(name, "").removesuffix("%"))


def test_the_layer_plot_shades_islands_and_marks_the_first_divergence() -> None:
    errors: list[object] = [0.0, 1e-4, 2e-4, "inf", 0.5]
    layers = [
        {"value": f"v{at}", "node": f"n<{at}>", "op_type": "Add", "rel_l2": error, "island": at in (1, 2)}
        for at, error in enumerate(errors)
    ]
    plot = _svg(layer_plot(layers, {"value": "v3"}))
    circles = sorted(plot.iter("circle"), key=lambda circle: percent(circle, "cx"))
    kinds = [circle.get("class") for circle in circles]
    assert kinds == ["same", "point", "point", "first", "point"]
    (island,) = [rect for rect in plot.iter("rect") if rect.get("class") == "island"]
    inside = [percent(c, "cx") for c in circles][1:3]
    left = percent(island, "x")
    assert left < inside[0] < inside[1] < left + percent(island, "width")
    (line,) = plot.iter("polyline")
    assert len(line.get("points", "").split()) == 4  # what did not change is no part of the line
    heights = [float(c.get("cy", 0)) for c in circles]
    assert heights[3] < heights[4] < heights[2] < heights[1] < heights[0]


@pytest.mark.parametrize("error", ["inf", "nan"])
def test_a_plot_where_all_is_lost(error: str) -> None:
    assert _svg(layer_plot([{"value": "v", "node": "n", "op_type": "Add", "rel_l2": error}]))


def test_exponents_are_counted_and_colored_by_the_format() -> None:
    plot = _svg(exponent_plot({"-30": 3, "-20": 5, "-14": 7, "15": 2, "16": 1, "127": 4}))
    found = {rect.find("title").text: rect.get("class") for rect in plot.iter("rect")}  # type: ignore[union-attr]
    assert found["2^-30: 3"] == "bar under"
    assert found["2^-20: 5"] == "bar sub"
    assert found["2^-14: 7"] == "bar"
    assert found["2^15: 2"] == "bar"
    assert found["2^16: 1"] == "bar over"
    assert found["from 2^18: 4"] == "bar over"
    assert not exponent_plot({})
    bf16 = _svg(exponent_plot({"-30": 3, "16": 1}, "bf16"))
    assert {rect.get("class") for rect in bf16.iter("rect")} == {"bar"}


def test_a_drawing_puts_every_node_below_what_it_reads() -> None:
    names = ["a", "b", "c<d>", "e"]
    part = {
        "nodes": [{"name": n, "op_type": n, "type": "float16", "inside": n != "a", "kept": n == "e"} for n in names],
        "edges": [[0, 1, "float"], [1, 2, "float16"], [0, 3, "float16"], [2, 3, "float16"]],
        "hidden": 0,
    }
    drawing = _svg(subgraph_drawing(part))
    tops = {g.find("text").text: float(g.find("rect").get("y", 0)) for g in drawing.iter("g")}  # type: ignore[union-attr]
    assert tops["a"] < tops["b"] < tops["c<d>"] < tops["e"]
    assert len(list(drawing.iter("path"))) == 4
    assert [g.get("class") for g in drawing.iter("g")] == [
        "box outside fp16", "box inside fp16", "box inside fp16", "box inside fp32",
    ]  # fmt: skip
    assert not subgraph_drawing({"nodes": [], "edges": [], "hidden": 0})
