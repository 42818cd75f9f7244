"""Names that are markup, escape sequences or anything else are text in every form of a report."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

import precision_planner as pp
from precision_planner.reporting.diff_terminal import render_diff
from precision_planner.reporting.html import render_html
from precision_planner.reporting.junit import render_junit
from precision_planner.reporting.markdown import render_markdown
from precision_planner.reporting.text import markdown_code, markdown_text, visible

NAMES = [
    "\x1b[31mred\x07", "tab\tand\nline", "p|q`r``s", "`", "<script>alert(1)</script>", "*a* _b_ __c__ [d](e) &amp;",
    "模型/naïve:0", "\u202eright to left", "back\\slash",
]  # fmt: skip
MARKDOWN = MarkdownIt("commonmark").enable("table").enable("strikethrough")


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.text = ""
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "td":
            self.cells.append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.cells[-1] += data


def shown(markdown: str) -> _Text:
    """What a reader of the Markdown sees, by an independent implementation of CommonMark."""
    page = _Text()
    page.feed(MARKDOWN.render(markdown))
    return page


def report(name: str) -> dict[str, Any]:
    found = pp.diff({name: np.ones((4, 2))}, {name: np.full((4, 2), 2.0)}, tolerance={f"{name}:sad": 1e-3})
    return found.to_dict()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_in_every_form(name: str) -> None:
    data = report(name)
    seen = visible(name)
    cases = ET.fromstring(render_junit(data)).findall("testcase")
    assert [case.get("classname") for case in cases] == [f"diff.{seen}"]
    assert [len(case.findall("failure")) for case in cases] == [1]
    markdown = shown(render_markdown(data))
    assert markdown.cells[0] == seen
    assert len(markdown.cells) == 7
    assert f"'{seen}' off by" in markdown.text
    stream = io.StringIO()
    render_diff(data, Console(file=stream, width=80, markup=False, emoji=False, highlight=False))
    assert all(char.isprintable() or char == "\n" for char in stream.getvalue())
    page = render_html(data)
    assert all(char.isprintable() or char in "\n\t" for char in page)
    assert "<script>alert" not in page


@given(st.text(min_size=1, max_size=12, alphabet=st.sampled_from("ab1_*`|<>&[]()\\~!#-+. ")))
@example("_a_ b_c")
def test_markdown_shows_what_was_written(text: str) -> None:
    text = text.strip() or "x"
    line = shown(f"### x: {markdown_text(text)} x").text
    assert " ".join(line.split()) == " ".join(f"x: {text} x".split())
    table = shown(f"| a | b |\n|---|---|\n| {markdown_code(text, in_table=True)} | c |\n").cells
    assert " ".join(table[0].split()) == " ".join(text.split())
    assert table[1] == "c"
