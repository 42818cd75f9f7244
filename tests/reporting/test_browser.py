"""The HTML report in a headless Chromium: what a reviewer who opens it from a ticket can do with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.cli.diff import command
from precision_planner.reporting.html import render_html
from tests.reporting.webdriver import ENTER, TAB, Browser, browser, find_browser

FOUND = find_browser()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        FOUND is None and not os.environ.get("PLANNER_REQUIRE_BROWSER"), reason="no chromium with its chromedriver"
    ),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    spec = PRESETS["tiny-massive"]
    onnx.save(build_bert_classifier(spec), folder / "model.onnx")
    np.savez(folder / "data.npz", **sample_inputs(spec, rows=8, sequence=16))
    model, html = str(folder / "model.onnx"), folder / "report.html"
    options = ["--simulate", "fp16", "--semantics", "fused", "--inputs", str(folder / "data.npz"), "--html", str(html)]
    result = CliRunner().invoke(command, [model, model, *options], standalone_mode=False)
    assert result.return_value == 0, result.output
    return html


@pytest.fixture(scope="module", params=["light", "dark"])
def opened(request: pytest.FixtureRequest, page: Path) -> Iterator[Browser]:
    assert FOUND is not None, "PLANNER_REQUIRE_BROWSER is set, and there is no chromium with its chromedriver"
    with browser(FOUND, dark=request.param == "dark") as session:
        session.open(page)
        yield session
        assert session.console() == []


@pytest.fixture
def fresh(opened: Browser, page: Path) -> Browser:
    opened.open(page)
    return opened


def test_the_first_screen_says_what_went_wrong_and_what_mends_it(fresh: Browser) -> None:
    for name in ("wrong", "done"):
        box = fresh.script(
            "const r = document.getElementById(arguments[0]).getBoundingClientRect();"
            "return [r.top, r.bottom, innerHeight]",
            name,
        )
        assert 0 <= box[0] < box[1] <= box[2]
    wrong = fresh.script("return document.getElementById('wrong').innerText")
    assert "rows changed class" in wrong
    assert "/encoder/layer.0/attention/output/LayerNorm/Pow" in wrong
    assert "FP16 ends at 65504" in wrong
    done = fresh.script("return document.getElementById('done').innerText")
    assert "LayerNormalization kept in FP32" in done
    assert "planner plan" in done


def test_plot_tables_and_drawings_are_there_and_seen(fresh: Browser) -> None:
    for what in ("#layer-plot", "#layers tbody tr", "#outputs tbody tr", "svg.graph", "svg.hist"):
        size = fresh.script(
            "const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.width, r.height]", what
        )
        assert min(size) > 10, what
    # a page that scrolls sideways is cramped
    assert fresh.script("return document.documentElement.scrollWidth <= innerWidth")


def test_text_stands_out_from_its_background(fresh: Browser) -> None:
    """WCAG 2.1, 1.4.3: a contrast of at least 4.5 for text of this size."""
    code = """
      const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const light = c => rgb(c).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ground = e => { const c = getComputedStyle(e).backgroundColor;
        return c === 'rgba(0, 0, 0, 0)' ? (e.parentElement ? ground(e.parentElement) : 'rgb(255, 255, 255)') : c; };
      return [...document.querySelectorAll('p, li, td, th button, dd, dt, h1, h2, summary, .dim, pre')].map(e => {
        const a = light(getComputedStyle(e).color), b = light(ground(e));
        return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.textContent.slice(0, 40)]; })
        .reduce((worst, found) => found[0] < worst[0] ? found : worst);
    """
    assert fresh.script(code)[0] >= 4.5, fresh.script(code)


def test_the_search_narrows_the_table(fresh: Browser) -> None:
    fresh.script("document.querySelector('input[data-for=layers]').focus()")
    fresh.type(*"layer.1 softmax")
    rows = fresh.script("return [...document.querySelectorAll('#layers tbody tr')].filter(r => !r.hidden).length")
    texts = fresh.script(
        "return [...document.querySelectorAll('#layers tbody tr')].filter(r => !r.hidden).map(r => r.textContent)"
    )
    assert 1 <= rows < 10
    assert all("layer.1" in text and "softmax" in text.lower() for text in texts)
    assert fresh.script("return document.querySelector('[data-shown=layers]').textContent").startswith(f"{rows} of ")


def test_a_column_is_sorted_from_the_keyboard(fresh: Browser) -> None:
    values = "return [...document.querySelectorAll('#layers tbody tr')].map(r => r.cells[4].dataset.v)"
    before = fresh.script(values)
    assert "inf" in before
    # from the search field before it, the table's fifth heading is five steps of Tab away
    fresh.script("document.querySelector('input[data-for=layers]').focus()")
    fresh.type(TAB, TAB, TAB, TAB, TAB)
    assert fresh.script("return document.activeElement.textContent") == "rel L2"
    outline = fresh.script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    fresh.type(ENTER)
    down = [float(value) for value in fresh.script(values)]
    assert down == sorted(down, reverse=True)
    fresh.type(ENTER)
    up = [float(value) for value in fresh.script(values)]
    assert up == sorted(up)
    assert len(up) == len(before)
    assert (
        fresh.script("return document.querySelector('#layers th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    )


def test_details_open_from_the_keyboard(fresh: Browser) -> None:
    fresh.script("document.querySelector('details:not([open]) summary').focus()")
    closed = fresh.script("return document.querySelectorAll('details[open]').length")
    fresh.type(ENTER)
    assert fresh.script("return document.querySelectorAll('details[open]').length") == closed + 1


def test_the_frame_of_a_notebook_cell_sorts_and_draws(fresh: Browser, tmp_path: Path) -> None:
    spec = PRESETS["tiny-massive"]
    model, inputs = build_bert_classifier(spec), dict(sample_inputs(spec, rows=6, sequence=16))
    found = pp.diff(model, model, inputs, simulate="fp16", semantics="fused").explain()
    cell = tmp_path / "cell.html"
    cell.write_text(f"<!doctype html><meta charset='utf-8'><body>{found._repr_html_()}</body>", encoding="utf-8")
    fresh.open(cell)
    inside = "const page = document.querySelector('iframe').contentDocument;"
    for what in ("svg.graph", "#layer-plot", "#layers tbody tr"):
        box = inside + "const r = page.querySelector(arguments[0]).getBoundingClientRect(); return [r.width, r.height]"
        assert min(fresh.script(box, what)) > 10, what
    fresh.script(inside + "page.querySelectorAll('#layers th button')[4].click()")
    values = fresh.script(
        inside + "return [...page.querySelectorAll('#layers tbody tr')].map(r => r.cells[4].dataset.v)"
    )
    errors = [float(value) for value in values]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) > 10


def test_names_without_a_break_stay_on_the_page(tmp_path: Path) -> None:
    assert FOUND is not None
    name = "x" * 300
    before = {name: np.ones((4, 2)), "y": np.ones(2)}
    (tmp_path / "long.html").write_text(render_html(pp.diff(before, {**before, name: np.zeros((4, 2))}).to_dict()))
    with browser(FOUND) as session:
        session.open(tmp_path / "long.html")
        assert session.script("return document.documentElement.scrollWidth <= innerWidth")
