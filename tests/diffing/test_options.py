"""Options that would be left out in silence are refused: the verdict would be of something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import precision_planner as pp
from precision_planner.cli.main import main
from precision_planner.errors import ConversionError, InputsError, ModelError
from tests.simulation.models import FLOAT, FLOAT16, chain
from tests.simulation.models import model as make

SINGLE, HALF = chain(FLOAT, 3.0), chain(FLOAT16, 3.0)
X = np.float32([1, 2, 3, 4])


@pytest.mark.parametrize(
    ("candidate", "options", "message"),
    [
        ({"y": X}, {"simulate": "fp16"}, "is no model that could be simulated; leave --simulate out"),
        (HALF, {"simulate": "bf16"}, "is typed fp16 already and simulated as it is typed; leave --simulate out"),
        (SINGLE, {"keep_fp32": ["Mul"]}, "is for an FP32 model that is simulated, and .* is not; add --simulate fp16"),
        (SINGLE, {"keep_bf16": ["Mul"], "simulate": "none"}, "add --simulate fp16"),
        (HALF, {"keep_fp32": ["Mul"]}, "is typed already; leave it out"),
        (SINGLE, {"semantics": "fused"}, "is run as it is; add --simulate fp16"),
        (SINGLE, {"weights": "saturate"}, "is run as it is; add --simulate fp16"),
        (SINGLE, {"accumulation": "fp16"}, "is run as it is; add --simulate fp16"),
        ({"y": X}, {"weights": "ieee"}, "is run as it is; add --simulate fp16"),
    ],
)
def test_an_option_without_effect_is_refused(candidate: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        pp.diff(SINGLE, candidate, {"x": X}, **options)


@pytest.mark.parametrize(
    ("candidate", "options"),
    [
        (HALF, {"semantics": "fused", "weights": "saturate", "accumulation": "fp16"}),
        (HALF, {"simulate": "fp16"}),
        (SINGLE, {"simulate": "fp16", "semantics": "fused", "keep_fp32": ["Mul"], "keep_bf16": ["Mul"]}),
        (SINGLE, {"tf32": "nearest", "semantics": "fused"}),
    ],
)
def test_what_has_an_effect_is_taken(candidate: Any, options: dict[str, Any]) -> None:
    assert pp.diff(SINGLE, candidate, {"x": X}, **options).passed


def test_layers_that_nobody_can_see_are_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "y.npz", y=X)
    assert main(["diff", str(tmp_path / "y.npz"), str(tmp_path / "y.npz"), "--layers"]) == 0
    assert capsys.readouterr().err.startswith("no layers: ")


def test_a_model_that_onnxruntime_refuses_is_not_blamed_on_the_inputs() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(SINGLE)
    twin = helper.make_node("Neg", ["x"], ["z"], name=model.graph.node[0].name)
    model.graph.node.append(twin)
    with pytest.raises(InputsError, match=r"two nodes with same node name .*; check that onnxruntime runs both"):
        pp.diff(model, model)


def test_the_model_that_stops_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    fixed = make(nodes, {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])}, {"shape": np.array([4])})
    onnx.save(fixed, tmp_path / "fixed.onnx")
    for sides in ((SINGLE, tmp_path / "fixed.onnx"), (tmp_path / "fixed.onnx", SINGLE)):
        with pytest.raises(ModelError, match=r"fixed\.onnx on batch 0: onnxruntime stopped while running"):
            pp.diff(*sides, {"x": X[:3]})
