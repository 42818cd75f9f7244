"""The one way up: how a value shows itself in a notebook by reports that stand above it.

A diff, a plan or an analysis knows nothing of the reports, which are functions of its JSON; a notebook nevertheless
asks the value itself. So that is looked up by name, when it is asked for, and imports go on pointing one way.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def report_html(data: Mapping[str, Any], summary: str) -> str:
    """`precision_planner.reporting.notebook.notebook_html`."""
    module = importlib.import_module("precision_planner.reporting.notebook")
    return str(module.notebook_html(data, summary))


def explained(reference: Any, candidate: Any, found: Any, inputs: Any) -> dict[str, Any]:
    """`precision_planner.pipeline.explain.explain`."""
    module = importlib.import_module("precision_planner.pipeline.explain")
    return dict(module.explain(reference, candidate, found, inputs))
