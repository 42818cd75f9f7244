"""Every page in a headless Chromium, at 500 and 1280 pixels, light and dark: nothing cut, nothing asked for.

PLANNER_SCREENSHOTS=FOLDER keeps the pictures, to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.cli.main import main
from precision_planner.reporting.html import render_html
from tests.reporting.test_browser import FOUND
from tests.reporting.test_lanes import SEARCH, node, plan, region
from tests.reporting.webdriver import Browser, browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        FOUND is None and not os.environ.get("PLANNER_REQUIRE_BROWSER"), reason="no chromium with its chromedriver"
    ),
]
PAGES = ("analysis", "plan", "diff", "rewrite", "long")
LONG = "/a_name_without_any_break_" + "x" * 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pages")
    spec = PRESETS["tiny-massive"]
    model, inputs = build_bert_classifier(spec), dict(sample_inputs(spec, rows=4, sequence=16))
    onnx.save(model, made / "model.onnx")
    np.savez(made / "data.npz", **inputs)
    (made / "analysis.html").write_text(render_html(pp.analyze(model, inputs=inputs).to_dict()))
    diff = pp.diff(model, model, inputs, simulate="fp16", semantics="fused").explain()
    (made / "diff.html").write_text(render_html(diff.to_dict()))
    (made / "plan.html").write_text(render_html(pp.plan(model, inputs=inputs).plan.to_dict()))
    (made / "rewrite.html").write_text(render_html({"kind": "rewrite", **pp.rewrite(model, verify=False).report}))
    regions = [region(LONG + str(at), "fp32", share=0.1, how="measured", without={"y:sad": 1.0}) for at in range(14)]
    data = plan([{**node(at, "fp32" if at % 3 else "fp16"), "node": LONG} for at in range(2000)])
    (made / "long.html").write_text(render_html({**data, "search": {**SEARCH, "regions": regions}}))
    return made


@pytest.fixture(scope="module", params=["light", "dark"])
def session(request: pytest.FixtureRequest) -> Iterator[Browser]:
    assert FOUND is not None, "PLANNER_REQUIRE_BROWSER is set, and there is no chromium with its chromedriver"
    with browser(FOUND, dark=request.param == "dark") as opened:
        yield opened


@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_and_asks_for_nothing(
    session: Browser, folder: Path, page: str, width: int, request: pytest.FixtureRequest
) -> None:
    session.resize(width)
    session.requested()
    session.open(folder / f"{page}.html")
    assert session.script("return innerWidth") == width
    assert session.script("return document.documentElement.scrollWidth <= innerWidth")
    assert [url for url in session.requested() if not url.startswith(("file:", "data:"))] == []
    assert session.console() == []
    # what is drawn along the network takes the page's width, with text as large as elsewhere
    for svg in session.script(
        "return [...document.querySelectorAll('svg.fluid')].map(s => [s.getBoundingClientRect().width, "
        "Math.min(...[...s.querySelectorAll('text')].map(t => t.getBoundingClientRect().height))])"
    ):
        assert svg[0] >= 0.9 * min(width - 60, 1000)
        assert svg[1] >= 10
    kept = os.environ.get("PLANNER_SCREENSHOTS")
    if kept:
        scheme = request.node.callspec.params["session"]
        session.picture(Path(kept) / f"{page}-{width}-{scheme}.png", most=1800)


@pytest.mark.parametrize("page", ["analysis", "plan", "diff"])
def test_pictures_say_what_they_show(session: Browser, folder: Path, page: str) -> None:
    session.open(folder / f"{page}.html")
    labels = session.script(
        "return [...document.querySelectorAll('svg')].filter(s => !s.parentElement.closest('svg') "
        "&& s.getAttribute('aria-hidden') !== 'true').map(s => s.getAttribute('role') === 'img' "
        "? s.getAttribute('aria-label') : null)"
    )
    assert labels
    assert all(labels)


def test_a_pin_leads_to_its_finding(session: Browser, folder: Path) -> None:
    session.open(folder / "analysis.html")
    target = session.script(
        "const pin = document.querySelector('#ribbon a.pin.error'); const row = document.querySelector("
        "pin.getAttribute('href')); return [pin.querySelector('title').textContent, row.textContent]"
    )
    rule = target[0].partition(":")[0]
    assert rule in target[1]
    assert "error" in target[1]


def test_the_command_line_writes_a_plans_page(folder: Path) -> None:
    out = str(folder / "cli.html")
    options = ["--inputs", str(folder / "data.npz"), "--html", out]
    assert main(["plan", str(folder / "model.onnx"), "-o", str(folder / "p"), *options]) == 0
    assert 'id="lanes"' in Path(out).read_text()
