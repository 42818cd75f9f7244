"""onnx's own cases of LayerNormalization and RMSNormalization, expanded and not: recognised, and still right.

The published outputs are the oracle.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.patterns import find_patterns
from precision_planner.transforms import fuse

KINDS = ("layer_normalization", "rms_normalization")


@cache
def _cases() -> dict[str, Any]:
    """Test cases by name; only the two modules are imported, as collecting every op takes five seconds."""
    node = importlib.import_module("onnx.backend.test.case.node")
    node._TargetOpType = None
    for module in ("layernormalization", "rmsnormalization"):
        importlib.import_module(f"onnx.backend.test.case.node.{module}")
    prefixes = tuple(f"test_{kind}_" for kind in KINDS)
    return {case.name: case for case in node._NodeTestCases if case.name.startswith(prefixes)}


def test_all_are_there() -> None:
    names = list(_cases())
    assert sum(name.startswith("test_layer_normalization_") for name in names) == 57
    assert sum(name.startswith("test_rms_normalization_") for name in names) >= 38


@pytest.mark.parametrize("name", sorted(_cases()))
def test_case(name: str) -> None:
    case = _cases()[name]
    model = Model.load(case.model)
    matches = find_patterns(model, kinds=KINDS)
    assert [match.kind for match in matches] == [KINDS["rms" in name]]
    assert matches[0].form == ("decomposed" if "_expanded" in name else "native")
    assert matches[0].proven
    result = fuse(model, matches, kinds=KINDS)
    if matches[0].form == "decomposed" and not result.fused:
        assert result.islands[0][1]
    onnx.checker.check_model(result.model.to_proto(), full_check=True)
    names = [value.name for value in model.proto.graph.input]
    for inputs, outputs in case.data_sets:
        feeds = dict(zip(names, inputs, strict=True))
        found = Session(result.model).run(feeds)
        for got, wanted in zip(found.values(), outputs, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=case.rtol, atol=case.atol)


def test_expansion_with_the_first_output_only_is_fused() -> None:
    """Where Mean and InvStdDev are no outputs, nothing else reads what the fusion removes."""
    fused = 0
    for name, case in _cases().items():
        if not name.startswith("test_layer_normalization_") or "_expanded" not in name:
            continue
        proto = onnx.ModelProto()
        proto.CopyFrom(case.model)
        del proto.graph.output[1:]
        model = Model.load(proto)
        result = fuse(model, find_patterns(model))
        assert len(result.fused) == 1, (name, result.islands)
        inputs, outputs = case.data_sets[0]
        feeds = dict(zip([value.name for value in proto.graph.input], inputs, strict=True))
        (got,) = Session(result.model).run(feeds).values()
        np.testing.assert_allclose(got, outputs[0], rtol=1e-4, atol=1e-5)
        fused += 1
    assert fused == 38
