"""docs/normalizations.md: every variant, what becomes of it and why, written and checked by this file.

The expected results come from the definition of the normalization in numpy float64, never from our own output.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.patterns import Match, find_patterns
from precision_planner.transforms import FusionResult, fuse_verified
from tests.patterns.variants import VARIANTS, Case, Variant

DOCS = Path(__file__).parents[2] / "docs" / "normalizations.md"
_IDS = [f"{variant.section}: {variant.name}" for variant in VARIANTS]


@cache
def _outcome(at: int) -> tuple[Case, Model, list[Match], FusionResult]:
    case = VARIANTS[at].make()
    model = Model.load(case.model)
    matches = find_patterns(model)
    result = fuse_verified(model, matches, inputs=[case.feeds], **VARIANTS[at].options)
    return case, model, matches, result


def _own(variant: Variant, matches: list[Match]) -> list[Match]:
    return [match for match in matches if match.kind == variant.kind]


def _reason(at: int) -> str:
    variant = VARIANTS[at]
    _, _, matches, result = _outcome(at)
    for match, reason in (*result.rejected, *result.islands):
        if match.kind == variant.kind:
            return reason
    return next((match.reason for match in _own(variant, matches)), "")


@pytest.mark.parametrize("at", range(len(VARIANTS)), ids=_IDS)
def test_variant(at: int) -> None:
    variant = VARIANTS[at]
    case, model, matches, result = _outcome(at)
    own = _own(variant, matches)
    assert len(own) == variant.count, [(match.kind, match.reason) for match in matches]
    assert all(match.proven == (variant.outcome != "rejected") for match in own)
    assert all((match.form == "native") == (variant.outcome == "native") for match in own)
    assert len(result.fused) == (variant.count if variant.outcome == "fused" else 0), _reason(at)
    if variant.outcome in ("island", "rejected"):
        assert _reason(at)
    if variant.outcome == "fused":
        proto = result.model.to_proto()
        onnx.checker.check_model(proto, full_check=True)
        assert result.verification["passed"] is True
        _is_right(case, model, result.model)
    else:
        assert result.model is model


def _is_right(case: Case, before: Model, after: Model) -> None:
    old, new = Session(before).run(case.feeds), Session(after).run(case.feeds)
    assert list(old) == list(new)
    for name, value in old.items():
        assert new[name].shape == value.shape
        assert new[name].dtype == value.dtype
    y = new["y"].astype(np.float64)
    expected = old["y"].astype(np.float64) if case.truth is None else case.truth
    unit = 2.0**-10 if old["y"].dtype == np.float16 else 2.0**-21
    np.testing.assert_allclose(y, expected, rtol=0, atol=8 * unit * np.abs(expected).max())


def _table() -> str:
    lines = [
        "# Normalizations: what is recognised, what is fused, and why not",
        "",
        "Written by `tests/patterns/test_table.py` (`make update-goldens`), which builds every variant, rewrites it,",
        "and compares the result with the normalization's definition in float64. *Fused* means one node;",
        "*island* means recognised and left as it is, to be kept in FP32; *rejected* means a look-alike.",
    ]
    section = ""
    for at, variant in enumerate(VARIANTS):
        if variant.section != section:
            section = variant.section
            lines += [
                "",
                f"## {section}",
                "",
                "| variant | kind | recognised | outcome | reason |",
                "|---|---|---|---|---|",
            ]
        _, _, matches, result = _outcome(at)
        own = _own(variant, matches)
        recognised = "yes" if own and all(match.proven for match in own) else "no"
        outcome = "fused" if result.fused else ("native" if own and own[0].form == "native" else variant.outcome)
        reason = "" if result.fused else _reason(at)
        cells = [variant.name, variant.kind, recognised, outcome, reason]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def test_table_in_docs() -> None:
    table = _table()
    if os.environ.get("PLANNER_UPDATE_GOLDENS"):
        DOCS.write_text(table, encoding="utf-8")
    assert DOCS.read_text(encoding="utf-8") == table, "run make update-goldens, and read the diff"
