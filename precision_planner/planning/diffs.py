"""`diff` as the package exports it: a comparison that can be explained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from precision_planner.diffing import Diff, compare
from precision_planner.diffing.sources import Comparable
from precision_planner.model.sources import InputSource
from precision_planner.planning.explain import explain

__all__ = ["diff"]


def diff(reference: Comparable, candidate: Comparable, inputs: InputSource = None, **options: Any) -> Diff:
    """`precision_planner.diffing.compare`, whose result can be explained: see `Diff.explain`."""
    return replace(compare(reference, candidate, inputs, **options), explainer=explain)
