"""The HTML report inside a notebook's cell: the same page, in a frame, below what every viewer can show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precision_planner.reporting.html import render_html

MOST_VALUES = 100
"""Rows of the table of values in a cell, those with the largest errors; a notebook keeps every cell it shows."""

HEIGHT = 640
"""Pixels of the frame; its lower edge can be drawn."""


def notebook_html(data: Mapping[str, Any], summary: str = "") -> str:
    """A report as a cell shows it.

    The page stands in a frame of its own, so that neither style nor script nor ids meet the notebook's or those of
    another cell. A viewer that shows no frames (a notebook that is not trusted, GitHub) still shows the summary.

    Args:
      data: a diff, an analysis or a plan, as saved in JSON.
      summary: HTML without style or script.
    """
    page = render_html(data, most_values=MOST_VALUES)
    # in single quotes, which a page hardly has: of double ones it has thousands, and each would be six letters
    source = page.replace("&", "&amp;").replace("'", "&#39;")
    return (
        f"<div>{summary}<iframe title='report' srcdoc='{source}' style='width:100%;height:{HEIGHT}px;"
        "border:1px solid #8888;border-radius:6px;resize:vertical'></iframe></div>"
    )
