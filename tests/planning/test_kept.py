"""What the user keeps: in FP32, as it was, and with nothing between two kept nodes that rounds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

import precision_planner as pp
from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.targets import TARGETS
from tests.planning.random_models import random_model

STRONG = sorted(name for name, target in TARGETS.items() if target.strong)
LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def check_kept(model: onnx.ModelProto, typed: onnx.ModelProto, kept: set[str], fused: set[str]) -> int:
    """Hold every kept node of the main graph to what was promised; how many were looked at."""
    index, found = GraphIndex(typed), 0
    types = infer_types(Model.load(typed), index)
    before = {node.name: node for node in model.graph.node}
    after = {node.name: node for node in typed.graph.node}
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in typed.graph.initializer}
    for name in kept - fused:
        node, now = before[name], after.get(name)
        if any(a.HasField("g") for a in node.attribute) or node.op_type == "Constant":
            continue
        assert now is not None, f"{name} is gone"
        assert (now.op_type, list(now.attribute)) == (node.op_type, list(node.attribute))
        # a selection of what is made in 16 bits is the same in any type
        read = () if now.op_type in ("ArgMax", "TopK") else now.input
        for value in (*read, *now.output):
            assert types.of(index.main, value).elem_type not in LOW, f"{name} has {value} in 16 bits"
        for old, new in zip(node.input, now.input, strict=True):
            if old in weights and new in stored:
                np.testing.assert_array_equal(stored[new], weights[old])
            maker = makers.get(old)
            if maker is not None and maker.name in kept - fused and maker.op_type != "Constant":
                assert new in after[maker.name].output, f"{new} stands between {maker.name} and {name}"
        found += 1
    return found


@pytest.mark.slow
@given(st.integers(0, 1 << 30), st.sampled_from(STRONG), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_what_the_user_keeps_stays_as_it_was(seed: int, target: str, digit: int) -> None:
    model, inputs = random_model(seed)
    kept = {node.name for at, node in enumerate(model.graph.node) if (at * 7 + digit) % 10 < 5}
    if not kept:
        return
    options = {"keep_fp32": [f"re:^({'|'.join(sorted(kept))})$"], "keep_as": "island", "verify": False}
    planned = pp.plan(model, inputs=inputs, target=target, policy="rules", **options)
    fused = {name for entry in planned.plan.fusions for name in entry["nodes"]}
    check_kept(model, planned.model.to_proto(), kept, fused)
