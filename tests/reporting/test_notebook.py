"""What a notebook's cell shows: the parts of the HTML report, in a frame, below a summary."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np
import onnx
import pytest

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.reporting.notebook import MOST_VALUES


class Parts(HTMLParser):
    """Counts elements by tag and class; keeps what frames hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, int] = {}
        self.frames: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name in (tag, f"{tag}.{given.get('class')}", f"#{given.get('id')}"):
            self.found[name] = self.found.get(name, 0) + 1
        if tag == "iframe":
            self.frames.append(given["srcdoc"] or "")


@pytest.fixture(scope="module")
def sample() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    spec = PRESETS["tiny-massive"]
    return build_bert_classifier(spec), dict(sample_inputs(spec, rows=6, sequence=16))


def shown(value: Any) -> tuple[Parts, Parts]:
    """(the cell, the page in its frame)."""
    cell = Parts(value._repr_html_())
    assert len(cell.frames) == 1
    assert "script" not in cell.found, "what every viewer shows has neither script"
    assert "style" not in cell.found, "nor style of its own"
    return cell, Parts(cell.frames[0])


@pytest.mark.slow
def test_a_diff_shows_the_plot_the_tables_and_after_explain_the_drawings(sample: Any) -> None:
    model, inputs = sample
    found = pp.diff(model, model, inputs, simulate="fp16", semantics="fused")
    cell, page = shown(found)
    assert cell.found["table"] == 1
    assert page.found["#layer-plot"] == page.found["#outputs"] == page.found["#layers"] == 1
    assert "#done" in page.found
    assert "svg.graph" not in page.found, "both graphs are the same"
    told = found.explain()
    assert found.explanation is None
    assert told.to_dict()["explanation"]["plan"]["status"] == "proposed"
    _, page = shown(told)
    assert page.found["svg.graph"] >= 2
    assert page.found["#weights"] == 1


def test_a_long_table_keeps_the_largest_errors(sample: Any) -> None:
    model, inputs = sample
    found = pp.diff(model, model, inputs, simulate="fp16", semantics="fused", layers=True)
    assert len(found.layers) > MOST_VALUES
    page = Parts(found._repr_html_()).frames[0]
    table = page[page.index('id="layers"') :]
    table = table[table.index("<tbody>") : table.index("</tbody>")]
    assert table.count("<tr") == MOST_VALUES
    errors = [layer.metrics.rel_l2 for layer in found.layers]
    worst = found.layers[int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))]
    assert f'title="{worst.value}"' in table
    assert f"those of {len(found.layers)} with the largest errors" in page


@pytest.mark.slow
def test_a_rewritten_candidate_and_a_plan_are_drawn_before_and_after(sample: Any) -> None:
    model, inputs = sample
    planned = pp.plan(model, inputs=inputs)
    _, page = shown(planned)
    assert page.found["svg.graph"] >= 2
    assert page.found["#done"] == page.found["#nodes"] == 1
    shown(planned.plan)
    found = pp.diff(model, planned.model, inputs, names=planned.report["names"])
    assert shown(found)[1].found["svg.graph"] >= 2


def test_an_analysis_shows_its_tables(sample: Any) -> None:
    _, page = shown(pp.analyze(sample[0]))
    assert page.found["#findings"] == page.found["#weights"] == page.found["#normalizations"] == 1


def test_names_cannot_leave_the_frame() -> None:
    hostile = 'y"></iframe><script>alert(1)</script>'
    found = pp.diff({hostile: np.ones(2, np.float32)}, {hostile: np.zeros(2, np.float32)})
    _, page = shown(found)
    assert page.found["script"] == 1, "the page's own"
    assert found.explain() is not None
