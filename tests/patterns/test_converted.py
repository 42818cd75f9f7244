"""Normalizations as tf2onnx, Flax through jax2tf, and paddle2onnx really write them.

The graphs were made by the scripts beside them, with the true converters. What a recogniser says of each is held here;
what fusing makes of it is judged by the unfused graph in onnxruntime with its optimizations off.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.patterns import NORMALIZATIONS, find_patterns
from precision_planner.transforms import fuse_verified

FOLDER = Path(__file__).parent / "converted"
FOUND = {
    "flax_layer_norm": "layer_normalization", "flax_layer_norm_slow": "layer_normalization",
    "flax_rms_norm": "rms_normalization", "paddle_group_norm": "group_normalization",
    "paddle_instance_norm": "instance_normalization", "paddle_layer_norm": "layer_normalization",
    "paddle_layer_norm_two": "layer_normalization", "tf2onnx_keras_layer_norm": "layer_normalization",
    "tf2onnx_keras_layer_norm_4d": "layer_normalization", "tf2onnx_keras_rms": "rms_normalization",
    "tf2onnx_moments": "layer_normalization", "tf2onnx_moments_reshaped": "layer_normalization",
    "tf2onnx_rms": "rms_normalization", "tf2onnx_rms_div": "rms_normalization",
    # groups are rows of a reshaped value, normalised over what is left: over axes that are not the last ones
    "tf2onnx_keras_group_norm": "layer_normalization", "tf2onnx_group_norm_moments": "layer_normalization",
}  # fmt: skip
NEAR_MISSES = {
    "paddle_rms": "no eps is added to the variance",  # the converter dropped it
    "paddle_own_layer_norm": "no eps is added to the variance",
    "paddle_variance": "the divisor of the sum comes from",
}
NONE = {"flax_group_norm", "flax_group_norm_slow", "tf2onnx_keras_unit"}
"""Statistics of groups spread over channels by Expand, which rule VR001 judges; a unit norm."""


def test_every_graph_is_held() -> None:
    assert {path.stem for path in FOLDER.glob("*.onnx")} == FOUND.keys() | NEAR_MISSES.keys() | NONE


@pytest.mark.parametrize("name", FOUND)
def test_found_and_fused_right(name: str) -> None:
    source = Model.load(FOLDER / f"{name}.onnx")
    (match,) = find_patterns(source, kinds=NORMALIZATIONS)
    assert (match.kind, match.proven) == (FOUND[name], True)
    rng, constants = np.random.default_rng(1), {tensor.name for tensor in source.proto.graph.initializer}
    feeds = {  # tf2onnx makes inputs of what a function captures
        value.name: rng.normal(3, 2, [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for value in source.proto.graph.input
        if value.name not in constants
    }
    result = fuse_verified(source, [match], inputs=[feeds])
    right, fused = (next(iter(Session(model).run(feeds).values())) for model in (source, result.model))
    np.testing.assert_allclose(fused, right, rtol=2e-4, atol=2e-4)
    if match.kind == "layer_normalization" and not match.reason:
        assert len(result.fused) == 1


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_say_why(name: str) -> None:
    matches = find_patterns(Model.load(FOLDER / f"{name}.onnx"), kinds=NORMALIZATIONS)
    assert [match.proven for match in matches] == [False]
    assert matches[0].reason.startswith(NEAR_MISSES[name])
